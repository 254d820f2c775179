"""Rate limits: what of a request makes descriptors, and the token buckets that they choose.

Source: route_components.proto RateLimit; envoy/extensions/filters/http/local_ratelimit/v3; data-plane.md 1.10.
"""

from dataclasses import dataclass
from enum import IntEnum

from agent.model.fault import NO_GRPC
from agent.model.matchers import HeaderMatcher

TOO_MANY = 429


class ActionKind(IntEnum):
    """Where the value of an entry comes from."""

    LITERAL = 0
    HEADER = 1  # or a pseudo header, by `name`
    REMOTE_ADDRESS = 2
    HEADER_MATCH = 3  # the literal, if `headers` match, or, without `expected`, if they do not
    URL_PATH = 4
    PRINCIPAL = 5
    METADATA = 6  # dynamic: of filter `name`, by `path`


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One entry of a descriptor: (`key`, value)."""

    kind: ActionKind
    key: str
    value: str = ""
    name: str = ""
    headers: tuple[HeaderMatcher, ...] = ()
    expected: bool = True
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DescriptorRule:
    """One descriptor; a request for which an action has no value has none."""

    actions: tuple[Action, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBucket:
    """Holds `max_tokens` at first, and gains `tokens_per_fill` in `fill_interval_s`, evenly."""

    max_tokens: int
    tokens_per_fill: int = 1
    fill_interval_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DescriptorBucket:
    """The bucket of descriptors with these entries; a value "" stands for any, each with a bucket of its own."""

    entries: tuple[tuple[str, str], ...]
    bucket: TokenBucket


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalRateLimit:
    """`bucket` takes requests that no descriptor's does, or, with `always_default`, all; None = there is none.

    `shown`: X-RateLimit fields in answers.
    """

    stat_prefix: str
    status: int = TOO_MANY
    grpc_status: int = NO_GRPC
    bucket: TokenBucket | None = None
    enabled_per_million: int = 0
    enforced_per_million: int = 0
    rules: tuple[DescriptorRule, ...] = ()
    buckets: tuple[DescriptorBucket, ...] = ()
    always_default: bool = True
    shown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GlobalRateLimit:
    """Asks the control plane, `timeout_s` at most. `deny`: when it does not answer, so does the filter."""

    domain: str
    timeout_s: float = 0.02
    deny: bool = False
    status: int = TOO_MANY
    error_status: int = 500
    grpc_status: int = NO_GRPC
    rules: tuple[DescriptorRule, ...] = ()
    shown: bool = False
    marked: bool = True  # x-envoy-ratelimited on refusals


# --- questions to the control plane


class LimitVerdict(IntEnum):
    """What the rate limit service says; ERROR = nothing."""

    ERROR = 0
    OK = 1
    OVER = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitState:
    """One limit as it stands: `requests` per `window_s`, of which so many remain; `reset_s`: until the next window."""

    name: str
    requests: int
    window_s: int
    remaining: int
    reset_s: int


@dataclass(frozen=True, slots=True)
class LimitQuestion:
    """Whether a request may pass. `number`: the worker's own; `descriptors`: (key, value)s, one or more."""

    number: int
    domain: str
    descriptors: tuple[tuple[tuple[str, str], ...], ...]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class LimitAnswer:
    """The answer to a question. `fields`: for the client's answer, whatever it is."""

    number: int
    verdict: LimitVerdict
    states: tuple[LimitState, ...] = ()
    fields: tuple[tuple[bytes, bytes], ...] = ()
