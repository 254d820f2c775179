"""What a person asks for: which share of a service's requests each subset gets, a mirror, for which header. Pure.

v1=80 v2=20   --mirror v2=10   --header x-canary=yes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.policy.syntax import is_dns_label
from mesh.errors import ErrorCode, MeshError

WHOLE = 100


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copies of `percent` (above 0, up to 100) of the requests go to `subset`."""

    subset: str
    percent: float = float(WHOLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """`weights`: subset -> percent, empty = as they are; `headers`: exact values by lower-case name, empty = the rule
    for everybody; `remove`: take the rule for these headers away."""

    weights: Mapping[str, int] = field(default_factory=dict)
    mirror: Mirror | None = None
    no_mirror: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    remove: bool = False

    @property
    def nothing(self) -> bool:
        """Whether nothing shall change."""
        return not (self.weights or self.mirror or self.no_mirror or self.remove)

    @property
    def used(self) -> tuple[str, ...]:
        """The subsets that would get requests, or copies of them."""
        own = [name for name, weight in self.weights.items() if weight]
        return tuple(dict.fromkeys([*own, *([self.mirror.subset] if self.mirror else [])]))

    @property
    def named(self) -> tuple[str, ...]:
        """Every subset that must be defined."""
        return tuple(dict.fromkeys([*self.weights, *self.used]))


def weights_of(words: Sequence[str]) -> dict[str, int]:
    """Of `v1=80 v2=20`. Raises SETTINGS unless they are whole percents of different subsets that add up to 100."""
    weights: dict[str, int] = {}
    for word in words:
        subset, _, number = word.partition("=")
        digits = number.removesuffix("%")
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= 3 and int(digits) <= WHOLE):
            raise _wrong("SUBSET=PERCENT", word, "a subset and its percent, such as v2=20")
        if subset in weights:
            raise _wrong("SUBSET=PERCENT", f"{subset} twice", "each subset once")
        weights[_subset("SUBSET=PERCENT", subset)] = int(digits)
    if weights and sum(weights.values()) != WHOLE:
        raise _wrong("SUBSET=PERCENT", f"a sum of {sum(weights.values())}", f"percents that add up to {WHOLE}")
    return weights


def mirror_of(text: str) -> Mirror:
    """Of `v2` or `v2=10`. Raises SETTINGS."""
    subset, equals, number = text.partition("=")
    digits = number.removesuffix("%")
    if not equals:
        return Mirror(_subset("--mirror", subset))
    if not digits.replace(".", "", 1).isdecimal() or not digits.isascii() or not 0 < float(digits) <= WHOLE:
        raise _wrong("--mirror", text, "SUBSET, or SUBSET=PERCENT above 0 and up to 100")
    return Mirror(_subset("--mirror", subset), float(digits))


def headers_of(words: Sequence[str]) -> dict[str, str]:
    """Of `x-canary=yes`, several of which must all match. Raises SETTINGS."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise _wrong("--header", word, "NAME=VALUE")
        if name.lower() in found:
            raise _wrong("--header", f"{name} twice", "each header once")
        found[name.lower()] = value
    return found


def _subset(flag: str, name: str) -> str:
    if not is_dns_label(name):
        raise _wrong(flag, f"subset {name!r}", "a DNS label")
    return name


def _wrong(flag: str, found: str, expected: str) -> MeshError:
    return MeshError(ErrorCode.SETTINGS, f"found {found}, expected {expected}", subject=flag)
