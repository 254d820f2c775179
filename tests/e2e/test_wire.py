"""Raw bytes to a worker's port: what the origin sees is what was meant and what was logged, or nothing.

One worker and one origin serve all cases. What goes up is read by tests.support.strict, which takes nothing that can be
read in another way. Log lines belong to their case by the client's address, requests to their log line by x-request-id.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.listener import AccessLog, FilterChain, HttpConnectionManager
from mesh.tasks import cancel_and_wait, spawn
from tests.support import strict
from tests.support.depth import examples
from tests.support.smuggling import ANSWERS
from tests.support.strict import Message
from tests.support.wire import CLOSED, OPEN, REFUSED, SERVED, WAITS, Case, pipelines
from tests.support.workers import Fed, cluster, forward, listen, listener, route, routes, running_worker

pytestmark = pytest.mark.e2e
WAIT_S = 20.0
AT_ONCE = 16  # connections
PAUSE_S = 0.002  # between two pieces
SILENCE_S = 0.05  # in which nothing may come
LOG = AccessLog(
    path="/dev/stdout",
    json_fields=(
        ("method", "%REQ(:METHOD)%"), ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"), ("host", "%REQ(:AUTHORITY)%"),
        ("received", "%BYTES_RECEIVED%"), ("sent", "%BYTES_SENT%"), ("code", "%RESPONSE_CODE%"),
        ("flags", "%RESPONSE_FLAGS%"), ("id", "%REQ(X-REQUEST-ID)%"), ("upstream", "%UPSTREAM_HOST%"),
        ("client", "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ),
)  # fmt: skip
LAST = b"GET /ok/last HTTP/1.1\r\nHost: last\r\nConnection: close\r\n\r\n"
BEFORE = b"GET /ok/before HTTP/1.1\r\nHost: before\r\n\r\n"
LAST_SEEN = (b"GET", b"/ok/last", b"last", b"")
BEFORE_SEEN = (b"GET", b"/ok/before", b"before", b"")


# --- both ends --------------------------------------------------------------------------------------------------------


@dataclass
class Origin:
    """Keeps what it is asked. Answers each whole request as `answers` says for its path, or what it is."""

    answers: dict[bytes, bytes] = field(default_factory=dict)
    port: int = 0
    requests: list[Message] = field(default_factory=list)  # of all connections; a part when its connection has ended
    refused: list[str] = field(default_factory=list)  # what it could not read with certainty

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        try:
            while part := await reader.read(65536):
                found, data = strict.whole_requests(data + part)
                self.requests += found
                for request in found:
                    writer.write(self.answers.get(request.start[1]) or ok(request))
        except OSError:
            pass
        except strict.Ambiguous as error:
            self.refused.append(str(error))
            data = b""
        self.requests += strict.requests(data)
        writer.close()


def ok(request: Message) -> bytes:
    """An answer that says what it answers; to a HEAD the same without its body."""
    body = b" ".join((*request.start, request.fields[b"host"], b"%d" % len(request.body)))
    head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
    return head if request.start[0] == b"HEAD" else head + body


@asynccontextmanager
async def served(tmp_path: Path, answers: dict[bytes, bytes]) -> AsyncIterator[tuple[Fed, Origin, int]]:
    """A worker with the route /ok to an origin; and the worker's port."""
    origin = Origin(answers)
    tasks: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(
        lambda reader, writer: tasks.append(spawn("origin", origin.serve(reader, writer))), "127.0.0.1", 0
    )
    origin.port = server.sockets[0].getsockname()[1]
    manager = HttpConnectionManager(stat_prefix="wire", route_config="r", use_remote_address=True, access_logs=(LOG,))
    try:
        async with running_worker(tmp_path) as worker:
            with listen() as sock:
                worker.add_listener("out", sock)
                port: int = sock.getsockname()[1]
                problems = await worker.apply(
                    listener(port, FilterChain(name="http", network=manager)),
                    routes(route("ok", forward(("origin", 1)), "/ok")),
                    cluster("origin", origin.port),
                )
                assert problems == ()
                yield worker, origin, port
        if tasks:
            await asyncio.wait(tasks, timeout=WAIT_S)  # the worker is gone: the origin has read what it sent last
    finally:
        server.close()
        await cancel_and_wait(*tasks)


