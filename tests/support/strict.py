"""HTTP/1.1 read by one who forgives nothing: the judge of what the agent sends, on its own and not by agent.codec.

Invariants: a message that any other program could read otherwise raises Ambiguous; what is read here is what was sent.
"""

import re
from dataclasses import dataclass

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") (/[!-~]*) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-9][0-9][0-9]) [\t -~\x80-\xff]*")
_FIELD = re.compile(rb"(" + TOKEN + rb"): ((?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?)")
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_SIZE = re.compile(rb"[1-9a-f][0-9a-f]{0,7}|0")
_BODILESS = frozenset({b"204", b"304", b"101"})


class Ambiguous(Exception):
    """Bytes that are no message, or more than one."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """`start`: the groups of the start line. `whole`: its end has come; else `body` is the part that is there."""

    start: tuple[bytes, ...]
    fields: dict[bytes, bytes]
    body: bytes
    whole: bool


def requests(data: bytes) -> list[Message]:
    """Every request in the bytes of one connection; the last may be a part. A head that has not ended is left out."""
    found, rest = whole_requests(data)
    last = _message(rest, _REQUEST_LINE, frozenset())
    return [*found, last[0]] if last is not None else found


def whole_requests(data: bytes) -> tuple[list[Message], bytes]:
    """The requests that have ended, and what is behind them."""
    found = []
    while (message := _message(data, _REQUEST_LINE, frozenset())) is not None and message[0].whole:
        if b"host" not in message[0].fields:
            raise Ambiguous(f"no host in {data[:200]!r}")
        found.append(message[0])
        data = data[message[1] :]
    return found, data


def answers(data: bytes, methods: list[bytes]) -> list[Message]:
    """Every answer in the bytes of one connection, to requests of these methods in order (interim ones apart)."""
    found: list[Message] = []
    asked = iter(methods)
    method = b""
    while data:
        interim = re.match(rb"HTTP/1\.1 1(?!01)", data) is not None
        if not interim:
            method = next(asked, b"GET")
        message = _message(data, _STATUS_LINE, _BODILESS, bodiless=interim or method == b"HEAD")
        if message is None:
            break
        found.append(message[0])
        data = data[message[1] :]
    return found


def _message(
    data: bytes, line: re.Pattern[bytes], without: frozenset[bytes], bodiless: bool = False
) -> tuple[Message, int] | None:
    """The first message and where it ends; None when its head has not ended."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    first, *lines = data[:end].split(b"\r\n")
    start = line.fullmatch(first)
    if start is None:
        raise Ambiguous(f"found the start line {first[:200]!r}")
    fields = _fields(lines)
    body, used, whole = b"", 0, True
    if b"transfer-encoding" in fields and not bodiless:
        body, used, whole = _chunks(data[end + 4 :])
    elif b"content-length" in fields and not bodiless and start[1] not in without:
        length = int(fields[b"content-length"])
        body = data[end + 4 : end + 4 + length]
        used, whole = len(body), len(body) == length
    return Message(start=start.groups(), fields=fields, body=body, whole=whole), end + 4 + used


def _fields(lines: list[bytes]) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for text in lines:
        found = _FIELD.fullmatch(text)
        if found is None:
            raise Ambiguous(f"found the field line {text[:200]!r}")
        name = found[1].lower()
        if name in fields and name in (b"host", b"content-length", b"transfer-encoding"):
            raise Ambiguous(f"found {name!r} twice")
        fields[name] = found[2]
    if b"transfer-encoding" in fields:
        if fields[b"transfer-encoding"] != b"chunked" or b"content-length" in fields:
            raise Ambiguous(f"found the framing {fields}")
    elif b"content-length" in fields and not _LENGTH.fullmatch(fields[b"content-length"]):
        raise Ambiguous(f"found the length {fields[b'content-length']!r}")
    return fields


def _chunks(data: bytes) -> tuple[bytes, int, bool]:
    """(the body, how many bytes it takes, whether it has ended). No extensions, no trailers."""
    body, at = b"", 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return body, len(data), False
        if not _SIZE.fullmatch(data[at:end]):
            raise Ambiguous(f"found the chunk size {data[at:end][:40]!r}")
        size = int(data[at:end], 16)
        after = end + 2 + size
        body += data[end + 2 : after]
        if len(data) < after + 2:
            return body, len(data), False
        if data[after : after + 2] != b"\r\n":
            raise Ambiguous(f"found {data[after : after + 2]!r} behind a chunk")
        at = after + 2
        if not size:
            return body, at, True
