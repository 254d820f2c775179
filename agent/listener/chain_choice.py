"""Which filter chain a connection gets: by the server name that it asks for, and by whether it is TLS at all.

Source: Envoy's FilterChainManager: server names before transport protocols; an exact name before `*.suffix`, the
        longest suffix first, chains without names last.
Invariants: a choice costs one lookup per label of the name, however many chains there are; of chains with one name the
        first that takes the transport is chosen.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

TLS = "tls"
RAW = "raw_buffer"


class Chosen(Protocol):
    """A filter chain, as far as it is chosen."""

    @property
    def transport(self) -> str: ...
    @property
    def server_names(self) -> tuple[str, ...]: ...


C = TypeVar("C", bound=Chosen)


class ChainChoice(Generic[C]):
    """The chains of a listener, best first. `by_name`: the whole ClientHello has to be seen."""

    __slots__ = ("_named", "_rest", "by_name", "chains")

    def __init__(self, chains: tuple[C, ...]) -> None:
        self.chains = chains
        self._named: dict[str, list[C]] = {}
        self._rest: list[C] = []
        for chain in self.chains:
            if not chain.server_names:
                self._rest.append(chain)
            for name in chain.server_names:
                self._named.setdefault(name, []).append(chain)
        self.by_name = bool(self._named)

    def choose(self, transport: str, name: str = "") -> C | None:
        """The chain of a connection; None = nobody takes it."""
        if name and self._named:
            found = _first(self._named.get(name, ()), transport)
            at = name.find(".")
            while found is None and at >= 0:
                found = _first(self._named.get(f"*{name[at:]}", ()), transport)
                at = name.find(".", at + 1)
            if found is not None:
                return found
        return _first(self._rest, transport)


def _first(chains: Iterable[C], transport: str) -> C | None:
    return next((chain for chain in chains if chain.transport in (transport, "")), None)
