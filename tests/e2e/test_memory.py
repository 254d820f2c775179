"""Bodies of any size pass through a worker without growing it: a slow side makes the other wait, never memory grow.

256 MiB each way in `make test`, 1 GiB in `make test-all`. Memory is the worker's resident set: its highest (VmHWM, set
back before) beside what it was before. Both ends are blocking sockets in threads of the test's own process.
"""

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.depth import FULL
from tests.support.workers import Fed, cluster, forward, listen, listener, route, routes, running_worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
MIB = 1024 * 1024
SIZE = (1024 if FULL else 256) * MIB
GROWTH = 16 * MIB
STALLED = 32  # requests at once
STALLED_SIZE = 24 * MIB  # more than all sockets on its way hold
WATERMARK = MIB // 2  # what one of them may cost: one read of uvloop, what it holds unsent, a copy of either
SMALL_BUFFER = 64 * 1024
WAIT_S = 120.0
BLOCK = bytes(range(256)) * 256
CHUNK = b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK)
LAST_CHUNK = b"0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Memory:
    """The resident set of a process from now on, in bytes."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        (self._proc / "clear_refs").write_text("5")  # the highest is what it is now
        self._before = self._read("VmRSS")

    @property
    def growth(self) -> int:
        """How much more it has been."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", (self._proc / "status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024


# --- bodies -----------------------------------------------------------------------------------------------------------


def fields_of(size: int, chunked: bool) -> bytes:
    return b"transfer-encoding: chunked\r\n" if chunked else b"content-length: %d\r\n" % size


def send_body(sock: socket.socket, size: int, chunked: bool, sent: Callable[[int], None] = lambda count: None) -> None:
    """A body of `size` bytes; `sent` is told what has gone."""
    for _ in range(size // len(BLOCK)):
        sock.sendall(CHUNK if chunked else BLOCK)
        sent(len(BLOCK))
    if chunked:
        sock.sendall(LAST_CHUNK)


def take_head(sock: socket.socket) -> tuple[bytes, bytes]:
    """(a head, what came behind it)."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        assert part, data
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def take_body(sock: socket.socket, rest: bytes, size: int, chunked: bool) -> int:
    """Read a body and drop it; how long it was (chunked: at least, with what frames it)."""
    taken, end, buffer = len(rest), rest[-5:], bytearray(256 * 1024)
    while (end != LAST_CHUNK) if chunked else (taken < size):
        count = sock.recv_into(buffer)
        if not count:
            break
        taken += count
        end = (end + buffer[max(0, count - 5) : count])[-5:]
    return taken


# --- both ends --------------------------------------------------------------------------------------------------------

Serve = Callable[[socket.socket], None]


@contextmanager
def host(serve: Serve) -> Iterator[int]:
    """An origin that does `serve` with each connection, each in a thread; its port."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)

    def accept(pool: ThreadPoolExecutor) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            pool.submit(one, connection)

    def one(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(WAIT_S)
            serve(connection)

    with ThreadPoolExecutor(STALLED + 1) as pool:
        pool.submit(accept, pool)
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            listening.close()


@asynccontextmanager
async def worker_to(port: int, tmp_path: Path) -> AsyncIterator[tuple[Fed, int]]:
    """A worker with a route to that port, which has served a little already; and its own port."""
    async with running_worker(tmp_path) as worker:
        with listen() as sock:
            worker.add_listener("out", sock)
            own: int = sock.getsockname()[1]
            forever = forward(("origin", 1), timeout_s=0.0)
            assert await worker.apply(listener(own), routes(route("all", forever)), cluster("origin", port)) == ()
            yield worker, own


def connected(port: int) -> socket.socket:
    """A client with a small buffer, so that it is the worker that would have to hold what is not read."""
    sock = socket.socket()
    sock.settimeout(WAIT_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.connect(("127.0.0.1", port))
    return sock


def upload(port: int, size: int, chunked: bool) -> bytes:
    """The status line of the answer."""
    with connected(port) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n%b\r\n" % fields_of(size, chunked))
        send_body(sock, size, chunked)
        return take_head(sock)[0].partition(b"\r\n")[0]


def download(port: int, size: int, chunked: bool) -> int:
    """How long the answer's body was."""
    with connected(port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        return take_body(sock, take_head(sock)[1], size, chunked)


# --- large bodies -----------------------------------------------------------------------------------------------------

FRAMINGS = pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])


@FRAMINGS
async def test_a_large_request_grows_nothing(tmp_path: Path, chunked: bool) -> None:
    taken = []

    def serve(sock: socket.socket) -> None:
        for size in (MIB, SIZE):
            taken.append(take_body(sock, take_head(sock)[1], size, chunked))
            sock.sendall(OK)

    with host(serve) as port:
        async with worker_to(port, tmp_path) as (worker, own):
            await asyncio.to_thread(upload, own, MIB, chunked)
            memory = Memory(worker.pid)
            assert await asyncio.to_thread(upload, own, SIZE, chunked) == b"HTTP/1.1 200 OK"
            growth = memory.growth
    assert taken[1] >= SIZE
    assert chunked or taken[1] == SIZE
    assert growth < GROWTH


@FRAMINGS
async def test_a_large_answer_grows_nothing(tmp_path: Path, chunked: bool) -> None:
    def serve(sock: socket.socket) -> None:
        for size in (MIB, SIZE):
            take_head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n" % fields_of(size, chunked))
            send_body(sock, size, chunked)

    with host(serve) as port:
        async with worker_to(port, tmp_path) as (worker, own):
            await asyncio.to_thread(download, own, MIB, chunked)
            memory = Memory(worker.pid)
            taken = await asyncio.to_thread(download, own, SIZE, chunked)
            growth = memory.growth
    assert taken >= SIZE
    assert chunked or taken == SIZE
    assert growth < GROWTH


# --- stalled ones -----------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """What all senders together have sent."""

    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self.lock:
            self.count += count


async def still(sent: Sent) -> int:
    """What was sent when nothing more goes: every sender waits."""
    async with asyncio.timeout(WAIT_S):
        last, turns = -1, 0
        while turns < 20:
            await asyncio.sleep(0.02)
            turns = turns + 1 if sent.count == last and last else 0
            last = sent.count
    return last


async def test_clients_that_do_not_read_cost_no_more_than_the_watermark(tmp_path: Path) -> None:
    sent, read = Sent(), threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        take_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n" % fields_of(STALLED_SIZE, False))
        send_body(sock, STALLED_SIZE, False, sent.add)

    def client(port: int) -> int:
        with connected(port) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            read.wait(WAIT_S)
            return take_body(sock, take_head(sock)[1], STALLED_SIZE, False)

    with host(serve) as port, ThreadPoolExecutor(STALLED) as pool:
        async with worker_to(port, tmp_path) as (worker, own):
            memory = Memory(worker.pid)
            clients = [asyncio.wrap_future(pool.submit(client, own)) for _ in range(STALLED)]
            stalled = await still(sent)
            growth = memory.growth
            read.set()
            taken = await asyncio.gather(*clients)
    assert stalled < STALLED * STALLED_SIZE
    assert growth < STALLED * WATERMARK
    assert taken == [STALLED_SIZE] * STALLED


async def test_origins_that_do_not_read_cost_no_more_than_the_watermark(tmp_path: Path) -> None:
    sent, read, taken = Sent(), threading.Event(), Sent()

    def serve(sock: socket.socket) -> None:
        _, rest = take_head(sock)
        read.wait(WAIT_S)
        taken.add(take_body(sock, rest, STALLED_SIZE, False))
        sock.sendall(OK)

    def client(port: int) -> bytes:
        with connected(port) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            sock.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n%b\r\n" % fields_of(STALLED_SIZE, False))
            send_body(sock, STALLED_SIZE, False, sent.add)
            return take_head(sock)[0].partition(b"\r\n")[0]

    with host(serve) as port, ThreadPoolExecutor(STALLED) as pool:
        async with worker_to(port, tmp_path) as (worker, own):
            memory = Memory(worker.pid)
            clients = [asyncio.wrap_future(pool.submit(client, own)) for _ in range(STALLED)]
            stalled = await still(sent)
            growth = memory.growth
            read.set()
            answers = await asyncio.gather(*clients)
    assert stalled < STALLED * STALLED_SIZE
    assert growth < STALLED * WATERMARK
    assert answers == [b"HTTP/1.1 200 OK"] * STALLED
    assert taken.count == STALLED * STALLED_SIZE
