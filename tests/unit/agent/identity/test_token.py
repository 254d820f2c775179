"""The join token's file, and the chain that a control plane shows."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.identity import token
from agent.settings import host_port
from mesh.errors import ErrorCode, MeshError
from mesh.identity import join_token
from tests.support.authorities import ServedAuthority

ROOT = hashlib.sha256(b"root").hexdigest()
TEXT = f"0123456789abcdef.s3cr-et_.{ROOT}"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedAuthority]:
    authority = await ServedAuthority.open(tmp_path / "ca")
    await authority.start()
    yield authority
    await authority.stop()


def test_the_three_parts_are_read_and_the_secret_does_not_print(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"  {TEXT}\n")
    held = token.read(path)
    assert (held.id, held.secret.reveal(), held.root_sha256) == ("0123456789abcdef", "s3cr-et_", ROOT)
    assert "s3cr-et_" not in repr(held)


def test_a_token_that_cannot_be_read_names_the_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(MeshError) as caught:
            token.read(path)
        assert caught.value.code is ErrorCode.SETTINGS
        assert str(path) in str(caught.value)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(MeshError, match="cannot be read"):
        token.read(tmp_path / "binary")


async def test_the_chain_that_a_control_plane_shows_holds_the_pinned_root(served: ServedAuthority) -> None:
    held = join_token.parse(await served.token(), "t")
    chain = await token.fetch_chain(*host_port(served.tls))
    assert len(chain) == 2
    assert token.pinned_root(chain, held, served.tls) == served.ca.trust_bundle_pem


async def test_no_control_plane_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(MeshError) as caught:
            await token.fetch_chain("127.0.0.1", port)
        assert caught.value.code is ErrorCode.UNAVAILABLE
        assert caught.value.subject == f"127.0.0.1:{port}"


async def test_a_peer_that_says_nothing_or_nonsense_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token, "FETCH_S", 0.2)
    for said in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes = said) -> None:
            writer.write(said)
            if not said:
                await asyncio.sleep(1)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        with pytest.raises(MeshError) as caught:
            await token.fetch_chain("127.0.0.1", server.sockets[0].getsockname()[1])
        assert caught.value.code is ErrorCode.UNAVAILABLE
        server.close()
