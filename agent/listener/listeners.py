"""The listeners of a worker: which socket is accepted on, which filter chains new connections get, what drains.

Owns:   starting and stopping acceptors, swapping chains, draining old ones, the end of everything at Drain.
Not:    one acceptor (acceptor), one connection (agent.proxy), what a chain is made of (agent.proxy).
Source: Envoy's listener update: only chains that have changed are drained; Istio's drainDuration, 45 s.
Invariants: a new connection gets the chains of the last Commit; a chain whose configuration is the same stays, with its
        connections; an old chain's connections end with their next answer, those that have none are closed after
        OLD_CHAIN_S, and all are cut CUT_S later; a stopped listener closes this process's descriptor only, the
        supervisor keeps the socket.
"""

from collections.abc import Callable, Mapping
from socket import socket
from typing import Any, Protocol

from agent.listener import acceptor
from agent.listener.acceptor import Acceptor
from agent.model.listener import FilterChain, Listener
from agent.proxy.chain import asking_identity
from agent.proxy.runtime import Runtime
from agent.stats.groups import Group
from agent.stats.names import listener_group
from mesh.logs import get_logger

_log = get_logger(__name__)

OLD_CHAIN_S = 45.0
CUT_S = 2.0


class Chain(acceptor.Chain, Protocol):
    """A filter chain in use: HTTP or TCP."""

    @property
    def active(self) -> int: ...
    def drain(self) -> None: ...
    def follow(self, successor: Any) -> None:
        """Judge requests on open connections as the chain does that new ones get."""
        ...

    def close_idle(self) -> None: ...
    def abort(self) -> None: ...


MakeChain = Callable[[Runtime, Listener, FilterChain, Group], Chain]


class _Live:
    """One listener. `chains` in order, by the configuration that they were made from."""

    __slots__ = ("acceptor", "chains", "config", "order", "sock", "stats")

    def __init__(self, config: Listener, stats: Group) -> None:
        self.config = config
        self.stats = stats
        self.sock: socket | None = None
        self.acceptor: Acceptor | None = None
        self.chains: dict[FilterChain, Chain] = {}
        self.order: tuple[Chain, ...] = ()


