"""The embedded etcd: its directory, its port, its restarts, and what it says when it cannot start."""

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from controlplane.store import schema
from controlplane.store.embedded import EmbeddedEtcd, EmbeddedOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.protocol import Put
from mesh.errors import ErrorCode, MeshError
from tests.contract.conftest import alive, until

pytestmark = pytest.mark.etcd


async def refused(options: EmbeddedOptions) -> MeshError:
    with pytest.raises(MeshError) as failure:
        await EmbeddedEtcd(options).start()
    return failure.value


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    directory = tmp_path / "etcd"
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=directory))
    await etcd.start()
    store = EtcdStore(etcd.client_options())
    await store.transact([], [Put("/a", b"1")])
    store_id = await schema.ensure_schema(store, new_store_id=lambda: "first")
    await store.close()
    pid = etcd.pid
    await etcd.stop()
    assert not alive(pid)
    assert etcd.pid == 0

    again = EmbeddedEtcd(EmbeddedOptions(directory=directory))
    await again.start()
    store = EtcdStore(again.client_options())
    entry = await store.get("/a")
    assert entry is not None
    assert entry.value == b"1"
    assert await schema.ensure_schema(store, new_store_id=lambda: "second") == store_id == "first"
    await store.close()
    await again.stop()


async def test_the_directory_is_private_and_for_one(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "etcd"
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=directory))
    await etcd.start()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE(etcd.log_file.stat().st_mode) == 0o600

    error = await refused(EmbeddedOptions(directory=directory))
    assert error.code is ErrorCode.SETTINGS
    assert "another control plane uses this directory" in str(error)
    await etcd.stop()


async def test_it_inherits_no_input_and_no_output(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=tmp_path))
    await etcd.start()
    links = [str(Path(f"/proc/{etcd.pid}/fd/{fd}").readlink()) for fd in (0, 1, 2)]
    assert links == ["/dev/null", str(etcd.log_file), str(etcd.log_file)]
    await etcd.stop()


async def test_a_killed_etcd_is_started_again_on_its_port(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=tmp_path))
    await etcd.start()
    endpoint, pid = etcd.endpoint, etcd.pid
    store = EtcdStore(etcd.client_options())
    await store.transact([], [Put("/a", b"1")])
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: etcd.pid not in (0, pid))
    assert etcd.endpoint == endpoint
    # Without a word from the caller: calls wait for it within their time.
    assert await store.get("/a") is not None
    await store.close()
    await etcd.stop()


async def test_variables_meant_for_another_etcd_do_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")
    monkeypatch.setenv("ETCD_INITIAL_CLUSTER_STATE", "existing")
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=tmp_path))
    await etcd.start()
    await etcd.stop()


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = await refused(EmbeddedOptions(directory=tmp_path, client_port=port))
    assert error.code is ErrorCode.SETTINGS
    assert f"port {port} on 127.0.0.1" in str(error)
    # The directory was given free again.
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=tmp_path))
    await etcd.start()
    await etcd.stop()


async def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = await refused(EmbeddedOptions(directory=tmp_path / "file" / "etcd"))
    assert error.code is ErrorCode.SETTINGS
    assert "cannot write in" in str(error)


async def test_a_missing_program_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = await refused(EmbeddedOptions(directory=tmp_path / "etcd"))
    assert error.code is ErrorCode.SETTINGS
    assert "pip install" in str(error)
    assert "--etcd host:2379" in str(error)


async def test_a_program_that_ends_at_once_shows_where_to_look(tmp_path: Path) -> None:
    etcd = EmbeddedOptions(directory=tmp_path, extra_flags=("--no-such-flag",))
    error = await refused(etcd)
    assert error.code is ErrorCode.UNAVAILABLE
    assert "exit code" in str(error)
    assert str(tmp_path / "etcd.log") in str(error)
    assert "no-such-flag" in (tmp_path / "etcd.log").read_text()


async def test_it_starts_only_from_the_main_thread(tmp_path: Path) -> None:
    etcd = EmbeddedEtcd(EmbeddedOptions(directory=tmp_path))
    with pytest.raises(MeshError, match="main thread"):
        await asyncio.to_thread(asyncio.run, etcd.start())
