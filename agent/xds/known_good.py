"""The last known good on disk: the raw xDS resources with their versions (decision 35).

Owns:   the file's format, reading and writing it, what is said about damaged parts.
Not:    when it is written (agent.supervisor.config_flow), the identity's files (agent.identity.vault).
Source: decision 35; design section 5.

One line per resource: CRC-32 of the rest in hex, a space, JSON [type URL, name, version, body in base64]. The first
line is of the same form and holds the schema's number and the node's name.
Invariants: the file is replaced as a whole, by rename; a damaged line costs that resource only; a resource that no
        longer decodes (after an upgrade, say) is left out and named.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.xds.resources import KIND_OF, Decode, Held
from mesh.replace_file import replace_file

FILE = "last-known-good"
SCHEMA = 1
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What the file held, and one sentence for each part that was not usable."""

    resources: tuple[Held, ...]
    problems: tuple[str, ...] = ()


def load(folder: Path, node: str, decode: Decode) -> Loaded:
    """Read the last known good of `node`. A missing file is an empty one."""
    path = folder / FILE
    try:
        if path.stat().st_size > MAX_BYTES:
            return Loaded(resources=(), problems=(f"{path}: more than {MAX_BYTES} bytes",))
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return Loaded(resources=())
    except OSError as error:
        return Loaded(resources=(), problems=(f"{path}: {error.strerror}",))
    refusal = _refusal(lines, node)
    if refusal:
        return Loaded(resources=(), problems=(f"{path}: {refusal}",))
    found: dict[tuple[str, str], Held] = {}
    problems: list[str] = []
    for number, line in enumerate(lines[1:], start=2):
        item = _read(line, decode)
        if isinstance(item, Held):
            found[item.type_url, item.name] = item
        else:
            problems.append(f"{path}:{number}: {item}")
    return Loaded(resources=tuple(found.values()), problems=tuple(problems))


def save(folder: Path, node: str, resources: Iterable[Held]) -> None:
    """Replace the file. Raises OSError."""
    lines = [_line([SCHEMA, node])]
    for item in resources:
        body = base64.b64encode(item.body).decode()
        lines.append(_line([item.type_url, item.name, item.version, body]))
    replace_file(folder / FILE, b"".join(lines))


def _line(value: list[object]) -> bytes:
    text = json.dumps(value, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _value(line: bytes) -> list[object]:
    """What a line says. Raises ValueError."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        raise ValueError("damaged")
    value = json.loads(text)
    if not isinstance(value, list):
        raise ValueError("not a record")
    return value


def _refusal(lines: list[bytes], node: str) -> str:
    """Why the whole file is not used, or nothing."""
    try:
        schema, owner = _value(lines[0])
    except (IndexError, ValueError):
        return "its first line is damaged"
    if schema != SCHEMA:
        return f"found schema {schema}, expected {SCHEMA}"
    return "" if owner == node else f"it is of node {owner}, this is {node}"


def _read(line: bytes, decode: Decode) -> Held | str:
    try:
        url, name, version, encoded = _value(line)
        body = base64.b64decode(str(encoded), validate=True)
    except (ValueError, binascii.Error) as error:
        return f"a resource is left out: {error}"
    if not isinstance(url, str) or url not in KIND_OF:
        return f"a resource is left out: unknown type {url}"
    decoded = decode(url, str(name), body)
    if isinstance(decoded, str):
        return f"{name} is left out: {decoded}"
    return Held(type_url=url, name=str(name), version=str(version), body=body, decoded=decoded)
