"""Injected faults. Source: envoy/extensions/filters/http/fault/v3/fault.proto; data-plane.md 1.8."""

from dataclasses import dataclass

from agent.model.matchers import HeaderMatcher

NO_GRPC = -1
NO_LIMIT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """A pause of `seconds`, or, `by_header`, of what the request asks for; `per_million` of the requests.

    `unit`: how many millionths one unit of the percentage is, in which a request may ask for a smaller one.
    """

    seconds: float = 0.0
    by_header: bool = False
    per_million: int = 0
    unit: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """An answer `status`, or `grpc_status` (NO_GRPC: not), or, `by_header`, what the request asks for; see Delay."""

    status: int = 0
    grpc_status: int = NO_GRPC
    by_header: bool = False
    per_million: int = 0
    unit: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A delay, an abort after it, or both, of requests that fit all of the rest.

    `headers` all match; `cluster` and `nodes` empty = any; `max_active`: so many requests at once, NO_LIMIT.
    """

    delay: Delay | None = None
    abort: Abort | None = None
    headers: tuple[HeaderMatcher, ...] = ()
    cluster: str = ""
    nodes: frozenset[str] = frozenset()
    max_active: int = NO_LIMIT
