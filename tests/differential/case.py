"""What a case is: bytes for the proxy, what the origin does, how many answers and log lines are waited for.

Not:    resources (worlds, in the test modules), how a case runs (pair), what is intended to differ (differences).
"""

from dataclasses import dataclass
from enum import Enum

from agent.codec.serialise import reason_of


class Do(Enum):
    """What is not bytes."""

    AWAIT = "await"  # client: until something new has come
    HALF_CLOSE = "half close"
    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"  # origin: say nothing more until the proxy goes
    EARLY = "early"  # origin, first: answer as soon as the head is here
    ECHO = "echo"  # origin, last: send back what comes, until its end


Step = bytes | float | Do  # float: a pause in seconds
Script = tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    """`origin`: what each request of the origin gets, the last one again and again. `differs`: keys of differences.

    `copies`: so many requests of the origin are waited for and told in the order of their hosts; 0 = as they came.
    `until`: raw bytes that are waited for after a 101. `kept`: the origin's connections may be used again.
    """

    name: str
    send: Script
    origin: tuple[Script, ...] = ()
    listener: str = "http"
    answers: int = 1
    logs: int = 1
    copies: int = 0
    until: bytes = b""
    kept: bool = False
    differs: str = ""

    def __str__(self) -> str:
        return self.name


def answer(status: int = 200, body: bytes = b"ok", *fields: bytes, reason: bytes = b"", keep: bool = False) -> Script:
    """An answer with a length; the connection ends after it unless `keep`. `reason`: if not the usual one."""
    lines = [b"HTTP/1.1 %d %b" % (status, reason or reason_of(status)), b"content-length: %d" % len(body), *fields]
    return _ended(lines, body, keep)


def raw_answer(*lines: bytes, body: bytes = b"", keep: bool = False) -> Script:
    """An answer of exactly these lines."""
    return _ended(list(lines), body, keep)


def _ended(lines: list[bytes], body: bytes, keep: bool) -> Script:
    if keep:
        return (b"\r\n".join(lines) + b"\r\n\r\n" + body,)
    return (b"\r\n".join([*lines, b"connection: close"]) + b"\r\n\r\n" + body, Do.CLOSE)


OK = answer()


def get(path: bytes = b"/", *fields: bytes, host: bytes = b"a", method: bytes = b"GET") -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"%b %b HTTP/1.1" % (method, path), b"Host: " + host, *fields]) + b"\r\n\r\n"


def post(path: bytes = b"/", body: bytes = b"body", *fields: bytes, host: bytes = b"a") -> bytes:
    """A request with a body of a length."""
    length = b"Content-Length: %d" % len(body)
    return get(path, length, *fields, host=host, method=b"POST") + body
