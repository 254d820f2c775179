"""The node's own identity: read, read again after a predecessor, waited for, shown."""

import asyncio
from pathlib import Path

import grpc
import pytest

from agent import settings
from agent.identity.vault import Identity, Vault
from agent.supervisor.node_identity import NodeIdentity
from mesh.tasks import cancel_and_wait, spawn
from tests.support.clock import ManualClock
from tests.support.identities import TestAuthority

NODE = "spiffe://td/node/n1"


def made(folder: Path, *, mode: str = "mesh", keys: str = "disk") -> NodeIdentity:
    return NodeIdentity(
        settings.Settings(
            node=settings.NodeSettings(name="n1", address="127.0.0.1"),
            control_plane=settings.ControlPlaneSettings(address="127.0.0.1:1", mode=mode, trust_domain="td"),
            proxy=settings.ProxySettings(state_dir=str(folder), keys=keys),
        ),
        clock=ManualClock(),
        on_change=lambda _: None,
    )


def store(folder: Path, *, not_after_s: float = 9e9) -> None:
    authority = TestAuthority()
    pair = authority.issue(NODE)
    item = Identity(
        spiffe_id=NODE, chain_pem=pair.chain_pem, key_pem=pair.key_pem, not_before_s=0.0, not_after_s=not_after_s
    )
    Vault(folder / "identity").store([item], authority.trust_pem)


async def test_what_a_predecessor_has_stored_is_read_by_the_next_load(tmp_path: Path) -> None:
    identity = made(tmp_path)
    assert identity.keeper.node_identity is None
    store(tmp_path)
    identity.load()
    assert list(identity.vault.identities) == [NODE]
    assert identity.keeper.node_identity == identity.vault.identities[NODE]


@pytest.mark.parametrize(("mode", "keys"), [("xds", "disk"), ("mesh", "memory")])
async def test_nothing_is_stored_for_a_foreign_server_nor_with_keys_in_memory(
    tmp_path: Path, mode: str, keys: str
) -> None:
    store(tmp_path)
    identity = made(tmp_path, mode=mode, keys=keys)
    assert not identity.vault.identities
    identity.vault.store([], b"roots")
    assert Vault(tmp_path / "identity").load(0.0) == ()
    assert b'"roots"' not in (tmp_path / "identity" / "roots.json").read_bytes()


async def test_a_problem_of_a_stored_identity_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store(tmp_path, not_after_s=1.0)
    identity = made(tmp_path)
    identity.load()
    said = [record for record in caplog.records if record.message == "a stored identity is not used"]
    assert len(said) == 1


async def test_work_begins_with_the_first_identity(tmp_path: Path) -> None:
    identity = made(tmp_path)
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()

    task = spawn("work", identity.when_held(work()))
    identity.look()  # nothing is held yet
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not begun.is_set()
    store(tmp_path)
    identity.load()
    identity.look()
    async with asyncio.timeout(5):
        await task
    assert begun.is_set()


async def test_work_that_never_begins_is_closed(tmp_path: Path) -> None:
    async def work() -> None: ...

    waiting = work()
    task = spawn("work", made(tmp_path).when_held(waiting))
    await asyncio.sleep(0)
    await cancel_and_wait(task)
    with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
        await waiting


async def test_there_is_no_channel_of_ours_without_an_identity(tmp_path: Path) -> None:
    identity = made(tmp_path)
    with pytest.raises(LookupError):
        identity.connect()
    store(tmp_path)
    identity.load()
    channel = identity.connect()
    assert isinstance(channel, grpc.aio.Channel)
    await channel.close()
    foreign = made(tmp_path / "other", mode="xds").connect()
    assert isinstance(foreign, grpc.aio.Channel)
    await foreign.close()
