"""Replacing a private file as a whole.

Owns:   the scratch file beside it, its mode 0600, the rename.
Not:    folders, formats, checksums.
Invariant: a reader finds the old content or the new, never a part; when it fails no scratch file is left to fill a
        full disk further.
"""

import os
from pathlib import Path


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `<stem>.new`, and rename that to `path`. Raises OSError."""
    scratch = path.with_suffix(".new")
    try:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
        raise
