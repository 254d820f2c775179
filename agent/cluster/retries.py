"""Which failed tries are tried again: a RetryPolicy, compiled to set look-ups.

Owns:   conditions, the fields by which a request asks for retries itself.
Not:    how many retries may be under way (agent.cluster.thresholds), the back-off's arithmetic (mesh.resilience).
Source: data-plane.md 1.5; Envoy's router_filter documentation (x-envoy-retry-on and its like).

An answer is tried again:              an end without an answer is tried again, but never an overflow:
  5xx                     500-599        connect-failure        no connection came about
  gateway-error           502-504        reset-before-request   as connect-failure: nothing was sent
  retriable-4xx           409            refused-stream         the host refused the stream
  retriable-status-codes  those listed   reset, 5xx,            any, the per-try timeout included
  retriable-headers       a field fits     gateway-error
  cancelled, deadline-exceeded, ...      by the grpc-status of an answer's head
An answer with x-envoy-ratelimited is tried again with envoy-ratelimited, and only with that. A listed 425 (too early)
is tried again at once, but not for a request that says Early-Data. http3-post-connect-failure is known and never
happens.
A per-try timeout counts also for a request that is not tried again.
"""

from dataclasses import replace
from typing import Final

from agent.codec.head import RequestHead, ResponseHead
from agent.model import resets
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.route import RetryPolicy
from agent.router.matchers import CompiledHeader

_ANY_RESET: Final = frozenset(
    {
        resets.CONNECTION_TERMINATION,
        resets.PROTOCOL_ERROR,
        resets.LOCAL_RESET,
        resets.REMOTE_RESET,
        resets.REFUSED_STREAM,
        *resets.TIMEOUTS,
        *resets.NEVER_CONNECTED,
    }
)
_STATUSES: Final = {
    "5xx": frozenset(range(500, 600)),
    "gateway-error": frozenset({502, 503, 504}),
    "retriable-4xx": frozenset({409}),
}
_RESETS: Final = {
    "5xx": _ANY_RESET,
    "gateway-error": _ANY_RESET,
    "reset": _ANY_RESET,
    "connect-failure": resets.NEVER_CONNECTED,
    "reset-before-request": resets.NEVER_CONNECTED,
    "refused-stream": frozenset({resets.REFUSED_STREAM}),
}
_GRPC: Final = {
    "cancelled": b"1",
    "deadline-exceeded": b"4",
    "resource-exhausted": b"8",
    "internal": b"13",
    "unavailable": b"14",
}
_RETRY_ON: Final = b"x-envoy-retry-on"
_RETRY_GRPC_ON: Final = b"x-envoy-retry-grpc-on"
_MAX_RETRIES: Final = b"x-envoy-max-retries"
_STATUS_CODES: Final = b"x-envoy-retriable-status-codes"
_HEADER_NAMES: Final = b"x-envoy-retriable-header-names"
_PER_TRY_TIMEOUT_MS: Final = b"x-envoy-upstream-rq-per-try-timeout-ms"
_HEDGE: Final = b"x-envoy-hedge-on-per-try-timeout"
_HEDGING: Final = {b"true": True, b"false": False}
_ASKING: Final = frozenset(
    {_RETRY_ON, _RETRY_GRPC_ON, _MAX_RETRIES, _STATUS_CODES, _HEADER_NAMES, _PER_TRY_TIMEOUT_MS, _HEDGE}
)
_RATE_LIMITED: Final = b"x-envoy-ratelimited"
_EARLY_DATA: Final = b"early-data"
_TOO_EARLY: Final = 425  # RFC 8470 5.2
_MAX_DIGITS: Final = 19
AT_ONCE: Final = -1.0
_NO_POLICY: Final = RetryPolicy(retry_on=frozenset())
MAX_POLICIES: Final = 10_000


