"""Keys and certificate requests, made in a child process so that this one never loads `cryptography`.

Owns:   running the child (agent.identity.keymaker) and checking what it says.
Not:    signing, storing.
Invariant: the child gets no descriptor but its own pipes, and at most KEYMAKER_S.
"""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.errors import ErrorCode, MeshError

KEYMAKER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NewKey:
    """A key that nobody has signed for yet."""

    spiffe_id: str
    key_pem: bytes
    csr_der: bytes

    def __repr__(self) -> str:
        return f"NewKey(spiffe_id={self.spiffe_id!r}, key_pem=[redacted])"


async def make_keys(spiffe_ids: Sequence[str]) -> tuple[NewKey, ...]:
    """A fresh key for each identity, in their order (1 to 64). Raises INTERNAL when the child fails."""
    try:
        out = await _run(json.dumps(list(spiffe_ids)).encode())
        made = tuple(
            NewKey(
                spiffe_id=item["spiffe_id"],
                key_pem=item["key_pem"].encode(),
                csr_der=base64.b64decode(item["csr_der"]),
            )
            for item in json.loads(out)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _failed(repr(error)) from error
    if [item.spiffe_id for item in made] != list(spiffe_ids):
        raise _failed("found other identities than were asked for")
    return made


async def _run(asked: bytes) -> bytes:
    child = _start()
    try:
        out, err = await asyncio.to_thread(child.communicate, asked, KEYMAKER_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()  # closes its pipes
        raise _failed(f"found no answer within {KEYMAKER_S:g} s") from None
    finally:
        # When this task was cancelled, a thread is still reading: that ends too.
        child.kill()
        child.wait()
    if child.returncode != 0:
        raise _failed(f"exit code {child.returncode}: {err.decode(errors='replace')[-500:]}")
    return out


def _start() -> "subprocess.Popen[bytes]":
    """Not by the loop: uvloop forks, and gRPC's fork handlers crash such a child now and then while its threads are at
    work. Popen starts a child without them (vfork)."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "agent.identity.keymaker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def _failed(reason: str) -> MeshError:
    return MeshError(ErrorCode.INTERNAL, f"keys could not be made: {reason}", subject="keymaker")
