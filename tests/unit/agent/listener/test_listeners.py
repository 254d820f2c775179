"""Which chains a new connection gets, and how long an old one lives. Real sockets, fake chains, a clock by hand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from socket import socket
from typing import Any

import pytest

from agent.listener.listeners import CUT_S, OLD_CHAIN_S, Listeners
from agent.model.listener import Direction, FilterChain, HttpConnectionManager, Listener, TcpProxy
from agent.model.tls import DownstreamTls
from agent.proxy.runtime import Runtime
from agent.stats.groups import Group
from agent.stats.names import LISTENER_CX_TOTAL, LISTENER_NO_FILTER_CHAIN
from agent.upstream.wheel import TimerWheel
from tests.support.clock import ManualClock
from tests.support.workers import listen


class Chain:
    """Tells its name to whoever connects, and keeps the connection."""

    def __init__(self, config: FilterChain, stats: Group) -> None:
        self.config, self.stats = config, stats
        self.transport, self.tls = config.transport, config.tls
        self.server_names = config.server_names
        self.active = 0
        self.said: list[str] = []
        self.open: list[Any] = []

    def connection(self, peer_address: str, local_address: str) -> asyncio.Protocol:
        chain = self

        class Connection(asyncio.Protocol):
            def connection_made(self, transport: Any) -> None:
                chain.active += 1
                chain.open.append(transport)
                transport.write(chain.config.name.encode() + b"\n")

        return Connection()

    def drain(self) -> None:
        self.said.append("drain")

    def follow(self, successor: Any) -> None:
        self.said.append(f"follow {successor.config.name}")

    def close_idle(self) -> None:
        self.said.append("close_idle")

    def abort(self) -> None:
        self.said.append("abort")
        self.active = 0


class Served:
    """Listeners over fake chains."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = ManualClock()
        self.made: list[Chain] = []
        self.runtime = Runtime(
            node="n", wheel=TimerWheel(asyncio.get_running_loop()), log_path=tmp_path / "log",
            clock=self.clock.monotonic,
        )  # fmt: skip
        self.listeners = Listeners(self.runtime, self._make)

    def _make(self, runtime: Runtime, listener: Listener, config: FilterChain, stats: Group) -> Chain:
        if config.name.startswith("bad"):
            raise ValueError("%BOGUS% is no operator")
        self.made.append(Chain(config, stats))
        return self.made[-1]

    def close(self) -> None:
        for chain in self.made:
            for transport in chain.open:
                transport.abort()
        self.listeners.drain()
        self.runtime.wheel.close()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def chain(name: str, **more: Any) -> FilterChain:
    return FilterChain(name=name, network=TcpProxy(stat_prefix="t", cluster="c"), **more)


def config(*chains: FilterChain, port: int = 1, **more: Any) -> Listener:
    return Listener(
        name="l", address="127.0.0.1", port=port, direction=Direction.INBOUND, filter_chains=chains, **more
    )  # fmt: skip


