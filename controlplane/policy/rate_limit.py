"""RateLimit: how many requests a workload takes, from everybody or from each client, in one or several windows.

Owns:   the shape of `gossamer.mesh/v1` RateLimit, its defaults.
Not:    counting (controlplane.ratelimit, agent.filters.local_rate_limit), what Envoy is given (compiler.filters).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from controlplane.policy.frozen import FrozenMap
from controlplane.policy.scalars import FREEZE, Boolean, Duration, Text, UInt32, enum_parser
from controlplane.policy.selector import WorkloadSelector
from controlplane.policy.spec import Spec
from controlplane.policy.string_match import StringMatch

DEFAULT_TIMEOUT_S = 0.02


class Place(StrEnum):
    """Where a proxy counts: what comes to its workload, what its workload sends, what enters a gateway."""

    INBOUND = "INBOUND"
    OUTBOUND = "OUTBOUND"
    GATEWAY = "GATEWAY"


class Reach(StrEnum):
    """LOCAL: each proxy counts for itself. GLOBAL: the control plane counts for all of them."""

    LOCAL = "LOCAL"
    GLOBAL = "GLOBAL"


class FailureMode(StrEnum):
    """What happens to requests while the control plane cannot be asked."""

    OPEN = "OPEN"
    DENY = "DENY"


class LimitHeaders(StrEnum):
    """Which fields tell clients where they stand: X-RateLimit-Limit, -Remaining and -Reset as Envoy's, or RateLimit and
    RateLimit-Policy.
    """

    NONE = "NONE"
    X_RATELIMIT = "X_RATELIMIT"
    RATELIMIT = "RATELIMIT"


class Window(StrEnum):
    """The time in which requests are counted."""

    SECOND = "SECOND"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"

    @property
    def seconds(self) -> int:
        """Its length."""
        return _SECONDS[self]


_SECONDS = {Window.SECOND: 1, Window.MINUTE: 60, Window.HOUR: 3600, Window.DAY: 86400}


class Attribute(StrEnum):
    """What requests have without a header: PATH is without the query, PRINCIPAL the client's SPIFFE id."""

    PATH = "PATH"
    METHOD = "METHOD"
    PRINCIPAL = "PRINCIPAL"
    REMOTE_ADDRESS = "REMOTE_ADDRESS"


_NO_HEADERS: FrozenMap[str, StringMatch] = FrozenMap()


class RequestMatch(Spec):
    """Requests that fit all of it; `path` is compared without the query."""

    methods: tuple[Text, ...] = ()
    path: StringMatch | None = None
    headers: Annotated[Mapping[str, StringMatch], FREEZE] = _NO_HEADERS


class LimitKey(Spec):
    """What tells clients apart; exactly one is set."""

    attribute: Annotated[Attribute, enum_parser(Attribute)] | None = None
    header: Text | None = None
    claim: Text | None = None

    @property
    def name(self) -> str:
        """How the key is called in descriptors."""
        if self.header is not None:
            return f"header.{self.header.lower()}"
        return f"claim.{self.claim}" if self.claim is not None else (self.attribute or Attribute.PATH).lower()


class Rate(Spec):
    """So many `requests` per window. `burst`: the most at once, by default as many as `requests`."""

    requests: UInt32 = 0
    per: Annotated[Window, enum_parser(Window)] | None = None
    burst: UInt32 | None = None

    @property
    def window(self) -> Window:
        """The window."""
        return self.per or Window.SECOND

    @property
    def effective_burst(self) -> int:
        """The most at once."""
        return self.requests if self.burst is None else self.burst


class Limit(Spec):
    """Requests that match are counted, for each value of the keys apart; a request without one of them is not."""

    name: Text = ""
    match: RequestMatch | None = None
    keys: tuple[LimitKey, ...] = ()
    rates: tuple[Rate, ...] = ()


class RateLimit(Spec):
    """`selector`: the workloads (at GATEWAY: gateways) of the namespace; of all namespaces in the root namespace."""

    selector: WorkloadSelector | None = None
    enforce_at: tuple[Annotated[Place, enum_parser(Place)], ...] = ()
    scope: Annotated[Reach, enum_parser(Reach)] = Reach.LOCAL
    shadow: Boolean = False
    failure_mode: Annotated[FailureMode, enum_parser(FailureMode)] | None = None
    timeout: Duration | None = None
    headers: Annotated[LimitHeaders, enum_parser(LimitHeaders)] = LimitHeaders.X_RATELIMIT
    limits: tuple[Limit, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where it is enforced."""
        return self.enforce_at or (Place.INBOUND,)

    @property
    def timeout_s(self) -> float:
        """How long the control plane may take."""
        return self.timeout if self.timeout is not None else DEFAULT_TIMEOUT_S

    @property
    def selected(self) -> Mapping[str, str]:
        """The labels that it asks for."""
        return self.selector.match_labels if self.selector is not None else {}
