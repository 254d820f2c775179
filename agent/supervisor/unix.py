"""AF_UNIX sockets in the state directory, whatever the length of its path.

Source: unix(7): a path has at most 107 bytes; proc(5): /proc/self/fd/N stands for an open directory.
Invariant: a socket's file is 0600 from its first moment (the directory is 0700 too).
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def bind_unix(sock: socket.socket, path: Path) -> None:
    """Bind at `path`. Raises OSError."""
    with _short(path) as short:
        os.fchmod(sock.fileno(), 0o600)  # what bind makes gets the socket's mode
        sock.bind(short)


def connect_unix(path: Path, timeout_s: float) -> socket.socket:
    """A connected stream socket. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        with _short(path) as short:
            sock.connect(short)
    except OSError:
        sock.close()
        raise
    return sock