async def asked(sock: socket) -> str:
    """The name of the chain that takes a new connection."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        line = await reader.readline()
        writer.close()
    return line.decode().strip()


async def test_new_connections_get_the_new_chains(served: Served) -> None:
    with listen() as sock:
        served.listeners.put(config(chain("a")), sock.dup())
        assert await asked(sock) == "a"
        served.listeners.put(config(chain("b")), None)
        assert await asked(sock) == "b"
        assert served.made[0].said == ["drain"]
        assert served.made[1].said == []


async def test_open_connections_follow_the_chain_of_their_name(served: Served) -> None:
    """What a policy forbids is forbidden on them too, not after their end."""
    with listen() as sock:
        served.listeners.put(config(chain("a", transport="tls"), chain("b")), sock.dup())
        served.listeners.put(config(chain("a", transport="raw_buffer"), chain("c")), None)
        assert served.made[0].said == ["follow a", "drain"]
        assert served.made[1].said == ["drain"]


async def test_a_chain_that_is_the_same_stays(served: Served) -> None:
    with listen() as sock:
        tls, plain = chain("tls", transport="tls"), chain("raw", transport="raw_buffer")
        served.listeners.put(config(tls, plain), sock.dup())
        served.listeners.put(config(replace(tls), chain("raw2", transport="raw_buffer")), None)
        assert [made.config.name for made in served.made] == ["tls", "raw", "raw2"]
        assert [made.said for made in served.made] == [[], ["drain"], []]
        served.listeners.put(config(tls, chain("raw2", transport="raw_buffer"), identity="spiffe://td/x"), None)
        assert len(served.made) == 5, "what a chain takes from its listener has changed"


async def test_chains_are_made_anew_for_what_they_take_from_their_listener(served: Served) -> None:
    """Whose traffic it is, which its metrics say, and in whose name an inbound one asks others."""
    with listen() as sock:
        own = chain("own")
        served.listeners.put(config(own, workload="a.default"), sock.dup())
        served.listeners.put(config(own, workload="b.default"), None)
        assert [made.said for made in served.made] == [["follow own", "drain"], []]
        shown = chain("tls", transport="tls", tls=DownstreamTls(identity="spiffe://td/ns/n/sa/b"))
        served.listeners.put(config(own, shown, workload="b.default"), None)
        assert [made.config.name for made in served.made] == ["own", "own", "own", "tls"]


async def test_an_old_chain_is_closed_and_cut_in_time(served: Served) -> None:
    with listen() as sock:
        served.listeners.put(config(chain("a")), sock.dup())
        await asked(sock)
        served.listeners.put(config(chain("b")), None)
        old = served.made[0]
        served.clock.advance(OLD_CHAIN_S - 1)
        served.listeners.tick()
        assert old.said == ["drain"]
        served.clock.advance(1)
        served.listeners.tick()
        assert old.said == ["drain", "close_idle"]
        assert served.listeners.active == 1
        served.clock.advance(CUT_S)
        served.listeners.tick()
        assert old.said[-1] == "abort"
        served.clock.advance(1)
        served.listeners.tick()
        assert served.listeners.active == 0
        assert old.said.count("abort") == 1, "it is forgotten"


async def test_a_bad_chain_leaves_the_last_good_ones(served: Served) -> None:
    with listen() as sock:
        served.listeners.put(config(chain("a")), sock.dup())
        served.listeners.put(config(chain("bad")), None)
        assert served.listeners.problems == {"l": "filter chain bad cannot be used: %BOGUS% is no operator"}
        assert await asked(sock) == "a"
        served.listeners.put(config(chain("c")), None)
        assert served.listeners.problems == {}
        assert await asked(sock) == "c"


async def test_a_bad_chain_of_a_new_listener_costs_that_chain(served: Served) -> None:
    with listen() as sock:
        served.listeners.put(config(chain("bad", transport="tls"), chain("good")), sock.dup())
        assert "bad" in served.listeners.problems["l"]
        assert await asked(sock) == "good"


async def test_no_chain_for_what_comes(served: Served) -> None:
    with listen() as sock:
        served.listeners.put(config(chain("tls", transport="tls")), sock.dup())
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            try:
                assert await reader.read() == b""
            except ConnectionError:
                pass  # it was reset, which is as good
        writer.close()
        counts = served.runtime.stats.get("listener.127.0.0.1_1.", _never).counts
        assert (counts[LISTENER_CX_TOTAL], counts[LISTENER_NO_FILTER_CHAIN]) == (1, 1)


def _never() -> Group:
    raise AssertionError("the listener has made its group")


async def test_sockets_come_go_and_are_replaced(served: Served) -> None:
    with listen() as one, listen() as two:
        served.listeners.put(config(chain("a")), None)
        assert served.listeners.problems == {"l": "no socket has come for it"}
        assert served.listeners.descriptors == {}
        served.listeners.set_socket("l", one.dup())
        assert served.listeners.problems == {}
        assert await asked(one) == "a"
        served.listeners.set_socket("l", two.dup())
        assert await asked(two) == "a"
        assert len(served.listeners.descriptors) == 1
        lost = one.dup()
        served.listeners.set_socket("unknown", lost)
        assert lost.fileno() == -1, "nobody would ever accept on it"
        served.listeners.remove("l")
        assert served.listeners.descriptors == {}


async def test_drain_is_the_end_of_accepting(served: Served) -> None:
    with listen() as sock:
        served.listeners.put(config(chain("a")), sock.dup())
        await asked(sock)
        served.listeners.drain()
        assert served.made[0].said == ["drain"]
        assert served.listeners.active == 1
        late = sock.dup()
        served.listeners.set_socket("l", late)
        assert late.fileno() == -1
        served.listeners.close_idle()
        served.listeners.abort()
        assert served.made[0].said == ["drain", "close_idle", "abort"]
        assert served.listeners.active == 0


def test_http_and_tcp_chains_can_be_told_apart_by_their_config() -> None:
    """Chains are known by their whole configuration: it has to be hashable."""
    http = FilterChain(name="x", network=HttpConnectionManager(stat_prefix="s", route_config="r"))
    assert len({http, chain("x"), replace(http)}) == 2
