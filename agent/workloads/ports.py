"""Ports that the agent chooses: one inbound port per instance port, one outbound port per instance.

Owns:   the choice, and its file `ports.json`.
Not:    listening (agent.supervisor.sockets).
Source: decisions 9 and 10.
Invariants: a choice is kept for its key for ever, over restarts and re-registrations; two keys never share a port of a
        kind; a port that somebody else listens on is not chosen anew. When the range is used up, the choices of
        keys that are not registered any more are given away, the oldest first.
"""

import errno
import json
import socket
from collections.abc import Callable, Collection
from pathlib import Path

from mesh.errors import ErrorCode, MeshError
from mesh.replace_file import replace_file

FILE = "ports.json"
SCHEMA = 1
InUse = Callable[[str, int], bool]


class PortBook:
    """The choices of one kind ("inbound" or "outbound"), in the order in which they were made."""

    def __init__(self, kind: str, low: int, high: int, chosen: dict[str, int] | None = None) -> None:
        self.kind = kind
        self._low, self._high = low, high
        kept = {key: port for key, port in (chosen or {}).items() if low <= port <= high}
        self.chosen: dict[str, int] = {key: port for key, port in kept.items() if list(kept.values()).count(port) == 1}

    def choose(self, key: str, *, live: Collection[str], usable: Callable[[int], bool]) -> int:
        """The port of `key`. `live`: keys that are registered; `usable`: may a port be chosen anew? Raises CONFLICT."""
        if key in self.chosen:
            return self.chosen[key]
        taken = set(self.chosen.values())
        for port in range(self._low, self._high + 1):
            if port not in taken and usable(port):
                return self._take(key, port)
        for other in [other for other in self.chosen if other not in live]:
            port = self.chosen.pop(other)
            if usable(port):
                return self._take(key, port)
        raise MeshError(
            ErrorCode.CONFLICT,
            f"no free {self.kind} port from {self._low} to {self._high}",
            subject=key,
            hint="widen inbound_port_range" if self.kind == "inbound" else "",
        )

    def pin(self, key: str, port: int) -> bool:
        """Give `key` a port of the user's choice. False when it is another key's."""
        if any(other != key and taken == port for other, taken in self.chosen.items()):
            return False
        self.chosen[key] = port
        return True

    def _take(self, key: str, port: int) -> int:
        self.chosen[key] = port
        return port


def load(folder: Path) -> tuple[dict[str, dict[str, int]], str]:
    """(kind -> choices, what was wrong with the file)."""
    path = folder / FILE
    try:
        value = json.loads(path.read_bytes())
        if value["schema"] != SCHEMA:
            return {}, f"{path} is ignored: found schema {value['schema']}, expected {SCHEMA}"
        books = {kind: {str(key): int(port) for key, port in value[kind].items()} for kind in ("inbound", "outbound")}
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{path} is ignored: {error!r}"
    return books, ""


def save(folder: Path, books: Collection[PortBook]) -> None:
    """Replace the file. Raises OSError."""
    data = json.dumps({"schema": SCHEMA, **{book.kind: book.chosen for book in books}}).encode()
    replace_file(folder / FILE, data)


def in_use(host: str, port: int) -> bool:
    """Does somebody listen there? An address that is not this machine's counts as free: binding will say so."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