@dataclass
class Outcome:
    """What a client got, and what was logged of it."""

    got: bytes = b""
    cut: bool = False  # by a reset, which may take answers with it
    log: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Said:
    """A case in one form. `case` says what comes of all; `ask_last`: a last request when all else is answered."""

    case: Case
    parts: list[bytes]
    ask_last: bool = False


def forms(name: str, case: Case) -> dict[str, Said]:
    """At once, in pieces, and with other requests around it."""
    goes_on = case.then == OPEN
    whole = replace(case, seen=(*case.seen, LAST_SEEN), statuses=(*case.statuses, 200)) if goes_on else case
    second = replace(whole, seen=(BEFORE_SEEN, *whole.seen), statuses=(200, *whole.statuses))
    end = LAST if goes_on else b""
    slow = replace(case, seen=(), statuses=case.statuses[:1], then=CLOSED) if case.early else whole
    return {
        f"{name}, at once": Said(case=whole, parts=[case.raw + end]),
        f"{name}, in pieces": Said(case=slow, parts=pieces(case.raw, name), ask_last=slow.then == OPEN),
        f"{name}, behind another": Said(case=second, parts=[BEFORE + case.raw + end]),
    }


def pieces(raw: bytes, name: str) -> list[bytes]:
    """Cut at up to seven places that the name decides."""
    rng = random.Random(name)
    at = sorted({rng.randrange(1, len(raw)) for _ in range(7)})
    return [raw[a:b] for a, b in zip([0, *at], [*at, len(raw)], strict=True)]


async def talk(port: int, said: Said, own: str) -> Outcome:
    """Say the parts one after the other from the address `own`, and hear what comes until the end."""
    case, outcome = said.case, Outcome()
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))
        try:
            for part in said.parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(PAUSE_S if len(said.parts) > 1 else 0)
            if said.ask_last:
                outcome.got = await heard(reader, case, len(case.statuses) - 1)
                writer.write(LAST)
            elif case.then == WAITS:
                outcome.got = await heard(reader, case, len(case.statuses))
                await asyncio.sleep(SILENCE_S)
                writer.close()
            while part := await reader.read(65536):
                outcome.got += part
        except ConnectionError:
            outcome.cut = True
        writer.close()
    return outcome


async def heard(reader: asyncio.StreamReader, case: Case, count: int) -> bytes:
    """So many answers, or all until the end."""
    got = b""
    while sum(answer.whole for answer in strict.answers(got, case.methods)) < count:
        part = await reader.read(65536)
        if not part:
            break
        got += part
    return got


# --- all of them ------------------------------------------------------------------------------------------------------

CASES = SERVED | REFUSED | pipelines(examples(150))
SAID = {name: said for short, case in CASES.items() for name, said in forms(short, case).items()}


async def _talk_all(tmp_path: Path) -> tuple[dict[str, Outcome], Origin]:
    """Every case on its own connection and from its own address, several at a time."""
    gate = asyncio.Semaphore(AT_ONCE)
    own = {name: f"127.1.{number // 250}.{number % 250 + 1}" for number, name in enumerate(SAID)}

    async def one(port: int, name: str) -> Outcome:
        async with gate:
            try:
                return await talk(port, SAID[name], own[name])
            except TimeoutError:
                raise AssertionError(f"nothing more comes: {name}") from None

    async with served(tmp_path, {}) as (worker, origin, port):
        outcomes = await asyncio.gather(*(one(port, name) for name in SAID))
        worker.drain(1.0)
        assert await worker.exit_code() == 0  # it has written all its lines
        by_address = dict(zip(own.values(), outcomes, strict=True))
        for line in map(json.loads, worker.log_lines()):
            by_address[line["client"]].log.append(line)
    return dict(zip(SAID, outcomes, strict=True)), origin


