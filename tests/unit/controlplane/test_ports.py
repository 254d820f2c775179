"""How a port is bound, and by which address others reach it."""

import socket

import grpc
import pytest

from controlplane import ports
from mesh.errors import ErrorCode, MeshError


def test_others_reach_it_by_the_machines_name_where_it_listens_everywhere() -> None:
    name = socket.gethostname()
    assert ports.reachable("0.0.0.0:8080") == ports.reachable("[::]:8080") == f"{name}:8080"
    assert [ports.reachable(text) for text in ("10.0.0.1:80", "[::1]:80")] == ["10.0.0.1:80", "[::1]:80"]


async def test_what_is_bound_says_its_port() -> None:
    server = grpc.aio.server()
    host, _, port = ports._bind(server, "127.0.0.1:0", None).rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    await server.stop(None)


async def test_a_port_that_is_taken_names_its_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = ports._server()
        with pytest.raises(MeshError, match=f"cannot listen on {address}") as caught:
            ports._bind(server, address, None)
        await server.stop(None)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "another control plane" in caught.value.hint
