"""Routes as the worker enforces them. Source: envoy/config/route/v3/{route,route_components}.proto."""

from dataclasses import dataclass, field
from enum import IntEnum

from agent.model.http_filters import RouteFilter
from agent.model.matchers import HeaderMatcher, QueryMatcher


class PathKind(IntEnum):
    """PREFIX is a string prefix, SEPARATED_PREFIX ends at a slash (`/foo` matches `/foo` and `/foo/bar`)."""

    PREFIX = 0
    EXACT = 1
    REGEX = 2
    SEPARATED_PREFIX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteMatch:
    """All parts must match. `runtime_per_million`: the share of requests that the route takes, 1_000_000 = all."""

    path_kind: PathKind
    path: str
    ignore_case: bool = False
    headers: tuple[HeaderMatcher, ...] = ()
    query: tuple[QueryMatcher, ...] = ()
    runtime_per_million: int = 1_000_000


class HeaderAction(IntEnum):
    """envoy.config.core.v3.HeaderValueOption.HeaderAppendAction."""

    APPEND = 0
    ADD_IF_ABSENT = 1
    OVERWRITE = 2
    OVERWRITE_IF_EXISTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderOps:
    """`add`: (name, value format, action) in order; `remove`: lower-case names. Values may hold %OPERATORS%.

    `keep_empty`: places in `add` of fields that are added also when their value is empty.
    """

    add: tuple[tuple[str, str, HeaderAction], ...] = ()
    remove: tuple[str, ...] = ()
    keep_empty: frozenset[int] = frozenset()


NO_HEADER_OPS = HeaderOps()


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """data-plane.md 1.5. `retry_on`: Envoy's tokens. Back-off in seconds, the cap is 10 x base unless given.

    `reset_headers`: fields of an answer that say when to come back, (lower-case name, whether as a Unix time).
    `priority_updates`: after so many tries each, levels of priority that were tried are left out; 0 = never.
    `hedge`: a try that takes too long goes on beside the next one.
    """

    retry_on: frozenset[str]
    num_retries: int = 1
    per_try_timeout_s: float = 0.0  # 0 = none
    per_try_idle_timeout_s: float = 0.0
    back_off_base_s: float = 0.025
    back_off_max_s: float = 0.25
    retriable_status_codes: frozenset[int] = frozenset()
    retriable_headers: tuple[HeaderMatcher, ...] = ()
    retriable_request_headers: tuple[HeaderMatcher, ...] = ()
    previous_hosts: bool = False  # the retry_host_predicate envoy.retry_host_predicates.previous_hosts
    host_selection_max_attempts: int = 1
    reset_headers: tuple[tuple[str, bool], ...] = ()
    reset_max_s: float = 300.0  # an answer that asks for more is not obeyed
    priority_updates: int = 0
    hedge: bool = False


class HashKind(IntEnum):
    HEADER = 0
    COOKIE = 1
    QUERY_PARAMETER = 2
    SOURCE_IP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class HashPolicy:
    """What of a request is hashed. `terminal`: what follows does not count once there is a hash.

    Of a cookie: `ttl_s` None = none is made where it is missing, 0 = one for the session; `path` and `attributes`
    (name, value) are what it is made with.
    """

    kind: HashKind
    name: str = ""
    terminal: bool = False
    ttl_s: int | None = None
    path: str = ""
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedCluster:
    cluster: str
    weight: int
    request_headers: HeaderOps = NO_HEADER_OPS
    response_headers: HeaderOps = NO_HEADER_OPS
    host_rewrite: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Another cluster gets a copy of `per_million` of the requests. `host_rewrite`: instead of the request's host."""

    cluster: str
    per_million: int = 1_000_000
    host_suffix: bool = True  # `-shadow` is put behind the host's name
    host_rewrite: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send to one of `clusters` by weight (one entry when there is no split). Times in seconds, 0 = none."""

    clusters: tuple[WeightedCluster, ...]
    total_weight: int
    timeout_s: float = 15.0
    idle_timeout_s: float | None = None
    max_stream_duration_s: float = 0.0
    retry: RetryPolicy | None = None
    hedge: bool | None = None  # None: as the virtual host says
    prefix_rewrite: str = ""
    regex_rewrite: tuple[str, str] | None = None  # (RE2 pattern, substitution)
    host_rewrite: str = ""
    append_x_forwarded_host: bool = False
    priority_high: bool = False
    upgrades: frozenset[str] = frozenset()
    hash_policies: tuple[HashPolicy, ...] = ()
    mirrors: tuple[Mirror, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Empty parts are kept from the request. `port` 0 = keep."""

    status: int = 301
    scheme: str = ""
    host: str = ""
    port: int = 0
    path: str = ""
    prefix_rewrite: str = ""
    strip_query: bool = False
    https: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectResponse:
    status: int
    body: bytes = b""


Action = Forward | Redirect | DirectResponse


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`name` goes to the access log.

    Header operations in Envoy's order: weighted cluster, route, virtual host, config.
    """

    name: str
    match: RouteMatch
    action: Action
    request_headers: HeaderOps = NO_HEADER_OPS
    response_headers: HeaderOps = NO_HEADER_OPS
    filters: tuple[RouteFilter, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualHost:
    """`domains`: exact, `*.suffix`, `prefix.*` or `*`; matched without regard to case, most specific first.

    `require_tls`: a request that did not come by https is redirected there.
    """

    name: str
    domains: tuple[str, ...]
    routes: tuple[Route, ...]
    request_headers: HeaderOps = NO_HEADER_OPS
    response_headers: HeaderOps = NO_HEADER_OPS
    retry: RetryPolicy | None = None
    hedge: bool = False
    include_attempt_count: bool = False
    include_attempt_count_in_response: bool = False
    filters: tuple[RouteFilter, ...] = ()
    require_tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfiguration:
    """`virtual_hosts` hold what came inline; with `vhds` more come as VirtualHost resources of the same name prefix."""

    name: str
    virtual_hosts: tuple[VirtualHost, ...] = ()
    vhds: bool = False
    request_headers: HeaderOps = NO_HEADER_OPS
    response_headers: HeaderOps = NO_HEADER_OPS
    most_specific_header_mutations_wins: bool = False
    ignore_port_in_host: bool = False
    internal_only_headers: tuple[str, ...] = field(default=())
    filters: tuple[RouteFilter, ...] = ()