@dataclass
class Talked:
    outcomes: dict[str, Outcome]
    origin: Origin
    seen: dict[str, list[Message]] = field(default_factory=dict)  # by x-request-id


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> Talked:
    outcomes, origin = asyncio.run(_talk_all(tmp_path_factory.mktemp("wire")))
    found = Talked(outcomes, origin)
    for request in origin.requests:
        found.seen.setdefault(request.fields[b"x-request-id"].decode(), []).append(request)
    return found


def test_there_are_enough() -> None:
    assert len(SERVED | REFUSED) >= 250


def test_every_request_that_an_origin_saw_is_clear_and_was_logged(talked: Talked) -> None:
    assert talked.origin.refused == []
    logged = [line["id"] for outcome in talked.outcomes.values() for line in outcome.log if line["upstream"]]
    assert talked.seen.keys() <= set(logged)
    assert max(map(len, talked.seen.values())) == 1
    assert len(set(logged)) == len(logged)


@pytest.mark.parametrize("name", SAID)
def test_the_origin_saw_what_was_meant_and_logged(talked: Talked, name: str) -> None:
    case, outcome = SAID[name].case, talked.outcomes[name]
    final = [status for status in case.statuses if status >= 200]
    answers = [answer for answer in strict.answers(outcome.got, case.methods) if answer.start[0] != b"100"]
    told_codes = [int(answer.start[0]) for answer in answers]
    if outcome.cut:  # only who goes on after the last answer can lose it
        assert (name.rpartition(", ")[2], case.then) == ("in pieces", CLOSED)
        assert told_codes == final[: len(told_codes)]
    else:
        assert told_codes == final, outcome.got
        assert all(answer.whole for answer in answers)
    assert [line["code"] for line in outcome.log] == final + [0] * (case.then == WAITS)
    up = [(line, talked.seen.get(line["id"] or "", [])) for line in outcome.log]
    # Whole at the origin: as it was meant, as it was logged, and as the client was told.
    whole = [(line, request) for line, found in up for request in found if request.whole]
    assert [(*request.start, request.fields[b"host"], request.body) for _, request in whole] == list(case.seen)
    for line, request in whole:
        assert (line["code"], line["flags"]) == (200, "-")
        assert logged(line) == told(request)
        assert line["received"] == len(request.body)
    bodies = [answer.body for answer in answers if answer.start[0] == b"200" and answer.body]
    assert outcome.cut or bodies == [
        ok(request).partition(b"\r\n\r\n")[2] for _, request in whole if request.start[0] != b"HEAD"
    ]
    # A part at the origin: the agent knows that it is one, and has cut it.
    for line, request in ((line, request) for line, found in up for request in found if not request.whole):
        assert line["flags"] in ("DPE", "DC")
        assert logged(line) == told(request)
        assert line["received"] >= len(request.body)


def logged(line: dict[str, Any]) -> tuple[str, str, str]:
    return line["method"], line["path"], line["host"]


def told(request: Message) -> tuple[str, ...]:
    return tuple(part.decode() for part in (*request.start, request.fields[b"host"]))


# --- answers that could be read as two --------------------------------------------------------------------------------

