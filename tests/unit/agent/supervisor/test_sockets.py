"""Listening sockets live as long as their listener, whoever accepts on them."""

import socket
from collections.abc import Iterator

import pytest

from agent.model.listener import Direction, FilterChain, Listener, TcpProxy
from agent.supervisor.sockets import ListenerSockets


def listener(port: int, name: str = "in", address: str = "127.0.0.1") -> Listener:
    chain = FilterChain(name="tcp", network=TcpProxy(stat_prefix="t", cluster="c"))
    return Listener(
        name=name, address=address, port=port, direction=Direction.INBOUND, filter_chains=(chain,)
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def sockets() -> Iterator[ListenerSockets]:
    made = ListenerSockets(2)
    yield made
    made.close_all()


def test_one_socket_for_each_slot(sockets: ListenerSockets) -> None:
    port = free_port()
    assert sockets.open(listener(port))
    first, second = sockets.of("in", 0), sockets.of("in", 1)
    assert first is not None
    assert second is not None
    assert first is not second
    assert first.getsockname() == second.getsockname() == ("127.0.0.1", port)
    assert sockets.open(listener(port)), "an open listener keeps its sockets"
    assert sockets.of("in", 0) is first
    assert sockets.addresses == {"in": ("127.0.0.1", port)}


def test_an_unknown_listener_has_no_socket(sockets: ListenerSockets) -> None:
    assert sockets.of("other", 0) is None
    sockets.close("other")


def test_closing_refuses_connections(sockets: ListenerSockets) -> None:
    port = free_port()
    sockets.open(listener(port))
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    sockets.close("in")
    assert sockets.addresses == {}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_a_foreign_listener_is_not_joined(sockets: ListenerSockets) -> None:
    """Also not one that would share its port by SO_REUSEPORT: it would take a part of our connections."""
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        port = foreign.getsockname()[1]
        assert not sockets.open(listener(port))
        assert sockets.problems == {"in": f"127.0.0.1:{port}: Address already in use"}
    assert sockets.open(listener(port)), "it is free now"
    assert sockets.problems == {}


def test_an_address_of_another_machine_is_a_problem(sockets: ListenerSockets) -> None:
    assert not sockets.open(listener(80, address="203.0.113.7"))
    assert sockets.problems["in"].startswith("203.0.113.7:80: ")


def test_ipv6(sockets: ListenerSockets) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            port = probe.getsockname()[1]
    except OSError:
        assert not sockets.open(listener(free_port(), address="::1")), "a machine without IPv6 says so"
        return
    assert sockets.open(listener(port, address="::1"))
    socket.create_connection(("::1", port), timeout=2).close()


def predecessors(port: int, count: int) -> list[socket.socket]:
    made = ListenerSockets(count)
    made.open(listener(port))
    found = [sock.dup() for slot in range(count) if (sock := made.of("in", slot)) is not None]
    made.close_all()
    return found


def test_adopted_sockets_are_used_with_what_waits_in_them(sockets: ListenerSockets) -> None:
    port = free_port()
    (old,) = predecessors(port, 1)
    waiting = socket.create_connection(("127.0.0.1", port), timeout=2)
    sockets.adopt(old)
    assert sockets.open(listener(port))
    assert sockets.of("in", 0) is old
    assert sockets.of("in", 1) is not None, "the slots that the predecessor had not get new ones"
    accepted, _ = old.accept()
    accepted.close()
    waiting.close()
    sockets.close_unclaimed()
    assert old.fileno() >= 0


def test_a_predecessor_with_more_slots(sockets: ListenerSockets) -> None:
    port = free_port()
    old = predecessors(port, 3)
    for sock in old:
        sockets.adopt(sock)
    assert sockets.open(listener(port))
    assert [sockets.of("in", slot) for slot in range(2)] == old[:2]
    assert old[2].fileno() == -1


def test_unclaimed_sockets_are_closed(sockets: ListenerSockets) -> None:
    port = free_port()
    (old,) = predecessors(port, 1)
    sockets.adopt(old)
    sockets.close_unclaimed()
    assert old.fileno() == -1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
