"""CircuitBreaker: when calls to a service are refused for a while, how it is probed, what is answered meanwhile.

Owns:   the shape of `gossamer.mesh/v1` CircuitBreaker, its defaults.
Not:    the state machine (the agent's), what Envoys and gRPC clients are given instead (controlplane.compiler).
Source: Hystrix' HystrixCommandProperties and resilience4j's CircuitBreakerConfig (data-plane.md 1.4). The defaults are
        Hystrix'.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BeforeValidator

from controlplane.policy.call_target import CallPolicy
from controlplane.policy.frozen import EMPTY
from controlplane.policy.http_route import Destination, HTTPBody
from controlplane.policy.scalars import (
    Boolean,
    Double,
    Duration,
    Text,
    TextMap,
    UInt32,
    UInt64,
    enum_parser,
    refuse,
)
from controlplane.policy.spec import Spec

DEFAULT_STATUSES = ("5xx",)
# Of our own answers, those for which the service is to blame: not that there was no room, nor that the client left.
DEFAULT_FLAGS = ("UC", "UF", "UH", "UPE", "UR", "UT")
DEFAULT_SLOW_PERCENT = 100.0
DEFAULT_WINDOW_S = 10.0
DEFAULT_BUCKETS = 10
DEFAULT_WINDOW_SIZE = 100
DEFAULT_VOLUME = 20
DEFAULT_ERROR_PERCENT = 50.0
DEFAULT_SLEEP_S = 5.0
DEFAULT_PROBES = 1
DEFAULT_CACHE_AGE_S = 600.0
DEFAULT_CACHE_ENTRIES = 1000
DEFAULT_CACHE_BYTES = 8 * 1024 * 1024
DEFAULT_ANSWER_STATUS = 200


class Per(StrEnum):
    """Whose breaker it is: one for all callers on a node, or one for each workload that calls."""

    TARGET = "TARGET"
    CALLER = "CALLER"


class WindowType(StrEnum):
    """What counts: the last seconds, or the last so many requests."""

    TIME = "TIME"
    COUNT = "COUNT"


class Verdict(StrEnum):
    """EVERY: the first probe that fails opens it again. PERCENTAGES: they are judged like other requests when all are
    over.
    """

    EVERY = "EVERY"
    PERCENTAGES = "PERCENTAGES"


class Forced(StrEnum):
    """A person's order: OPEN refuses all, DISABLED lets all pass and counts nothing."""

    OPEN = "OPEN"
    DISABLED = "DISABLED"


def _status_text(value: object) -> str:
    """Written as a number or as text."""
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise refuse(value, "a status such as 503, 500-504 or 5xx")


StatusText = Annotated[str, BeforeValidator(_status_text, json_schema_input_type=int | str)]


class Failures(Spec):
    """Which calls have failed. `statuses`: `503`, `500-504`, `5xx`; `flags`: response flags of access logs."""

    statuses: tuple[StatusText, ...] = ()
    flags: tuple[Text, ...] = ()
    slow_call_duration: Duration | None = None
    slow_call_percent: Double | None = None


class Window(Spec):
    """`duration` and `buckets` of TIME, `size` of COUNT."""

    type_: Annotated[WindowType, enum_parser(WindowType)] = WindowType.TIME
    duration: Duration | None = None
    buckets: UInt32 = 0
    size: UInt32 = 0


class HalfOpen(Spec):
    """`max_wait`: a probe that has not been answered for so long has failed; unset or 0 = it may take for ever."""

    probes: UInt32 = 0
    verdict: Annotated[Verdict, enum_parser(Verdict)] = Verdict.EVERY
    max_wait: Duration | None = None


class FallbackResponse(Spec):
    """An answer that is always the same; status 0 = 200."""

    status: UInt32 = 0
    body: HTTPBody | None = None
    headers: TextMap = EMPTY

    @property
    def effective_status(self) -> int:
        """200 unless given."""
        return self.status or DEFAULT_ANSWER_STATUS


class FallbackCache(Spec):
    """The last good answer to the same GET. Limits hold for each worker of an agent."""

    max_age: Duration | None = None
    max_entries: UInt32 = 0
    max_bytes: UInt64 = 0

    @property
    def max_age_s(self) -> float:
        """Ten minutes unless given."""
        return DEFAULT_CACHE_AGE_S if self.max_age is None else self.max_age

    @property
    def effective_entries(self) -> int:
        """1000 unless given."""
        return self.max_entries or DEFAULT_CACHE_ENTRIES

    @property
    def effective_bytes(self) -> int:
        """8 MiB unless given."""
        return self.max_bytes or DEFAULT_CACHE_BYTES


