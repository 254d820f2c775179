"""Making one health check: an HTTP request or a TCP connect to the local application.

Owns:   sockets of checks, reading the status line, the time limit.
Not:    what a result means (health), when checks are made (checker).
Source: data-plane.md 1.7: expected status 200, a redirect is an answer like any other.
Invariant: at most MAX_HEAD_BYTES are read; every check ends within its timeout and closes its socket.
"""

import asyncio
import re
from urllib.parse import urlsplit

from agent.settings import ServiceCheck, host_port
from agent.workloads.health import Outcome, Result

MAX_HEAD_BYTES = 8192
EXPECTED_STATUS = 200
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: |\r|\n)")


async def probe(check: ServiceCheck) -> Result:
    """Make the check once. Raises nothing but CancelledError."""
    what = f"GET {check.http}" if check.http else f"connect to {check.tcp}"
    try:
        async with asyncio.timeout(check.timeout_s):
            return await (_http(check.http) if check.http else _tcp(check.tcp))
    except TimeoutError:
        return Result(Outcome.FAILED, f"{what}: no answer within {check.timeout_s:g} s")
    except (OSError, ValueError) as error:
        return Result(Outcome.FAILED, f"{what}: {error}")


async def _tcp(target: str) -> Result:
    host, port = host_port(target)
    _, writer = await asyncio.open_connection(host, port)
    writer.transport.abort()
    return Result(Outcome.PASSED)


async def _http(url: str) -> Result:
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80, limit=MAX_HEAD_BYTES)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nhost: {parts.netloc}\r\nuser-agent: gossamer-health\r\n"
            "accept: */*\r\nconnection: close\r\n\r\n".encode("latin-1")
        )
        line = await reader.readline()
    finally:
        writer.transport.abort()
    found = _STATUS_LINE.match(line)
    if found is None:
        return Result(Outcome.FAILED, f"GET {url}: the answer is not HTTP/1" if line else f"GET {url}: no answer")
    status = int(found[1])
    if status == EXPECTED_STATUS:
        return Result(Outcome.PASSED)
    return Result(Outcome.REFUSED, f"GET {url} answered {status}, expected {EXPECTED_STATUS}")