FORGED = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged"
_OK = b"HTTP/1.1 200 OK\r\n"
BAD_ANSWERS = {
    **{name: _OK + fields + b"\r\n\r\n0\r\n\r\n" for name, fields in ANSWERS.items()},
    "bare LF": _OK + b"content-length: 0\n\r\n",
    "bare CR": _OK + b"x: y\rz\r\ncontent-length: 0\r\n\r\n",
    "NUL": _OK + b"x: y\x00\r\ncontent-length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
    "an interim answer with a length": b"HTTP/1.1 103 X\r\ncontent-length: 2\r\n\r\nab"
    + _OK
    + b"content-length: 0\r\n\r\n",
    "an unknown interim answer with a length": b"HTTP/1.1 199 X\r\ncontent-length: 2\r\n\r\nab" + _OK + b"\r\n",
    "an interim answer with chunks": b"HTTP/1.1 103 X\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 X\r\ncontent-length: 2\r\n\r\nab",
    "NUL in the reason": b"HTTP/1.1 200 O\x00K\r\ncontent-length: 0\r\n\r\n",
    "no status": b"HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "204 with a length": b"HTTP/1.1 204 No Content\r\ncontent-length: 6\r\n\r\n",
    "204 with chunks": b"HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "101 that nobody asked for": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "a bad chunk": _OK + b"transfer-encoding: chunked\r\n\r\n0x2\r\nab\r\n0\r\n\r\n",
    "a chunk that is too long": _OK + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    "a trailer with a length": _OK + b"transfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 2\r\n\r\n",
}
# What is whole stands before another answer, which nobody asked for: (answer, method of the request).
TWO_ANSWERS = {
    "a length": (_OK + b"content-length: 2\r\n\r\nab", b"GET"),
    "no body": (_OK + b"content-length: 0\r\n\r\n", b"GET"),
    "chunks": (_OK + b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n", b"GET"),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"),
    "204 of length 0": (b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", b"GET"),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 6\r\n\r\n", b"GET"),
    "HEAD with a length": (_OK + b"content-length: 6\r\n\r\n", b"HEAD"),
    "HEAD with chunks": (_OK + b"transfer-encoding: chunked\r\n\r\n", b"HEAD"),
    "HEAD without framing": (_OK + b"x: y\r\n\r\n", b"HEAD"),
    "behind interim ones": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3 + _OK + b"content-length: 0\r\n\r\n", b"GET"),
    "connection: close": (_OK + b"connection: close\r\ncontent-length: 0\r\n\r\n", b"GET"),
}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Message], list[int]]]:
    """By name: the answers to a request that is answered so and to two pipelined behind it, and the logged codes."""
    return asyncio.run(_answer_all(tmp_path_factory.mktemp("answers")))


async def _answer_all(tmp_path: Path) -> dict[str, tuple[list[Message], list[int]]]:
    asked = {name: (raw + FORGED, b"GET") for name, raw in BAD_ANSWERS.items()}
    asked |= {f"two: {name}": (raw + FORGED, method) for name, (raw, method) in TWO_ANSWERS.items()}
    paths = {name: b"/ok/%d" % number for number, name in enumerate(asked)}
    found = {}
    async with served(tmp_path, {paths[name]: raw for name, (raw, _) in asked.items()}) as (worker, origin, port):
        for number, (name, (_, method)) in enumerate(asked.items()):
            first = b"%b %b HTTP/1.1\r\nHost: a\r\n\r\n" % (method, paths[name])
            own = f"127.2.{number // 250}.{number % 250 + 1}"
            outcome = await talk(port, Said(case=Case(raw=b"", then=CLOSED), parts=[first + BEFORE + LAST]), own)
            found[name] = strict.answers(outcome.got, [method, b"GET", b"GET"])
        assert len(origin.requests) == 3 * len(asked)
        worker.drain(1.0)
        assert await worker.exit_code() == 0
    lines = [json.loads(line) for line in worker.log_lines()]
    return {
        name: (answers, [line["code"] for line in lines[3 * number : 3 * number + 3]])
        for number, (name, answers) in enumerate(found.items())
    }


def _behind() -> list[bytes]:
    return [ok(request).partition(b"\r\n\r\n")[2] for request in strict.requests(BEFORE + LAST)]


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_an_answer_that_could_be_two_reaches_nobody(answered: Any, name: str) -> None:
    answers, codes = answered[name]
    assert [int(answer.start[0]) for answer in answers] == codes == [502, 200, 200]
    assert [answer.body for answer in answers[1:]] == _behind()


@pytest.mark.parametrize("name", TWO_ANSWERS)
def test_an_answer_that_nobody_asked_for_reaches_nobody(answered: Any, name: str) -> None:
    status = int(TWO_ANSWERS[name][0].rpartition(b"HTTP/1.1 ")[2][:3])
    answers, codes = answered[f"two: {name}"]
    assert [int(answer.start[0]) for answer in answers] == codes == [status, 200, 200]
    assert [answer.body for answer in answers[1:]] == _behind()