class Listeners:
    """All listeners of this worker. Make it inside a running loop."""

    def __init__(self, runtime: Runtime, make_chain: MakeChain) -> None:
        self._runtime = runtime
        self._make_chain = make_chain
        self._live: dict[str, _Live] = {}
        self._old: list[tuple[float, Chain]] = []  # (when its idle connections are closed, chain)
        self._stopped: list[Acceptor] = []  # those that have accepted what is not served yet
        self._draining = False
        self._unusable: dict[str, str] = {}  # listener -> which chain is not as configured, and why

    @property
    def problems(self) -> Mapping[str, str]:
        """Listener -> why it is not (wholly) as configured."""
        unbound = {name: "no socket has come for it" for name, live in self._live.items() if live.sock is None}
        return unbound | self._unusable

    @property
    def descriptors(self) -> Mapping[str, int]:
        """What is accepted on, by listener."""
        return {name: live.sock.fileno() for name, live in self._live.items() if live.acceptor and live.sock}

    @property
    def active(self) -> int:
        """Connections that are open or about to be."""
        acceptors = [live.acceptor for live in self._live.values() if live.acceptor] + self._stopped
        return sum(chain.active for chain in self._all_chains()) + sum(own.pending for own in acceptors)

    # --- configuration ----------------------------------------------------------------------------------------

    def put(self, config: Listener, sock: socket | None) -> None:
        """Serve a new or changed listener; `sock`: a socket that has come for it since the last Commit."""
        live = self._live.get(config.name)
        if live is None:
            live = self._live[config.name] = _Live(config, self._stats(config))
        elif (config.address, config.port) != (live.config.address, live.config.port):
            live.stats = self._stats(config)
        self._swap_chains(live, config)
        self.set_socket(config.name, sock)

    def set_socket(self, name: str, sock: socket | None) -> None:
        """Accept on another socket from now on; None = on the one of before. One of an unknown listener is closed."""
        live = self._live.get(name)
        if live is None or self._draining:
            if sock is not None:
                sock.close()
            return
        if sock is not None:
            self._stop(live)
            live.sock = sock
        if live.sock is not None and live.acceptor is None:
            live.acceptor = self._accept(live, live.sock)

    def remove(self, name: str) -> None:
        """Accept no more; what is open drains."""
        live = self._live.pop(name, None)
        self._unusable.pop(name, None)
        if live is not None:
            self._stop(live)
            self._retire(live.order)
            self._runtime.stats.drop(_stats_key(live.config))

    def _stats(self, config: Listener) -> Group:
        return self._runtime.stats.get(_stats_key(config), lambda: listener_group(config.address, config.port))

    def _swap_chains(self, live: _Live, config: Listener) -> None:
        same = _shared_by_chains(live.config) == _shared_by_chains(config)
        before = live.chains if same else {}
        self._unusable.pop(config.name, None)
        made: dict[FilterChain, Chain] = {}
        for part in config.filter_chains:
            try:
                made[part] = before.get(part) or self._make_chain(self._runtime, config, part, live.stats)
            except Exception as error:  # noqa: BLE001 - one unusable chain must not cost the others; it is reported
                _log.error("a filter chain cannot be used", listener=config.name, chain=part.name, exc_info=error)
                self._unusable[config.name] = f"filter chain {part.name} cannot be used: {error}"
        if config.name in self._unusable and live.order:
            return  # the last good ones stay
        kept = set(map(id, made.values()))
        _succeed(live.chains, made)
        self._retire(tuple(chain for chain in live.order if id(chain) not in kept))
        live.config, live.chains, live.order = config, made, tuple(made.values())

    def _accept(self, live: _Live, sock: socket) -> Acceptor:
        runtime = self._runtime
        return Acceptor(sock, live.config.name, lambda: live.order, runtime.tls, runtime.wheel, live.stats)

    def _stop(self, live: _Live) -> None:
        if live.acceptor is not None:
            live.acceptor.stop()
            self._stopped.append(live.acceptor)
        elif live.sock is not None:
            live.sock.close()
        live.acceptor = live.sock = None

    def _retire(self, chains: tuple[Chain, ...]) -> None:
        until = self._runtime.clock() + OLD_CHAIN_S
        for chain in chains:
            chain.drain()
            self._old.append((until, chain))

    def _all_chains(self) -> list[Chain]:
        return [chain for live in self._live.values() for chain in live.order] + [chain for _, chain in self._old]

    # --- time and the end -------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second: forget what has drained, close and cut what has drained for too long."""
        now = self._runtime.clock()
        for until, chain in self._old:
            if now >= until + CUT_S:
                chain.abort()
            elif now >= until:
                chain.close_idle()
        self._stopped = [stopped for stopped in self._stopped if stopped.pending]
        # An old chain without connections may still get one that is in its handshake.
        self._old = [(until, chain) for until, chain in self._old if chain.active or now < until]

    def drain(self) -> None:
        """Accept no more anywhere; every connection ends with its next answer."""
        self._draining = True
        for live in self._live.values():
            self._stop(live)
            for chain in live.order:
                chain.drain()

    def close_idle(self) -> None:
        """Close the connections that have no request."""
        for chain in self._all_chains():
            chain.close_idle()

    def abort(self) -> None:
        """Cut everything that is left."""
        for stopped in self._stopped:
            stopped.abandon()
        for chain in self._all_chains():
            chain.abort()


def _succeed(before: dict[FilterChain, Chain], after: dict[FilterChain, Chain]) -> None:
    """Who may ask what holds at once, also on connections that are open: chains of one name follow each other."""
    by_name = {config.name: chain for config, chain in after.items()}
    for config, chain in before.items():
        successor = by_name.get(config.name)
        if config.name and successor is not None and successor is not chain:
            chain.follow(successor)


def _shared_by_chains(config: Listener) -> tuple[object, ...]:
    """What a chain takes from its listener."""
    names = config.name, config.identity, asking_identity(config), config.workload
    return *names, config.address, config.port, config.direction, config.per_connection_buffer_limit_bytes


def _stats_key(config: Listener) -> str:
    return f"listener.{config.address}_{config.port}."
