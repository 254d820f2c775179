"""The state directory belongs to one control plane; the replica keeps its name; ready.json is whole or absent."""

import json
import re
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from controlplane import files
from controlplane.settings import Settings
from mesh.errors import ErrorCode, MeshError


def settings(state_dir: Path) -> Settings:
    return Settings(etcd="127.0.0.1:2379", state_dir=str(state_dir))


async def test_one_at_a_time_uses_a_state_directory(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    async with AsyncExitStack() as first:
        assert files.take_state_dir(settings(folder), first) == folder
        assert folder.stat().st_mode & 0o777 == 0o700
        async with AsyncExitStack() as second:
            with pytest.raises(MeshError, match="another control plane uses") as caught:
                files.take_state_dir(settings(folder), second)
        assert (caught.value.code, caught.value.subject) == (ErrorCode.SETTINGS, "state_dir")
    async with AsyncExitStack() as third:
        assert files.take_state_dir(settings(folder), third) == folder


async def test_a_predecessors_ready_file_says_nothing_of_its_successor(tmp_path: Path) -> None:
    (tmp_path / files.READY).write_text("{}")
    async with AsyncExitStack() as stack:
        files.take_state_dir(settings(tmp_path), stack)
        assert not (tmp_path / files.READY).exists()


async def test_a_folder_that_cannot_be_made_is_a_bad_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with AsyncExitStack() as stack:
        with pytest.raises(MeshError, match="cannot write in") as caught:
            files.take_state_dir(settings(tmp_path / "file" / "state"), stack)
    assert (caught.value.code, caught.value.subject) == (ErrorCode.SETTINGS, "state_dir")


def test_a_replica_keeps_its_name(tmp_path: Path) -> None:
    name = files.replica_id(tmp_path)
    assert re.fullmatch("cp-[0-9a-f]{8}", name)
    assert files.replica_id(tmp_path) == name
    (tmp_path / "replica-id").write_text("\n")  # a disk that was full
    assert re.fullmatch("cp-[0-9a-f]{8}", files.replica_id(tmp_path))


def test_ready_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / files.READY
    path.write_text("something of before, which is longer than what follows")
    files.write_ready(path, {"rest": "127.0.0.1:8080", "pid": 7})
    assert json.loads(path.read_text()) == {"rest": "127.0.0.1:8080", "pid": 7}
    assert [item.name for item in tmp_path.iterdir()] == [files.READY]


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_file_that_cannot_be_read_is_named_by_its_setting(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MeshError, match=re.escape(f"cannot read {path}")) as caught:
        files.read_text("api_token_file", str(path))
    assert (caught.value.code, caught.value.subject) == (ErrorCode.SETTINGS, "api_token_file")
