"""The circuit breakers of a route. Source: proto/mesh/api/v1/circuit_breaker.proto.

What the control plane's own rules guarantee is checked again: another server may say it too.
"""

from agent.config.durations import seconds_or
from agent.config.fields import Refused, item, only, refuse, within
from agent.model.circuit_breaker import (
    CircuitBreaker,
    CircuitBreakers,
    Fallback,
    FixedAnswer,
    Forced,
    LastGood,
    OtherService,
    Window,
)
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreaker as Message
from mesh.api.v1.circuit_breaker_pb2 import CircuitBreakerPerRoute

MAX_BUCKETS = 1000
MAX_REQUESTS = 1_000_000
MAX_PROBES = 100_000


def circuit_breakers(message: CircuitBreakerPerRoute, path: str) -> CircuitBreakers:
    """Those of a route."""
    only(message, path, frozenset({"breakers"}))
    return CircuitBreakers(
        breakers=tuple(_breaker(one, item(path, "breakers", index)) for index, one in enumerate(message.breakers))
    )


def _breaker(message: Message, path: str) -> CircuitBreaker:
    only(message, path, frozenset(message.DESCRIPTOR.fields_by_name))
    if not message.name:
        raise refuse(within(path, "name"), message.name, "the policy's namespace/name")
    slow_s = seconds_or(message, "slow_after", path, 0.0)
    return CircuitBreaker(
        name=message.name,
        clusters=frozenset(message.clusters),
        per_caller=message.per_caller,
        statuses=_statuses(message, path),
        flags=frozenset(message.failure_flags),
        slow_s=slow_s,
        slow_percent=_percent(message, "slow_percent", path) if slow_s else 100.0,
        window=_window(message, path),
        volume=_count(message, "volume", path, MAX_REQUESTS),
        error_percent=_percent(message, "error_percent", path),
        open_s=seconds_or(message, "open_for", path, 0.0),
        probes=_count(message, "probes", path, MAX_PROBES),
        probe_wait_s=seconds_or(message, "probe_wait", path, 0.0),
        any_failure=not message.judge_percentages,
        forced=Forced(_known_forced(message, path)),
        fallback=_fallback(message, path),
        on_failure=message.fallback_on_failure,
    )


def _statuses(message: Message, path: str) -> tuple[tuple[int, int], ...]:
    for index, one in enumerate(message.failure_statuses):
        # `from` is a word of Python's.
        if not 100 <= getattr(one, "from") <= one.to <= 599:
            own = item(path, "failure_statuses", index)
            raise Refused(own, f"found {getattr(one, 'from')} to {one.to}, expected statuses from 100 to 599")
    return tuple((getattr(one, "from"), one.to) for one in message.failure_statuses)


def _window(message: Message, path: str) -> Window:
    if message.window_requests:
        return Window(size=_count(message, "window_requests", path, MAX_REQUESTS))
    duration_s = seconds_or(message, "window", path, 0.0)
    if not duration_s:
        raise Refused(within(path, "window"), "found nothing, expected a time or window_requests")
    return Window(duration_s=duration_s, buckets=_count(message, "buckets", path, MAX_BUCKETS))


def _count(message: Message, name: str, path: str, most: int) -> int:
    value = int(getattr(message, name))
    if not 1 <= value <= most:
        raise refuse(within(path, name), value, f"a number from 1 to {most}")
    return value


def _percent(message: Message, name: str, path: str) -> float:
    value = float(getattr(message, name))
    if not 0 < value <= 100:
        raise refuse(within(path, name), value, "a percentage above 0, at most 100")
    return value


def _known_forced(message: Message, path: str) -> int:
    if int(message.forced) not in {int(one) for one in Forced}:
        raise refuse(within(path, "forced"), message.forced, "NONE, OPEN or DISABLED")
    return int(message.forced)


def _fallback(message: Message, path: str) -> Fallback | None:
    match message.WhichOneof("fallback"):
        case "answer":
            return _fixed(message.answer, within(path, "answer"))
        case "cluster":
            return OtherService(cluster=message.cluster)
        case "last_good":
            kept = message.last_good
            own = within(path, "last_good")
            if not kept.max_entries or not kept.max_bytes:
                raise Refused(own, "found no limit, expected max_entries and max_bytes")
            return LastGood(
                max_age_s=seconds_or(kept, "max_age", own, 0.0), max_entries=kept.max_entries, max_bytes=kept.max_bytes
            )
        case _:
            return None


def _fixed(message: Message.FixedAnswer, path: str) -> FixedAnswer:
    if not 200 <= message.status <= 599:
        raise refuse(within(path, "status"), message.status, "a status from 200 to 599")
    headers = tuple((one.name.lower().encode(), one.value.encode()) for one in message.headers)
    for index, (name, value) in enumerate(headers):
        if not name or any(char in b"\r\n\0: " for char in name) or any(char in b"\r\n\0" for char in value):
            raise Refused(item(path, "headers", index), "found a field that is none of HTTP's")
    return FixedAnswer(status=message.status, body=message.body, headers=headers)
