"""A service that is asked whether a request may pass.

Source: envoy/extensions/filters/http/ext_authz/v3/ext_authz.proto; envoy/service/auth/v3: what a worker and its
        supervisor tell each other of a gRPC service's questions and answers, which only the supervisor can ask.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from agent.model.matchers import StringMatcher
from agent.model.rbac import MetadataIs

FORBIDDEN = 403
_FRAME = 1024  # what every question has
_FIELD = 16  # what each of its fields has beside its text
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownBody:
    """How much of a request's body the service is shown: the first `max_bytes`; a longer one is refused unless
    `partial`. `as_bytes`: not as text, which a gRPC service can tell apart."""

    max_bytes: int
    partial: bool = False
    as_bytes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalAuthorization:
    """`enabled_by`: only requests about which an earlier filter has told so are asked about; None = all.

    `grpc`: the service speaks gRPC, with this `authority` ("" = the host's address) and `call_headers`; else HTTP.
    `request_headers`: shown to an HTTP service beside those that always are, to a gRPC service alone (None = all).
    Of an HTTP service's answer `to_upstream` and `appended_upstream` are set on the request and added to it;
    `to_client` (None = all) and `to_client_allowed` are sent to the client when it denies and when it allows.
    `mark_failure`: a request that passes without an answer says so. `metadata`: of these filters a gRPC service is
    told what they have found; `context`: what a route tells it beside. `validates`: it must not change a query to what
    Envoy would not take for encoded.
    """

    cluster: str
    timeout_s: float
    grpc: bool = False
    authority: str = ""
    call_headers: Pairs = ()
    path_prefix: str = ""
    added_headers: Pairs = ()
    request_headers: tuple[StringMatcher, ...] | None = None
    disallowed_headers: tuple[StringMatcher, ...] = ()
    to_upstream: tuple[StringMatcher, ...] = ()
    appended_upstream: tuple[StringMatcher, ...] = ()
    to_client: tuple[StringMatcher, ...] | None = None
    to_client_allowed: tuple[StringMatcher, ...] = ()
    body: ShownBody | None = None
    certificate: bool = False
    metadata: tuple[str, ...] = ()
    context: Pairs = ()
    fail_open: bool = False
    mark_failure: bool = False
    status_on_error: int = FORBIDDEN
    enabled_by: MetadataIs | None = None
    validates: bool = False
    stat_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteAuthorization:
    """What a route says: nothing is asked (`disabled`), no body is shown, `context` is told to a gRPC service."""

    disabled: bool = False
    without_body: bool = False
    context: Pairs = ()


# --- questions to a gRPC service


class CheckVerdict(IntEnum):
    """What the service says. ERROR = nothing; INVALID = a change that nobody can make."""

    ERROR = 0
    OK = 1
    DENIED = 2
    INVALID = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPeer:
    """One end of the client's connection. `certificate`: PEM, URL-encoded, if the service is to see it."""

    address: str  # address:port
    principal: bytes = b""
    service: bytes = b""
    certificate: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckQuestion:
    """Whether a request may pass. `number`: the worker's own; `identity`: in whose name the service is asked.

    `headers`: each lower-case name once; `body` None = it is not shown.
    """

    number: int
    cluster: str
    identity: str
    authority: str
    call_headers: Pairs
    timeout_s: float
    source: CheckPeer
    destination: CheckPeer
    request_id: str
    time_s: float
    method: bytes
    scheme: bytes
    host: bytes
    path: bytes
    protocol: str
    headers: tuple[tuple[bytes, bytes], ...]
    size: int
    body: bytes | None
    as_bytes: bool
    context: Pairs
    metadata: dict[str, dict[str, Any]]

    @property
    def weight(self) -> int:
        """About as many bytes as it has, and not less."""
        headers = sum(len(name) + len(value) + _FIELD for name, value in self.headers)
        told = repr((self.source, self.host, self.context, self.call_headers, self.metadata))
        return _FRAME + len(self.path) + headers + len(told.encode()) + len(self.body or b"")


class Change(IntEnum):
    """What becomes of a field: HeaderValueOption.HeaderAppendAction, and its older `append`."""

    ADD = 0
    ADD_IF_ABSENT = 1
    SET = 2
    SET_IF_PRESENT = 3
    JOIN = 4  # to the value that is there, if there is one


@dataclass(frozen=True, slots=True)
class HeaderChange:
    """One field that the service sets or adds."""

    name: bytes
    value: bytes
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckAnswer:
    """The answer to a question.

    OK: `request` and `removed` change the request, `answer` changes the answer to the client, `query` and
    `query_removed` the path. DENIED, and ERROR with a status: `status`, `body` and `answer` are the client's answer.
    `metadata`: what the filters behind are told.
    """

    number: int
    verdict: CheckVerdict
    status: int = 0
    body: bytes = b""
    request: tuple[HeaderChange, ...] = ()
    removed: tuple[bytes, ...] = ()
    answer: tuple[HeaderChange, ...] = ()
    query: tuple[tuple[bytes, bytes], ...] = ()
    query_removed: tuple[bytes, ...] = ()
    metadata: dict[str, Any] | None = None
