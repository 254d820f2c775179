"""Plain messages, read without llhttp: what most messages between well-behaved programs are.

A message is plain when one feed brings exactly that message, its start line and each of its field lines is of a form
on which no two parsers differ, no name comes twice, and its body, if it has one, is told by Content-Length. A field
line is examined once; after that its bytes are looked up, as most lines come again and again, but for ids.

Owns:   which messages are plain, and their heads.
Not:    all others (the parsers give them to llhttp). A program may never notice which way a message went.
Source: RFC 9112, less than it allows.
Invariants: what is plain here is read in the same way by llhttp (tests/property/test_http1.py cuts every message so
        that llhttp has it too); the lines that are held are bounded, and forgotten all at once.
"""

import re
from collections.abc import Callable
from typing import Final

from agent.codec.head import Headers, RequestHead, ResponseHead

AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
CANONICAL_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,17}")
MAX_LINE_BYTES: Final = 2048
MAX_HELD_BYTES: Final = 256 * 1024
_LINE_COST_BYTES: Final = 64  # what a line is counted with beside its own bytes
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
# Fields that say something else in each message: holding their lines would only push others out.
_NEVER_AGAIN: Final = frozenset({b"x-request-id", b"traceparent"})
_NAMES: Final = {name: name for name in _NEVER_AGAIN}  # known to be names, as they are mostly written
REQUEST_LINE: Final = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|PATCH|OPTIONS) (/[!\"$-~]*) HTTP/1\.1")
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) ((?:[!-~][ -~]*)?)")
_BODILESS: Final = frozenset({204, 205, 304})
_END: Final = b"\r\n\r\n"


def _keeps_alive(value: bytes) -> bool:
    return value.lower() == b"keep-alive"


def _never(value: bytes) -> bool:
    return False


def _is_length(value: bytes) -> bool:
    return CANONICAL_LENGTH.fullmatch(value) is not None


def _is_authority(value: bytes) -> bool:
    return AUTHORITY.fullmatch(value) is not None


Entry = tuple[bytes, bytes]  # of a line: the name in lower case, the value

# Fields that say how a message is read, by lower-case name, and with which values they are plain.
_FRAMING: Final[dict[bytes, Callable[[bytes], bool]]] = {
    b"connection": _keeps_alive,
    b"proxy-connection": _keeps_alive,
    b"content-length": _is_length,
    b"transfer-encoding": _never,
    b"upgrade": _never,
}


class FieldLines:
    """Field lines and what they say. `checks`: whether the value of a field of this lower-case name is plain."""

    __slots__ = ("_checks", "_entries", "_entry_of", "_room")

    def __init__(self, checks: dict[bytes, Callable[[bytes], bool]]) -> None:
        self._checks = checks
        self._entries: dict[bytes, Entry] = {}
        self._entry_of = self._entries.get
        self._room = MAX_HELD_BYTES

    def headers(self, lines: list[bytes]) -> Headers | None:
        """The fields of a head, None when they are not plain."""
        entries = list(map(self._entry_of, lines))
        if not all(entries) and not self._learn(lines, entries):
            return None
        index: dict[bytes, bytes] = dict(entries)  # type: ignore[arg-type]
        return Headers(lines, index) if len(index) == len(lines) else None

    def _learn(self, lines: list[bytes], entries: list[Entry | None]) -> bool:
        """Put the entries of the lines that are not known where None stands. False when one of them is not plain."""
        if self._room < 0:
            self._entries.clear()
            self._room = MAX_HELD_BYTES
        for place, entry in enumerate(entries):
            if entry is None:
                entry = self._examined(lines[place])
                if entry is None:
                    return False
                entries[place] = entry
        return True

    def _examined(self, line: bytes) -> Entry | None:
        """What a line says, None when it is not plain."""
        name, mark, value = line.partition(b": ")
        if not mark or len(line) > MAX_LINE_BYTES or value.translate(None, _PRINTABLE) or value != value.strip(b" "):
            return None
        lower = _NAMES.get(name)
        if lower is None:
            if _NAME.fullmatch(name) is None:
                return None
            lower = name.lower()
        check = self._checks.get(lower)
        if check is not None and not check(value):
            return None
        entry = (lower, value)
        if lower not in _NEVER_AGAIN:
            self._entries[line] = entry
            self._room -= len(line) + _LINE_COST_BYTES
        return entry


# One book per direction and process: what a line says depends on nothing but its bytes.
_REQUEST_FIELDS: Final = FieldLines({**_FRAMING, b"host": _is_authority, b"expect": _never})
_RESPONSE_FIELDS: Final = FieldLines(_FRAMING)


def plain_request(data: bytes, max_bytes: int, max_fields: int) -> RequestHead | None:
    """The head of the request that `data` is, followed by its body; None when it is not exactly one plain request."""
    end = data.find(_END)
    if end < 0 or end >= max_bytes:
        return None
    lines = data[:end].split(b"\r\n")
    start = REQUEST_LINE.fullmatch(lines.pop(0))
    if start is None or len(lines) > max_fields:
        return None
    headers = _REQUEST_FIELDS.headers(lines)
    if headers is None:
        return None
    index = headers.index
    length = index.get(b"content-length")
    size = int(length) if length is not None else 0
    if end + 4 + size != len(data) or b"host" not in index:
        return None
    method, path = start.groups()
    head = RequestHead(method, path, index[b"host"], headers)
    head.content_length = size
    return head


def plain_response(data: bytes, max_bytes: int, max_fields: int) -> ResponseHead | None:
    """The head of the response that `data` is, followed by its body; None when it is not exactly one plain response.

    Not for answers to HEAD.
    """
    end = data.find(_END)
    if end < 0 or end >= max_bytes:
        return None
    lines = data[:end].split(b"\r\n")
    start = _STATUS_LINE.fullmatch(lines.pop(0))
    if start is None or len(lines) > max_fields:
        return None
    headers = _RESPONSE_FIELDS.headers(lines)
    if headers is None:
        return None
    length = headers.index.get(b"content-length")
    status = int(start[1])
    if length is None or end + 4 + int(length) != len(data) or status in _BODILESS:
        return None
    head = ResponseHead(status, start[2], headers)
    head.content_length = int(length)
    return head
