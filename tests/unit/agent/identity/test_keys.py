"""Keys made in a child process."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from agent.identity import keys
from agent.identity.keymaker import MAX_KEYS
from mesh.errors import ErrorCode, MeshError

IDS = ("spiffe://cluster.local/node/node-1", "spiffe://cluster.local/ns/default/sa/orders")


async def test_each_identity_gets_its_own_key_and_a_request_that_proves_it() -> None:
    made = await keys.make_keys(IDS)
    assert [item.spiffe_id for item in made] == list(IDS)
    public = []
    for item in made:
        key = load_pem_private_key(item.key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert key.curve.name == "secp256r1"
        request = x509.load_der_x509_csr(item.csr_der)
        assert request.is_signature_valid
        assert request.public_key() == key.public_key()
        public.append(key.public_key())
        assert b"PRIVATE" not in repr(item).encode()
    assert public[0] != public[1]


@pytest.mark.parametrize("asked", [[], [IDS[0]] * (MAX_KEYS + 1)])
async def test_a_request_that_the_child_refuses_is_an_error(asked: list[str]) -> None:
    with pytest.raises(MeshError, match="exit code 64") as caught:
        await keys.make_keys(asked)
    assert caught.value.code is ErrorCode.INTERNAL


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import time; time.sleep(60)", "no answer within"),
        ("print('nonsense')", "JSONDecodeError"),
        ("print('[{}]')", "KeyError"),
        ("print('[]')", "other identities"),
        ("raise SystemExit('out of entropy')", "out of entropy"),
    ],
)
async def test_a_child_that_fails_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, words: str
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(keys.sys, "executable", str(program))
    monkeypatch.setattr(keys, "KEYMAKER_S", 1.0 if "sleep" in script else 60.0)
    with pytest.raises(MeshError, match=words) as caught:
        await keys.make_keys(IDS)
    assert caught.value.code is ErrorCode.INTERNAL
    assert _children() == []


async def test_a_missing_program_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(keys.sys, "executable", str(tmp_path / "none"))
    with pytest.raises(MeshError, match="No such file"):
        await keys.make_keys(IDS)


async def test_a_cancelled_request_ends_the_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, mark = tmp_path / "python", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {mark}\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(keys.sys, "executable", str(program))
    task = asyncio.ensure_future(keys.make_keys(IDS))
    async with asyncio.timeout(10):
        while not mark.exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert _children() == []


def test_the_child_is_started_without_fork_handlers() -> None:
    """gRPC's crash a child that is forked while its threads are at work, as uvloop forks its own subprocesses."""
    code = """
import asyncio, ctypes, uvloop
from agent.identity.keys import make_keys

forks = []
count = ctypes.CFUNCTYPE(None)(lambda: forks.append(1))
ctypes.CDLL(None).__register_atfork(None, count, None, None)

async def by_the_loop():
    child = await asyncio.create_subprocess_exec("true")
    await child.wait()

uvloop.run(make_keys(["spiffe://cluster.local/node/node-1"]))
ours = len(forks)
uvloop.run(by_the_loop())
print(ours, len(forks))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "0 1\n", "none by us; the second shows that a fork would be seen"


def test_the_agents_other_parts_do_not_load_cryptography() -> None:
    code = (
        "import sys; import agent.identity.keys, agent.identity.renewal, agent.identity.vault, agent.identity.token;"
        "print([name for name in sys.modules if name.split('.')[0] == 'cryptography'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "[]\n"
