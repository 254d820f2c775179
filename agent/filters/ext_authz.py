"""What an authorization service over HTTP is shown of a request, and what of its answer counts.

Owns:   the head of the question, which headers of the answer go where.
Not:    asking (agent.proxy.ext_authz_http), services over gRPC (checks).
Source: Envoy's ext_authz_http_impl.cc: Host, Method, Path, Content-Length and Authorization are always shown; of a
        denial without a list everything but what belongs to the connection goes to the client.
"""

from typing import Final

from agent.codec.head import Headers, RequestHead, name_of, value_of
from agent.model.ext_authz import ExternalAuthorization
from agent.model.matchers import StringMatcher
from agent.router.matchers import TextMatcher

_ALWAYS: Final = (b"authorization",)
# Of an answer, never copied: they are about its own connection and body.
_OWN: Final = frozenset(
    {b"connection", b"content-length", b"transfer-encoding", b"keep-alive", b"upgrade", b"te", b"trailer", b"host",
     b"proxy-connection", b"date", b"server"}
)  # fmt: skip
_WITH_A_LIST: Final = frozenset({b"www-authenticate", b"location", b"proxy-authenticate"})
# What a service must not change of a request: where it goes, and how its body is framed.
_KEPT: Final = frozenset({*_OWN, b"expect"})
PARTIAL_BODY: Final = b"x-envoy-auth-partial-body"
Fields = tuple[tuple[bytes, bytes], ...]


class Selection:
    """Some header names."""

    __slots__ = ("_matchers",)

    def __init__(self, matchers: tuple[StringMatcher, ...]) -> None:
        """Raises re2.error for a bad regex."""
        self._matchers = tuple(TextMatcher(one) for one in matchers)

    def __bool__(self) -> bool:
        return bool(self._matchers)

    def has(self, name: bytes) -> bool:
        """By lower-case name."""
        return any(matcher.matches(name) for matcher in self._matchers)


class Questions:
    """The questions of one filter."""

    __slots__ = (
        "_added",
        "_appended",
        "_hidden",
        "_prefix",
        "_shown",
        "_timeout_ms",
        "_to_client",
        "_to_client_allowed",
        "_to_upstream",
    )

    def __init__(self, config: ExternalAuthorization) -> None:
        """Raises re2.error for a matcher with a bad regex."""
        self._prefix = config.path_prefix.encode()
        self._timeout_ms = b"%d" % round(config.timeout_s * 1000)
        self._added = tuple((name.encode(), value.encode()) for name, value in config.added_headers)
        self._shown = Selection(config.request_headers or ())
        self._hidden = Selection(config.disallowed_headers)
        self._to_upstream = Selection(config.to_upstream)
        self._appended = Selection(config.appended_upstream)
        self._to_client = Selection(config.to_client) if config.to_client is not None else None
        self._to_client_allowed = Selection(config.to_client_allowed)

    def head(self, request: RequestHead, body: bytes, partial: bytes) -> RequestHead:
        """What the service is sent before `body`. `partial`: whether that is not all, b"" = no body is shown."""
        headers = Headers()
        headers.add(b"host", request.authority)
        for line in request.headers.lines:
            name = name_of(line)
            if name in _OWN or name in (b"content-length", PARTIAL_BODY):
                continue
            if (name in _ALWAYS or self._shown.has(name)) and not self._hidden.has(name):
                headers.append(name, value_of(line))
        for name, value in self._added:
            headers.set(name, value)
        if partial:
            headers.set(PARTIAL_BODY, partial)
        headers.set(b"content-length", b"%d" % len(body))
        headers.set(b"x-envoy-internal", b"true")
        headers.set(b"x-envoy-expected-rq-timeout-ms", self._timeout_ms)
        made = RequestHead(request.method, self._prefix + request.path, request.authority, headers)
        made.scheme = request.scheme
        made.content_length = len(body)
        return made

    def allow(self, request: RequestHead, answer: Headers) -> Fields:
        """Change the request as an answer that allows it says; what the client is told of it later."""
        for name, values in _grouped(answer).items():
            if name in _KEPT:
                continue
            if self._to_upstream.has(name):
                request.headers.set(name, values[-1])
            elif self._appended.has(name):
                for value in values:
                    request.headers.append(name, value)
        return self._chosen(answer, self._to_client_allowed)

    def deny(self, answer: Headers) -> Fields:
        """What the client is told of an answer that denies."""
        if self._to_client is None:
            return tuple((name, value) for name, value in _pairs(answer) if name not in _OWN)
        listed = self._to_client
        return tuple(
            (name, value)
            for name, value in _pairs(answer)
            if name not in _OWN and (name in _WITH_A_LIST or listed.has(name))
        )

    @staticmethod
    def _chosen(answer: Headers, selection: Selection) -> Fields:
        if not selection:
            return ()
        return tuple((name, value) for name, value in _pairs(answer) if name not in _OWN and selection.has(name))


def _pairs(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name_of(line), value_of(line)) for line in headers.lines]


def _grouped(headers: Headers) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in _pairs(headers):
        found.setdefault(name, []).append(value)
    return found
