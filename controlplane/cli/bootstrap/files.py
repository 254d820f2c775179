"""Files of a bootstrap folder, written so that a reader sees the old or the new one and nobody else reads a key.

Invariants: the folder is 0700, every file 0600, each replaced by rename (which is also what Envoy watches for).
"""

import os
from pathlib import Path

from mesh.errors import ErrorCode, MeshError


def make_folder(path: Path) -> Path:
    """The folder, absolute, made when it is not there. Raises UNAVAILABLE."""
    folder = path.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _failed(folder, error) from error
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Replace a file. Raises UNAVAILABLE."""
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.unlink(missing_ok=True)
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        raise _failed(path, error) from error


def _failed(path: Path, error: OSError) -> MeshError:
    return MeshError(ErrorCode.UNAVAILABLE, f"cannot be written: {error.strerror}", subject=str(path))
