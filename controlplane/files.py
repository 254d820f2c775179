"""The files of a control plane: those that its settings name, and its state directory.

Owns:   the lock on the state directory, the replica's name, ready.json.
Not:    the CA's key there (ca), etcd's data (store.embedded).
Source: common contract of ready.json.
Invariants: one control plane at a time uses a state directory; a replica keeps its name over restarts; a reader sees
        the whole ready.json or none.
"""

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from controlplane.settings import Settings
from mesh.errors import ErrorCode, MeshError

READY = "ready.json"


def read_text(key: str, path: str) -> str:
    """The text of a file that the setting `key` names. Raises SETTINGS."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot read {path}: {error}", subject=key) from error


def take_state_dir(settings: Settings, stack: AsyncExitStack) -> Path:
    """Make the folder and lock it until `stack` ends: it holds the name of one replica."""
    path = Path(settings.state_dir).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (path / READY).unlink(missing_ok=True)
    except BlockingIOError as error:
        raise MeshError(
            ErrorCode.SETTINGS, f"another control plane uses {path}", subject="state_dir", hint="choose another folder"
        ) from error
    except OSError as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot write in {path}: {error.strerror}", subject="state_dir") from error
    return path


def replica_id(state_dir: Path) -> str:
    """A name that this replica keeps over restarts."""
    path = state_dir / "replica-id"
    with contextlib.suppress(FileNotFoundError):
        found = path.read_text().strip()
        if found:
            return found
    name = f"cp-{secrets.token_hex(4)}"
    path.write_text(name + "\n")
    return name


def write_ready(path: Path, value: Mapping[str, Any]) -> None:
    """By rename: a reader sees the whole file or none."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    draft.replace(path)
