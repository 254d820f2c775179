"""HTTPRoute and its parts: what a VirtualService does with HTTP.

Owns:   the shape of spec.http[] and its effective values.
Not:    which host it applies to (virtual_service), what is refused (rules.http_route).
Source: istio.io/api networking/v1 virtual_service.proto; retry defaults: istio pilot/pkg/networking/core/route/retry.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import EMPTY, FrozenMap
from controlplane.policy.scalars import (
    FREEZE,
    Boolean,
    Bytes,
    Double,
    Duration,
    Int32,
    Text,
    TextMap,
    UInt32,
    enum_parser,
)
from controlplane.policy.spec import Spec
from controlplane.policy.string_match import StringMatch

DEFAULT_PORTS = {"http": 80, "https": 443}  # by scheme
# Istio's code defaults of a route without `retries`; 503 is no longer among them (istio#50506).
DEFAULT_RETRY_ATTEMPTS = 2
DEFAULT_RETRY_ON = ("connect-failure", "refused-stream", "unavailable", "cancelled", "retriable-status-codes")
DEFAULT_RETRY_BACKOFF_S = 0.025
_STATUS_CODES = "retriable-status-codes"

_MATCHES: FrozenMap[str, StringMatch] = FrozenMap()
StringMatchMap = Annotated[Mapping[str, StringMatch], FREEZE]


class PortSelector(Spec):
    """`number` 1..65535; 0 = unset."""

    number: UInt32 = 0


class Percent(Spec):
    """`value` 0..100."""

    value: Double = 0.0


class Destination(Spec):
    """A service, one of its subsets, one of its ports. `host` may be short: see controlplane.policy.hosts."""

    host: Text = ""
    subset: Text = ""
    port: PortSelector | None = None

    @property
    def port_number(self) -> int | None:
        """The port that the user named, or None: then the service's only port."""
        return self.port.number if self.port is not None and self.port.number else None


class HeaderOperations(Spec):
    """`set` overwrites, `add` appends, `remove` removes."""

    set: TextMap = EMPTY
    add: TextMap = EMPTY
    remove: tuple[Text, ...] = ()


class Headers(Spec):
    """Changes of request and response headers."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HTTPMatchRequest(Spec):
    """All fields that are set must match. `port`, `source_*` and `gateways` select proxies, not requests (2.3.4)."""

    name: Text = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: StringMatchMap = _MATCHES
    port: UInt32 = 0
    source_labels: TextMap = EMPTY
    gateways: tuple[Text, ...] = ()
    query_params: StringMatchMap = _MATCHES
    ignore_uri_case: Boolean = False
    without_headers: StringMatchMap = _MATCHES
    source_namespace: Text = ""
    stat_prefix: Text = ""


class HTTPRouteDestination(Spec):
    """One target of a route. Weights are relative to their sum; a single destination ignores its own (2.3.6)."""

    destination: Destination | None = None
    weight: Int32 = 0
    headers: Headers | None = None


class RedirectPortSelection(StrEnum):
    """Where a redirect's port comes from when it is not a number."""

    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


class HTTPRedirect(Spec):
    """A redirect; `redirect_code` 0 = 301."""

    uri: Text = ""
    prefix_rewrite: Text = ""
    authority: Text = ""
    port: UInt32 | None = None
    derive_port: Annotated[RedirectPortSelection | None, enum_parser(RedirectPortSelection)] = None
    scheme: Text = ""
    redirect_code: UInt32 = 0

    @property
    def code(self) -> int:
        """The status of the answer."""
        return self.redirect_code or 301


class HTTPBody(Spec):
    """A body, as text or base64."""

    string: Text | None = None
    bytes_: Bytes | None = None

    @property
    def content(self) -> bytes | None:
        """The body's bytes, or None."""
        return self.string.encode() if self.string is not None else self.bytes_


class HTTPDirectResponse(Spec):
    """An answer without an upstream."""

    status: UInt32 = 0
    body: HTTPBody | None = None


class Delegate(Spec):
    """The VirtualService without hosts that holds the routes; `namespace` empty = that of the root."""

    name: Text = ""
    namespace: Text = ""


class RegexRewrite(Spec):
    """`match` is RE2, `rewrite` may refer to its groups as \\1."""

    match: Text = ""
    rewrite: Text = ""


