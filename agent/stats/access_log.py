"""The access-log writer: lines in, few large appends out.

Owns:   the file, its buffer and its bound, reopening.
Not:    what a line says (agent.filters makes its bytes).
Invariants: one write appends whole lines (O_APPEND), so several workers can share a file; the data path never waits
        for the disk longer than one write; when the disk refuses, lines beyond MAX_BUFFER_BYTES are dropped and
        counted, never kept.
"""

import os
from pathlib import Path

from agent.stats.groups import Group
from agent.stats.names import LOG_DROPPED, LOG_WRITE_FAILED, LOG_WRITTEN

FLUSH_BYTES = 64 * 1024
MAX_BUFFER_BYTES = 1024 * 1024


class AccessLogWriter:
    """One file. The owner calls `flush` once a second."""

    __slots__ = ("_buffer", "_descriptor", "_path", "_size", "_stats")

    def __init__(self, path: Path, stats: Group) -> None:
        self._path = path
        self._stats = stats
        self._buffer: list[bytes] = []
        self._size = 0
        self._descriptor = -1

    def write(self, line: bytes) -> None:
        """Take one line, its newline included."""
        self._buffer.append(line)
        self._size += len(line)
        if self._size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Append what is buffered. A failure is counted; the lines stay for the next try, up to the bound."""
        if not self._buffer:
            return
        data = b"".join(self._buffer)
        try:
            if self._descriptor < 0:
                self._open()
            written = os.write(self._descriptor, data)
        except OSError:
            self._failed()
            return
        rest = data[written:]
        self._stats.counts[LOG_WRITTEN] += len(self._buffer)
        self._buffer = [rest] if rest else []
        self._size = len(rest)

    def reopen(self) -> None:
        """Write on to the file that now has the path's name (after a log rotation)."""
        self.flush()
        self._close()

    def close(self) -> None:
        self.flush()
        self._close()

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _failed(self) -> None:
        self._stats.counts[LOG_WRITE_FAILED] += 1
        self._close()
        if self._size > MAX_BUFFER_BYTES:
            self._stats.counts[LOG_DROPPED] += len(self._buffer)
            self._buffer = []
            self._size = 0
