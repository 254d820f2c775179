"""One question to an authorization service over gRPC, which the supervisor asks.

Owns:   the facts about the request that the service is told.
Not:    the way to the supervisor (check_book), the call (agent.supervisor.authorizers), what follows (ext_authz).
Source: envoy/service/auth/v3/attribute_context.proto; Envoy's check_request_utils.cc.
"""

import random
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from agent.filters.checks import Shown, change_request, denial_fields, is_sound
from agent.model.ext_authz import CheckAnswer, CheckPeer, CheckQuestion, CheckVerdict, ExternalAuthorization
from agent.proxy.authorization import names_of
from agent.proxy.question_book import Question

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from agent.proxy.ext_authz import Check
    from agent.proxy.http_connection import HttpConnection

_SERVICE: Final = b"x-envoy-downstream-service-cluster"
_ID_BITS: Final = 64


class GrpcQuestion:
    """Tells its check one end, unless it is closed before."""

    __slots__ = ("_body", "_check", "_config", "_exchange", "_fields", "_question")

    def __init__(self, check: "Check", exchange: "Exchange", config: ExternalAuthorization, shown: Shown) -> None:
        self._check = check
        self._exchange = exchange
        self._config = config
        self._fields = shown
        self._body: bytes | None = None
        self._question: Question | None = None

    def begin(self, body: bytes | None, partial: bytes) -> None:
        """Ask. `partial`: see agent.filters.checks."""
        asked = self._facts(body, partial)
        book = self._exchange.chain.runtime.checks
        self._question = book.ask(asked, self._hear)
        if self._question is None:
            self._check.failed()

    def close(self) -> None:
        """Nobody waits any more."""
        question, self._question = self._question, None
        if question is not None:
            question.forget()

    def _facts(self, body: bytes | None, partial: bytes) -> CheckQuestion:
        exchange, config = self._exchange, self._config
        head, connection, chain = exchange.head, exchange.connection, exchange.chain
        passage = exchange.passage
        found = passage.metadata if passage is not None else {}
        return CheckQuestion(
            number=0,
            cluster=config.cluster,
            identity=chain.asking_identity,
            authority=config.authority,
            call_headers=config.call_headers,
            timeout_s=config.timeout_s,
            source=CheckPeer(
                address=connection.peer_address,
                principal=_principal(connection),
                service=head.headers.index.get(_SERVICE, b""),
                certificate=_certificate(connection) if config.certificate else "",
            ),
            destination=CheckPeer(
                address=connection.local_address, principal=chain.own_id.encode() if connection.secure else b""
            ),
            request_id=str(random.getrandbits(_ID_BITS)),
            time_s=exchange.started + chain.wall_offset_s,
            method=head.method,
            scheme=head.scheme,
            host=head.authority,
            path=head.path,
            protocol=f"HTTP/1.{head.version_minor}",
            headers=self._fields.fields(head, partial),
            size=exchange.received_bytes if body is not None else 0,
            body=body,
            as_bytes=config.body is not None and config.body.as_bytes,
            context=config.context,
            metadata={name: dict(found[name]) for name in config.metadata if name in found},
        )

    def _hear(self, answer: CheckAnswer | None) -> None:
        self._question = None
        check = self._check
        if answer is None:
            check.failed()
            return
        sound = all(is_sound(change) for change in answer.answer)
        match answer.verdict:
            case CheckVerdict.OK:
                hcm = self._exchange.chain.hcm
                fields, size = hcm.max_headers_count, hcm.max_request_headers_bytes
                strict = self._config.validates
                if sound and change_request(self._exchange.head, answer, fields, size, strict=strict):
                    check.allowed((), answer.answer, answer.metadata)
                else:
                    check.invalid()
            case CheckVerdict.DENIED if sound:
                check.denied(answer.status, answer.body, denial_fields(answer.answer), answer.metadata)
            case CheckVerdict.ERROR if sound:
                check.failed(answer.status, answer.body, denial_fields(answer.answer))
            case _:
                check.invalid()


def _principal(connection: "HttpConnection") -> bytes:
    if connection.names is None:
        connection.names = names_of(connection)
    return connection.names[0] if connection.names else b""


def _certificate(connection: "HttpConnection") -> str:
    """The client's, PEM, URL-encoded; "" when it has shown none."""
    tls_object = connection.transport.get_extra_info("ssl_object") if connection.secure else None
    encoded: bytes | None = tls_object.getpeercert(True) if tls_object is not None else None
    return quote(ssl.DER_cert_to_PEM_cert(encoded), safe="") if encoded else ""