class Fallback(Spec):
    """Exactly one of the three. `on_failure`: also for a call that was let pass and failed, as Hystrix does."""

    response: FallbackResponse | None = None
    service: Destination | None = None
    cached: FallbackCache | None = None
    on_failure: Boolean = False


class CircuitBreaker(CallPolicy):
    """What is unset is Hystrix' default; the properties give what takes effect."""

    per: Annotated[Per, enum_parser(Per)] = Per.TARGET
    failures: Failures | None = None
    window: Window | None = None
    request_volume: UInt32 = 0
    error_percent: Double | None = None
    sleep_window: Duration | None = None
    half_open: HalfOpen | None = None
    forced: Annotated[Forced, enum_parser(Forced)] | None = None
    fallback: Fallback | None = None

    @property
    def statuses(self) -> tuple[tuple[int, int], ...]:
        """(from, to) of answers that are failures."""
        written = self.failures.statuses if self.failures is not None else ()
        found = (status_range(text) for text in written or DEFAULT_STATUSES)
        return tuple(one for one in found if one is not None)

    @property
    def flags(self) -> tuple[str, ...]:
        """Response flags that are failures."""
        written = self.failures.flags if self.failures is not None else ()
        return tuple(written or DEFAULT_FLAGS)

    @property
    def slow_call_s(self) -> float:
        """0 = no call is slow."""
        return (self.failures.slow_call_duration if self.failures is not None else None) or 0.0

    @property
    def slow_call_percent(self) -> float:
        """So many slow calls open it."""
        written = self.failures.slow_call_percent if self.failures is not None else None
        return DEFAULT_SLOW_PERCENT if written is None else written

    @property
    def window_size(self) -> int:
        """So many requests count; 0 = those of the last seconds do."""
        if self.window is None or self.window.type_ is WindowType.TIME:
            return 0
        return self.window.size or DEFAULT_WINDOW_SIZE

    @property
    def window_s(self) -> float:
        """The time that counts."""
        return (self.window.duration if self.window is not None else None) or DEFAULT_WINDOW_S

    @property
    def buckets(self) -> int:
        """In so many parts it is forgotten."""
        return (self.window.buckets if self.window is not None else 0) or DEFAULT_BUCKETS

    @property
    def volume(self) -> int:
        """With fewer requests it stays closed; never more than a window of requests holds."""
        return self.request_volume or min(DEFAULT_VOLUME, self.window_size or DEFAULT_VOLUME)

    @property
    def effective_error_percent(self) -> float:
        """So many failures open it."""
        return DEFAULT_ERROR_PERCENT if self.error_percent is None else self.error_percent

    @property
    def sleep_s(self) -> float:
        """So long it stays open before it is probed."""
        return DEFAULT_SLEEP_S if self.sleep_window is None else self.sleep_window

    @property
    def probes(self) -> int:
        """So many requests are let pass to see."""
        return (self.half_open.probes if self.half_open is not None else 0) or DEFAULT_PROBES

    @property
    def probe_wait_s(self) -> float:
        """0 = a probe may take for ever."""
        return (self.half_open.max_wait if self.half_open is not None else None) or 0.0

    @property
    def judges_percentages(self) -> bool:
        """Whether probes are judged together."""
        return self.half_open is not None and self.half_open.verdict is Verdict.PERCENTAGES


def status_range(text: str) -> tuple[int, int] | None:
    """`503`, `500-504` or `5xx` as (from, to) within 100 to 599; None when it is none of these."""
    if len(text) == 3 and text[0] in "12345" and text[1:].lower() == "xx":
        return int(text[0]) * 100, int(text[0]) * 100 + 99
    low, dash, high = text.partition("-")
    if not _is_status(low) or (dash and not _is_status(high)):
        return None
    found = int(low), int(high or low)
    return found if found[0] <= found[1] else None


def _is_status(text: str) -> bool:
    return len(text) == 3 and text.isascii() and text.isdigit() and 100 <= int(text) <= 599