class RetryRules:
    """As good as immutable, shared by all requests of a route; `exchange.retry` holds one.

    `statuses` and `resets`: what is tried again by that alone. `hedges`: a try that takes longer than
    `per_try_timeout_s` goes on beside the next one, if there are conditions. `expected_try_s`: what a host is told
    that one try may take, 0 when it may take all the time. Raises re2.error for a matcher with a bad regex.
    """

    __slots__ = (
        "_early",
        "_grpc",
        "_headers",
        "_off",
        "_rate_limited",
        "_reset_headers",
        "attempts_to_pick",
        "base_s",
        "expected_try_s",
        "hedges",
        "looks_further",
        "max_s",
        "num_retries",
        "per_try_idle_s",
        "per_try_timeout_s",
        "policy",
        "priority_updates",
        "resets",
        "statuses",
        "tells_when",
        "when",
    )

    def __init__(self, policy: RetryPolicy) -> None:
        on = policy.retry_on
        self.policy = policy
        self._off: RetryRules | None = None  # for requests that retriable_request_headers leave out, once there is one
        listed = policy.retriable_status_codes if "retriable-status-codes" in on else frozenset()
        self.statuses: frozenset[int] = listed.union(*(codes for token, codes in _STATUSES.items() if token in on))
        self.resets: frozenset[str] = frozenset().union(*(ends for token, ends in _RESETS.items() if token in on))
        self.num_retries = policy.num_retries
        self.per_try_timeout_s = policy.per_try_timeout_s
        self.per_try_idle_s = policy.per_try_idle_timeout_s
        self.hedges = policy.hedge
        self.expected_try_s = 0.0 if policy.hedge else policy.per_try_timeout_s
        self.priority_updates = policy.priority_updates
        self._reset_headers = tuple((name.encode(), unix) for name, unix in policy.reset_headers)
        self._early = _TOO_EARLY in listed
        self.tells_when = self._early or bool(self._reset_headers)  # an answer may say when to try again
        self.base_s = policy.back_off_base_s
        self.max_s = policy.back_off_max_s
        self.attempts_to_pick = policy.host_selection_max_attempts if policy.previous_hosts else 0
        self._headers = tuple(map(CompiledHeader, policy.retriable_headers)) if "retriable-headers" in on else ()
        self._grpc = frozenset(code for token, code in _GRPC.items() if token in on)
        self._rate_limited = "envoy-ratelimited" in on
        self.when = tuple(map(CompiledHeader, policy.retriable_request_headers))
        self.looks_further = bool(self._headers or self._grpc or self._rate_limited)

    def wants_answer(self, head: ResponseHead, request: RequestHead) -> bool:
        """Whether this answer is tried again. Callers may skip it for a status not in `statuses` unless
        `looks_further`."""
        index = head.headers.index
        if _RATE_LIMITED in index:
            return self._rate_limited
        if head.status in self.statuses and (head.status != _TOO_EARLY or _EARLY_DATA not in request.headers.index):
            return True
        if self._grpc and index.get(b"grpc-status") in self._grpc:
            return True
        return any(header.matches_fields(head.headers) for header in self._headers)

    def asked_delay_s(self, head: ResponseHead, wall_s: float) -> float:
        """When this answer, which is tried again, wants to be asked again: from so many seconds on, 0 = it does not
        say, AT_ONCE. `wall_s`: seconds since the epoch."""
        if self._early and head.status == _TOO_EARLY:
            return AT_ONCE
        for name, unix in self._reset_headers:
            value = (head.headers.get(name) or b"").partition(b",")[0]
            if value.isdigit() and len(value) < _MAX_DIGITS:
                delay_s = int(value) - int(wall_s) if unix else int(value)
                if 0 <= delay_s <= self.policy.reset_max_s:
                    return float(delay_s)
        return 0.0

    def wants_reset(self, reason: str) -> bool:
        """Whether a try that ended so (agent.model.resets) is tried again."""
        return reason in self.resets

    def for_request(self, head: RequestHead) -> "RetryRules":
        """These, or what is left of them when the policy's retriable_request_headers do not let it be retried."""
        if not self.when or any(header.matches(head) for header in self.when):
            return self
        if self._off is None:
            self._off = RetryRules(replace(self.policy, retry_on=frozenset(), retriable_request_headers=()))
        return self._off


class RetryBook:
    """Policies compiled once each. A worker keeps one; it forgets all when it holds MAX_POLICIES."""

    __slots__ = ("_compiled",)

    def __init__(self) -> None:
        self._compiled: dict[int, RetryRules] = {}  # by identity: the rules hold their policy, so ids stay theirs

    def rules_for(self, policy: RetryPolicy | None, head: RequestHead) -> RetryRules | None:
        """The rules of one request: the route's policy, joined with what its x-envoy-retry-* fields ask for.

        Those fields are taken out of the head, so call it after fields of untrusted callers were stripped and before
        the request is written. None when neither says anything about tries. A value that is no number is ignored.
        Raises re2.error for a matcher with a bad regex.
        """
        index = head.headers.index
        if (  # seven look-ups cost less than a set operation over the fields
            _RETRY_ON in index
            or _MAX_RETRIES in index
            or _RETRY_GRPC_ON in index
            or _PER_TRY_TIMEOUT_MS in index
            or _STATUS_CODES in index
            or _HEADER_NAMES in index
            or _HEDGE in index
        ):
            return self._asked_for(policy, head)
        if policy is None:
            return None
        rules = self._compiled.get(id(policy)) or self._compile(policy)
        return rules.for_request(head) if rules.when else rules

    @staticmethod
    def _asked_for(policy: RetryPolicy | None, head: RequestHead) -> RetryRules | None:
        asked = _joined(policy if policy is not None else _NO_POLICY, head)
        for name in _ASKING:
            head.headers.remove(name)
        if not asked.retry_on and not asked.per_try_timeout_s:
            return None
        return RetryRules(asked).for_request(head)

    def _compile(self, policy: RetryPolicy) -> RetryRules:
        if len(self._compiled) >= MAX_POLICIES:
            self._compiled.clear()
        rules = self._compiled[id(policy)] = RetryRules(policy)
        return rules


def _joined(policy: RetryPolicy, head: RequestHead) -> RetryPolicy:
    get = head.headers.get
    max_retries = get(_MAX_RETRIES)
    timeout_ms = _number(get(_PER_TRY_TIMEOUT_MS), -1)
    names = tuple(
        HeaderMatcher(name=name.lower(), matcher=StringMatcher(kind=MatchKind.PRESENT))
        for name in sorted(_words(get(_HEADER_NAMES)))
    )
    return replace(
        policy,
        retry_on=policy.retry_on | _words(get(_RETRY_ON)) | _words(get(_RETRY_GRPC_ON)),
        num_retries=_number(max_retries, policy.num_retries),
        per_try_timeout_s=timeout_ms / 1000 if timeout_ms >= 0 else policy.per_try_timeout_s,
        hedge=_HEDGING.get(get(_HEDGE) or b"", policy.hedge),
        retriable_status_codes=policy.retriable_status_codes | _numbers(get(_STATUS_CODES)),
        retriable_headers=policy.retriable_headers + names,
    )


def _words(value: bytes | None) -> frozenset[str]:
    """The parts of a comma list."""
    parts = (part.strip() for part in (value or b"").decode("ascii", "replace").split(","))
    return frozenset(part for part in parts if part)


def _number(value: bytes | None, default: int) -> int:
    return int(value) if value is not None and value.isdigit() and len(value) < 10 else default


def _numbers(value: bytes | None) -> frozenset[int]:
    return frozenset(int(word) for word in _words(value) if word.isdecimal() and len(word) < 10)