class HTTPRewrite(Spec):
    """What the upstream sees instead of the path and the authority."""

    uri: Text = ""
    authority: Text = ""
    uri_regex_rewrite: RegexRewrite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Effective retries of a route. `attempts` >= 1, beyond the first try."""

    attempts: int
    retry_on: tuple[str, ...]
    retriable_status_codes: tuple[int, ...] = ()
    per_try_timeout_s: float | None = None  # None = the request's own timeout
    retry_remote_localities: bool = False
    ignore_previous_hosts: bool = True
    backoff_base_s: float = DEFAULT_RETRY_BACKOFF_S


DEFAULT_RETRIES = RetrySettings(attempts=DEFAULT_RETRY_ATTEMPTS, retry_on=DEFAULT_RETRY_ON)


class HTTPRetry(Spec):
    """Retries as written. Use `HTTPRoute.retry_settings` for what takes effect."""

    attempts: Int32 = 0
    per_try_timeout: Duration | None = None
    retry_on: Text = ""
    retry_remote_localities: Boolean | None = None
    retry_ignore_previous_hosts: Boolean | None = None
    backoff: Duration | None = None

    @property
    def conditions(self) -> tuple[str, ...]:
        """The words and codes of `retry_on`, in their order, without blanks."""
        return tuple(word for part in self.retry_on.split(",") if (word := part.strip()))


def _effective(retries: HTTPRetry) -> RetrySettings:
    """A partial policy keeps the default conditions; integers among them become retriable status codes (2.3.9)."""
    codes = tuple(int(word) for word in retries.conditions if re.fullmatch(r"\d{3}", word, re.ASCII))
    words = tuple(word for word in retries.conditions if not re.fullmatch(r"\d{3}", word, re.ASCII))
    if codes and _STATUS_CODES not in words:
        words = (*words, _STATUS_CODES)
    return RetrySettings(
        attempts=retries.attempts,
        retry_on=words or DEFAULT_RETRY_ON,
        retriable_status_codes=codes,
        per_try_timeout_s=retries.per_try_timeout,
        retry_remote_localities=bool(retries.retry_remote_localities),
        ignore_previous_hosts=retries.retry_ignore_previous_hosts is not False,
        backoff_base_s=DEFAULT_RETRY_BACKOFF_S if retries.backoff is None else retries.backoff,
    )


class FaultDelay(Spec):
    """A delay before the request is sent on; without `percentage` it hits nobody."""

    percentage: Percent | None = None
    percent: Int32 = 0
    fixed_delay: Duration | None = None
    exponential_delay: Duration | None = None

    @property
    def effective_percent(self) -> float:
        """0..100."""
        return self.percentage.value if self.percentage is not None else float(self.percent)


class FaultAbort(Spec):
    """An answer instead of the upstream's; without `percentage` it hits nobody."""

    percentage: Percent | None = None
    http_status: Int32 | None = None
    grpc_status: Text | None = None
    http2_error: Text | None = None

    @property
    def effective_percent(self) -> float:
        """0..100."""
        return self.percentage.value if self.percentage is not None else 0.0


class HTTPFaultInjection(Spec):
    """A delay, an abort, or both."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class HTTPMirrorPolicy(Spec):
    """A copy of requests to another destination; `percentage` absent = all."""

    destination: Destination | None = None
    percentage: Percent | None = None

    @property
    def effective_percent(self) -> float:
        """0..100."""
        return 100.0 if self.percentage is None else self.percentage.value


class UnmatchedPreflights(StrEnum):
    """What happens to a preflight request whose origin matches none; unset = FORWARD."""

    UNSPECIFIED = "UNSPECIFIED"
    FORWARD = "FORWARD"
    IGNORE = "IGNORE"


class CorsPolicy(Spec):
    """Cross-origin resource sharing."""

    allow_origin: tuple[Text, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[Text, ...] = ()
    allow_headers: tuple[Text, ...] = ()
    expose_headers: tuple[Text, ...] = ()
    max_age: Duration | None = None
    allow_credentials: Boolean | None = None
    unmatched_preflights: Annotated[UnmatchedPreflights, enum_parser(UnmatchedPreflights)] = (
        UnmatchedPreflights.UNSPECIFIED
    )


class HTTPRoute(Spec):
    """One rule: any of `match` (none = everything), then exactly one of route, redirect, direct_response, delegate."""

    name: Text = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    mirror_percent: UInt32 | None = None
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None

    @property
    def timeout_s(self) -> float | None:
        """Seconds for the whole request with its retries; None = no limit (unset or 0, 2.3.10)."""
        return self.timeout or None

    @property
    def retry_settings(self) -> RetrySettings | None:
        """What takes effect: Istio's default when unset, None when the user switched retries off."""
        if self.retries is None:
            return DEFAULT_RETRIES
        return _effective(self.retries) if self.retries.attempts > 0 else None

    @property
    def mirror_policies(self) -> tuple[HTTPMirrorPolicy, ...]:
        """`mirrors`, or the older `mirror` with its percentage in the same form."""
        if self.mirror is None:
            return self.mirrors
        percentage = self.mirror_percentage
        if percentage is None and self.mirror_percent is not None:
            percentage = Percent(value=float(self.mirror_percent))
        return (HTTPMirrorPolicy(destination=self.mirror, percentage=percentage),)

    @property
    def is_catch_all(self) -> bool:
        """Whether no request can pass it: no match, or one that asks for the prefix / and nothing else (2.3.3)."""
        return not self.match or any(_matches_all(match) for match in self.match)


_SELECTORS = frozenset({"name", "stat_prefix", "ignore_uri_case"})


def _matches_all(match: HTTPMatchRequest) -> bool:
    conditions = {name for name in match.model_fields_set - _SELECTORS if getattr(match, name)}
    if not conditions:
        return True
    return conditions == {"uri"} and match.uri in (StringMatch(prefix="/"), StringMatch(regex=".*"))
