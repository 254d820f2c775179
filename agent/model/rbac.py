"""Who may ask what: RBAC policies as trees of conditions.

Source: envoy/config/rbac/v3/rbac.proto, envoy/extensions/filters/{http,network}/rbac/v3; permissions and principals are
        one sort of condition here.
"""

from dataclasses import dataclass
from enum import IntEnum

from agent.model.matchers import HeaderMatcher, StringMatcher


class Action(IntEnum):
    """envoy.config.rbac.v3.RBAC.Action."""

    ALLOW = 0
    DENY = 1
    LOG = 2


class Side(IntEnum):
    """Whose address: of the peer, of the client as x-forwarded-for is believed, our own."""

    DIRECT = 0
    REMOTE = 1
    LOCAL = 2


# --- values in metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class TextValue:
    matcher: StringMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class BoolValue:
    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PresentValue:
    """`value` False: nothing fits, as in Envoy."""

    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NullValue:
    """It is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListValue:
    """A list with one entry that fits."""

    one_of: "ValueTest"


@dataclass(frozen=True, slots=True, kw_only=True)
class EitherValue:
    tests: tuple["ValueTest", ...]


ValueTest = TextValue | BoolValue | PresentValue | NullValue | ListValue | EitherValue


# --- conditions


@dataclass(frozen=True, slots=True, kw_only=True)
class Anybody:
    """Always holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    conditions: tuple["Condition", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AllOf:
    conditions: tuple["Condition", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Not:
    condition: "Condition"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderIs:
    matcher: HeaderMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class PathIs:
    """The path without its query and fragment."""

    matcher: StringMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressIn:
    """`network`: an address with its prefix length."""

    side: Side
    network: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PortIn:
    """Our own port, in [low, high)."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIs:
    """The name in the peer's verified certificate: URI SANs, else DNS SANs, else the subject; None = whatever name."""

    matcher: StringMatcher | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataIs:
    """What a filter before has told: `path` of keys in the metadata of `filter`."""

    filter: str
    path: tuple[str, ...]
    value: ValueTest
    invert: bool = False


Condition = Anybody | AnyOf | AllOf | Not | HeaderIs | PathIs | AddressIn | PortIn | PeerIs | MetadataIs


@dataclass(frozen=True, slots=True, kw_only=True)
class RbacPolicy:
    name: str
    condition: Condition


@dataclass(frozen=True, slots=True, kw_only=True)
class RbacRules:
    """`policies` by name, sorted: the first that matches is the one that counts."""

    action: Action
    policies: tuple[RbacPolicy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rbac:
    """`shadow` decides nothing: it is counted, and told to the filters behind. Prefixes: of statistics."""

    rules: RbacRules | None = None
    shadow: RbacRules | None = None
    prefix: str = ""
    shadow_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkRbac:
    """The same for connections; `stat_prefix` as in statistics' names."""

    stat_prefix: str
    rbac: Rbac
