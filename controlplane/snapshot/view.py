"""What one proxy is to have: the part that its scope shares and its own part, merged when asked. Pure.

Owns:   lookup over the two parts.
Not:    compiling them (controlplane.compiler), which of it a stream asked for (controlplane.discovery).
Invariants: no copy per proxy; a View never changes; where both parts have a name, the proxy's own part wins.
"""

from collections.abc import Iterator, Mapping

from controlplane.compiler.types import Compiled, Resource

_NONE: Mapping[str, Resource] = {}


class View:
    """The resources of one proxy as of store revision `revision`."""

    __slots__ = ("own", "revision", "shared")

    def __init__(self, revision: int, shared: Compiled, own: Compiled) -> None:
        self.revision = revision
        self.shared = shared
        self.own = own

    def get(self, type_url: str, name: str) -> Resource | None:
        """The resource, or None when the proxy shall not have it."""
        found = self.own.resources.get(type_url, _NONE).get(name)
        return found if found is not None else self.shared.resources.get(type_url, _NONE).get(name)

    def names(self, type_url: str) -> Iterator[str]:
        """Every name of the type once, the own part first."""
        own = self.own.resources.get(type_url, _NONE)
        yield from own
        yield from (name for name in self.shared.resources.get(type_url, _NONE) if name not in own)

    def items(self, type_url: str) -> Iterator[tuple[str, Resource]]:
        """Every name with its resource, the own part first."""
        own = self.own.resources.get(type_url, _NONE)
        yield from own.items()
        yield from (item for item in self.shared.resources.get(type_url, _NONE).items() if item[0] not in own)


EMPTY = Compiled(resources={})
NOTHING = View(0, EMPTY, EMPTY)
