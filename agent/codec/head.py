"""The head of a request or response as the data plane handles it: bytes, original case kept, looked up by lower case.

Invariants: `lines` is what goes on the wire, in order, each `Name: value` in the peer's case; `index` holds each
lower-case name once, the values of repeated fields joined by b", " (b"; " for cookie, RFC 9113 8.2.3). Change both
through the methods, never one alone. Lines, not pairs, since most of them are sent on as they came.
"""

from typing import Final

Names = frozenset[bytes] | set[bytes]
_JOIN: Final = {b"cookie": b"; "}


def name_of(line: bytes) -> bytes:
    """The lower-case name of a line."""
    return line[: line.index(b":")].lower()


def value_of(line: bytes) -> bytes:
    """The value of a line."""
    return line.partition(b":")[2].strip(b" \t")


class Headers:
    """An ordered multimap of header fields. Per-request, so a plain class.

    `seen`: who has looked through these fields as they came and has found nothing; one set for all copies, None while
    there are none. Only agent.codec.repeats makes it, for fields that come again and again.
    """

    __slots__ = ("index", "lines", "seen")

    def __init__(self, lines: list[bytes] | None = None, index: dict[bytes, bytes] | None = None) -> None:
        """Of these, which agree with each other; or empty."""
        self.seen: set[object] | None = None
        self.lines: list[bytes] = lines if lines is not None else []
        self.index: dict[bytes, bytes] = index if index is not None else {}

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Name as it came and value, in order."""
        pairs = (line.partition(b": ") for line in self.lines)
        return [(name, value) for name, _, value in pairs]

    def add(self, lower: bytes, value: bytes) -> None:
        """Add a field that is not there yet, by its lower-case name."""
        self.lines.append(b"%b: %b" % (lower, value))
        self.index[lower] = value

    def append(self, name: bytes, value: bytes) -> None:
        """Add one field, keeping those of the same name."""
        lower = name.lower()
        self.lines.append(b"%b: %b" % (name, value))
        before = self.index.get(lower)
        self.index[lower] = value if before is None else before + _JOIN.get(lower, b", ") + value

    def set(self, name: bytes, value: bytes) -> None:
        """Replace every field of this name by one."""
        lower = name.lower()
        self.remove(lower)
        self.lines.append(b"%b: %b" % (name, value))
        self.index[lower] = value

    def remove(self, lower: bytes) -> None:
        """Drop every field of this lower-case name."""
        if lower in self.index and not self._drop(lower):
            self.lines = [line for line in self.lines if name_of(line) != lower]

    def remove_all(self, names: Names) -> None:
        """Drop every field of these lower-case names."""
        left = [name for name in names.intersection(self.index) if not self._drop(name)]
        if left:
            self.lines = [line for line in self.lines if name_of(line) not in left]

    def _drop(self, lower: bytes) -> bool:
        """Drop a name that is there, and its line if it is one in lower case, as most are; else the lines are left."""
        line = b"%b: %b" % (lower, self.index.pop(lower))
        lines = self.lines
        if line not in lines:  # if it is, no other is of this name, else the index would say more
            return False
        lines.remove(line)
        return True

    def get(self, lower: bytes) -> bytes | None:
        """The value by lower-case name, repeated fields joined."""
        return self.index.get(lower)

    def copy(self) -> "Headers":
        return Headers(list(self.lines), dict(self.index))


def values_of(headers: Headers, lower: bytes) -> list[bytes]:
    """The values of a lower-case name as they came, one for each line."""
    return [value_of(line) for line in headers.lines if name_of(line) == lower]


def may_be_joined(value: bytes) -> bool:
    """Whether a value of the index may come from several lines: few do, the others need no `values_of`."""
    return b", " in value or b"; " in value


# How long a body is: a length in bytes, or one of these.
NO_BODY: Final = 0
CHUNKED: Final = -1
UNTIL_EOF: Final = -2  # responses only


class RequestHead:
    """`path` includes the query, as sent; `authority` is the Host without userinfo, as sent.

    `content_length`: bytes, or CHUNKED. `upgrade`: the lower-case protocol that the client wants to switch to, or b"".
    """

    __slots__ = (
        "authority",
        "content_length",
        "expect_continue",
        "headers",
        "keep_alive",
        "method",
        "path",
        "scheme",
        "upgrade",
        "version_minor",
    )

    def __init__(self, method: bytes, path: bytes, authority: bytes, headers: Headers, version_minor: int = 1) -> None:
        self.method = method
        self.path = path
        self.authority = authority
        self.scheme = b""  # known once it is clear who says so (agent.filters.forwarded)
        self.headers = headers
        self.version_minor = version_minor
        self.content_length = NO_BODY
        self.keep_alive = True
        self.expect_continue = False
        self.upgrade = b""


class ResponseHead:
    """The head of a response. `content_length`: bytes, CHUNKED or UNTIL_EOF; NO_BODY when the answer has none."""

    __slots__ = ("content_length", "headers", "keep_alive", "reason", "status", "version_minor")

    def __init__(self, status: int, reason: bytes, headers: Headers, version_minor: int = 1) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.version_minor = version_minor
        self.content_length = NO_BODY
        self.keep_alive = True
