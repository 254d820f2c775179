"""External authorization over gRPC in a worker: waiting for the supervisor's answer or for nobody's, and for bodies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.ipc import frames
from agent.ipc.messages import CheckAnswers, CheckQuestions
from agent.model.ext_authz import (
    Change,
    CheckAnswer,
    CheckPeer,
    CheckQuestion,
    CheckVerdict,
    ExternalAuthorization,
    HeaderChange,
    ShownBody,
)
from agent.model.http_filters import HttpFilter
from agent.proxy import check_book, question_book
from agent.proxy.check_book import CheckBook
from agent.proxy.request_body import REPLAY_BYTES
from agent.stats import names
from agent.stats.names import ext_authz_group
from tests.support.proxying import (
    Client,
    Proxy,
    RawOrigin,
    cluster,
    forward,
    http_proxy,
    raw_origin,
    route,
    until,
    virtual_host,
)

CONFIG = ExternalAuthorization(cluster="authz", grpc=True, timeout_s=30.0)
LARGE = 1024 * 1024


class Supervisor:
    """What the worker's questions come to; answers when a test says so."""

    def __init__(self) -> None:
        self.frames: list[CheckQuestions] = []
        self.book: CheckBook | None = None

    @property
    def questions(self) -> list[CheckQuestion]:
        return [question for frame in self.frames for question in frame.questions]

    @property
    def dropped(self) -> list[int]:
        return [number for frame in self.frames for number in frame.dropped]

    async def asked(self, count: int = 1) -> CheckQuestion:
        await until(lambda: len(self.questions) >= count)
        return self.questions[count - 1]

    def answer(self, verdict: CheckVerdict = CheckVerdict.OK, index: int = -1, **fields: Any) -> None:
        assert self.book is not None
        self.book.hear(CheckAnswers((CheckAnswer(number=self.questions[index].number, verdict=verdict, **fields),)))


@asynccontextmanager
async def checked(
    tmp_path: Path, config: ExternalAuthorization = CONFIG, **settings: Any
) -> AsyncIterator[tuple[Proxy, RawOrigin, Supervisor]]:
    """`settings`: the route's."""
    async with (
        raw_origin() as origin,
        http_proxy(
            tmp_path,
            virtual_host(route("/", forward("c", **settings))),
            [cluster("c", origin.port)],
            filters=(HttpFilter(name="authz", config=config),),
        ) as proxy,
    ):
        supervisor = Supervisor()
        supervisor.book = CheckBook(proxy.runtime.wheel, proxy.runtime.clock, supervisor.frames.append)
        proxy.runtime.checks = supervisor.book
        yield proxy, origin, supervisor
        assert not supervisor.book._asking, "no question is left"
        assert supervisor.book._weight == 0


def counted(proxy: Proxy) -> list[int]:
    return proxy.runtime.stats.get("http.s.ext_authz.", lambda: ext_authz_group("http.s.ext_authz.")).counts


async def told(proxy: Proxy) -> tuple[Any, ...]:
    line = (await proxy.logged(1))[-1]
    return line["code"], line["flags"], line["details"]


def setting(name: bytes, value: bytes) -> HeaderChange:
    return HeaderChange(name, value, Change.SET)


async def posting(proxy: Proxy, *fields: bytes, body: bytes = b"", path: bytes = b"/p") -> Client:
    client = await proxy.client()
    client.writer.write(b"\r\n".join([b"POST %b HTTP/1.1" % path, b"Host: a", *fields]) + b"\r\n\r\n" + body)
    return client


async def test_a_request_waits_for_the_answer(tmp_path: Path) -> None:
    async with checked(tmp_path) as (proxy, origin, supervisor):
        asking = asyncio.ensure_future(proxy.get("/x?y=1", b"X-User: spoofed\r\ncookie: a=b\r\n"))
        question = await supervisor.asked()
        assert not origin.seen
        assert (question.cluster, question.path, question.host, question.body) == ("authz", b"/x?y=1", b"a", None)
        assert dict(question.headers)[b"x-user"] == b"spoofed"
        supervisor.answer(
            request=(setting(b"x-user", b"me"),), removed=(b"cookie",), answer=(setting(b"x-told", b"1"),)
        )
        answer = await asking
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"x-told: 1" in answer
        assert b"x-user: me" in origin.seen[0]
        assert b"spoofed" not in origin.seen[0]
        assert b"cookie" not in origin.seen[0]
        assert counted(proxy)[names.EXT_OK] == 1


async def test_what_frames_a_message_is_not_changed(tmp_path: Path) -> None:
    async with checked(tmp_path) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Content-Length: 4", b"Connection: close", body=b"body")
        await supervisor.asked()
        named = [b"content-length", b"Transfer-Encoding", b"connection", b"upgrade", b"te", b"trailer"]
        supervisor.answer(
            request=tuple(setting(name, b"987654321") for name in named),
            removed=(b"Content-Length", b"host", b":path"),
            answer=(setting(b"content-length", b"987654321"), setting(b"transfer-encoding", b"chunked")),
        )
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"987654321" not in answer, "nor in what the host has seen, which it tells"
        (seen,) = origin.seen
        assert seen.startswith(b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n")
        assert seen.endswith(b"\r\n\r\nbody")
        client.writer.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"request": (setting(b":method", b"HEAD"),)},
        {"request": (setting(b":path", b"/a b"),)},
        {"request": (setting(b":path", b"/a\r\nx: y"),)},
        {"request": (setting(b"host", b"a/b"),)},
        {"request": (setting(b":scheme", b"ftp"),)},
        {"request": (setting(b"x", b"a\r\nb: c"),)},
        {"request": (setting(b"x\r\ny", b"a"),)},
        {"request": (setting(b"", b"a"),)},
        {"answer": (setting(b"x", b"a\nb"),)},
        {"query": ((b"a", b"b c"),)},
        {"query": ((b"a", b"\r\n"),)},
        {"request": tuple(HeaderChange(b"x", b"1", Change.ADD) for _ in range(101))},
        {"request": (setting(b"x", b"1" * 70_000),)},
        {"verdict": CheckVerdict.INVALID},
        {"verdict": CheckVerdict.DENIED, "status": 403, "answer": (setting(b"x y", b"1"),)},
        {"verdict": CheckVerdict.ERROR, "answer": (setting(b"x y", b"1"),)},
    ],
)
async def test_what_nobody_can_do_does_not_pass(tmp_path: Path, fields: dict[str, Any]) -> None:
    """Not even where failing is open: the service has answered."""
    async with checked(tmp_path, replace(CONFIG, fail_open=True)) as (proxy, origin, supervisor):
        asking = asyncio.ensure_future(proxy.get("/p"))
        await supervisor.asked()
        supervisor.answer(**fields)
        assert b"HTTP/1.1 500 " in await asking
        assert await told(proxy) == (500, "UAEX", "ext_authz_invalid")
        assert counted(proxy)[names.EXT_INVALID] == 1
        assert not origin.seen


async def test_a_supervisor_that_does_not_answer(tmp_path: Path) -> None:
    """The wait ends by the worker's own clock; what comes later is nobody's."""
    async with checked(tmp_path, replace(CONFIG, timeout_s=0.05)) as (proxy, origin, supervisor):
        assert b"HTTP/1.1 403 " in await proxy.get("/p")
        assert await told(proxy) == (403, "UAEX", "ext_authz_error")
        assert counted(proxy)[names.EXT_ERROR] == 1
        await until(lambda: supervisor.dropped == [supervisor.questions[0].number])
        supervisor.answer()
        assert not origin.seen


async def test_a_client_that_leaves_takes_its_question_along(tmp_path: Path) -> None:
    async with checked(tmp_path) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Content-Length: 0")
        question = await supervisor.asked()
        client.writer.close()
        await until(lambda: supervisor.dropped == [question.number])
        supervisor.answer()
        assert not origin.seen


async def test_the_limits_of_the_route_hold_while_it_waits(tmp_path: Path) -> None:
    async with checked(tmp_path, max_stream_duration_s=0.05) as (proxy, origin, supervisor):
        assert b"HTTP/1.1 504 " in await proxy.get("/p")
        await until(lambda: len(supervisor.dropped) == 1)
        assert not origin.seen


async def test_without_a_supervisor_nobody_answers(tmp_path: Path) -> None:
    """What waits fails when no successor has come for a while, and what comes later at once."""
    async with checked(tmp_path) as (proxy, origin, supervisor):
        asking = asyncio.ensure_future(proxy.get("/p"))
        await supervisor.asked()
        assert supervisor.book is not None
        supervisor.book._gap_s = 0.05
        supervisor.book.lose()
        assert b"HTTP/1.1 403 " in await asking
        assert b"HTTP/1.1 403 " in await proxy.get("/p")
        assert len(supervisor.questions) == 1
        assert supervisor.dropped == []
        assert counted(proxy)[names.EXT_ERROR] == 2
        assert not origin.seen
        supervisor.book.find()
        again = asyncio.ensure_future(proxy.get("/p"))
        await supervisor.asked(2)
        supervisor.answer()
        assert b"HTTP/1.1 200 " in await again


async def test_a_successor_is_asked_what_has_no_answer(tmp_path: Path) -> None:
    """Also what came while there was nobody; not what nobody waits for any more."""
    async with checked(tmp_path) as (proxy, origin, supervisor):
        book = supervisor.book
        assert book is not None
        asking = [asyncio.ensure_future(proxy.get(f"/{number}")) for number in range(2)]
        leaving = await posting(proxy, b"Content-Length: 0", path=b"/leaving")
        await supervisor.asked(3)
        book.lose()
        asking.append(asyncio.ensure_future(proxy.get("/2")))
        await until(lambda: len(book._asking) == 4)
        leaving.writer.close()
        await until(lambda: len(book._asking) == 3)
        assert len(supervisor.questions) == 3
        book.find()
        await supervisor.asked(6)
        again = supervisor.questions[3:]
        assert sorted(question.path for question in again) == [b"/0", b"/1", b"/2"]
        for index in range(3, 6):
            supervisor.answer(index=index)
        for one in asking:
            assert b"HTTP/1.1 200 " in await one
        assert len(origin.seen) == 3


async def test_there_are_not_too_many_questions(tmp_path: Path) -> None:
    async with checked(tmp_path, replace(CONFIG, fail_open=True)) as (proxy, _, supervisor):
        book = supervisor.book
        assert book is not None
        asking = asyncio.ensure_future(proxy.get("/p"))
        question = await supervisor.asked()
        heard: list[Any] = []
        held = [book.ask(question, heard.append) for _ in range(question_book.MAX_QUESTIONS - 1)]
        assert None not in held
        assert b"HTTP/1.1 200 " in await proxy.get("/p"), "one too many has failed, and failing is open"
        assert counted(proxy)[names.EXT_FAILURE_ALLOWED] == 1
        for one in held:
            assert one is not None
            one.forget()
        heavy = replace(question, body=b"x" * (check_book.MAX_BYTES // 2))
        first = book.ask(heavy, heard.append)
        assert first is not None
        assert book.ask(heavy, heard.append) is None, "there is no room for its bytes"
        first.forget()
        supervisor.answer(index=0)
        assert b"HTTP/1.1 200 " in await asking
        assert heard == []


@pytest.mark.parametrize(
    "fields",
    [
        {"body": b"x" * LARGE},
        {"path": b"/" * LARGE},
        {"host": b"a" * LARGE},
        {"headers": ((b"a", b"b" * LARGE),)},
        {"headers": tuple((b"%d" % number, b"b" * 300) for number in range(1000))},
        {"context": (("a", "b" * LARGE),)},
        {"call_headers": (("a", "b" * LARGE),)},
        {"metadata": {"a": {"b": "\N{GRINNING FACE}" * (LARGE // 4)}}},
        {"source": CheckPeer(address="a:1", service=b"b" * LARGE)},
        {"source": CheckPeer(address="a:1", principal=b"b" * LARGE)},
        {"source": CheckPeer(address="a:1", certificate="b" * LARGE)},
    ],
)
async def test_a_question_weighs_what_it_has(tmp_path: Path, fields: dict[str, Any]) -> None:
    """So that all that the book may hold fit in one frame."""
    async with checked(tmp_path) as (proxy, _, supervisor):
        asking = asyncio.ensure_future(proxy.get("/p"))
        question = await supervisor.asked()
        supervisor.answer()
        await asking
    for one in (question, replace(question, **fields)):
        assert len(frames.encode(CheckQuestions((one,)))) <= one.weight


# --- bodies


def showing(size: int, *, partial: bool = False) -> ExternalAuthorization:
    return replace(CONFIG, body=ShownBody(max_bytes=size, partial=partial))


async def test_a_body_is_there_before_the_question(tmp_path: Path) -> None:
    async with checked(tmp_path, showing(10)) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Content-Length: 6", b"Connection: close", body=b"abc")
        await until(lambda: proxy.chain.counts[names.DOWN_RQ_TOTAL] == 1)
        assert not supervisor.questions
        client.writer.write(b"def")
        question = await supervisor.asked()
        assert (question.body, question.size) == (b"abcdef", 6)
        assert dict(question.headers)[b"x-envoy-auth-partial-body"] == b"false"
        supervisor.answer()
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
        assert origin.seen[0].endswith(b"\r\n\r\nabcdef")
        client.writer.close()


async def test_a_large_body_waits_with_back_pressure_and_goes_on_whole(tmp_path: Path) -> None:
    """Of a part that is shown no more is read than is kept; all of it goes to the host, once and in order."""
    body = b"".join(b"%07d\n" % number for number in range(LARGE // 2))
    async with checked(tmp_path, showing(2 * REPLAY_BYTES, partial=True)) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Content-Length: %d" % len(body), b"Connection: close", body=body)
        question = await supervisor.asked()
        assert question.body == body[: 2 * REPLAY_BYTES]
        assert dict(question.headers)[b"x-envoy-auth-partial-body"] == b"true"
        await until(lambda: proxy.chain.counts[names.DOWN_PAUSED_READING] == 1)
        held = proxy.chain.counts[names.DOWN_CX_RX_BYTES]
        await asyncio.sleep(0.05)
        assert proxy.chain.counts[names.DOWN_CX_RX_BYTES] == held, "nothing is read"
        assert held < len(body)
        supervisor.answer()
        assert b" 200 OK\r\n" in await client.rest()
        assert origin.seen[0].partition(b"\r\n\r\n")[2] == body
        client.writer.close()


async def test_a_body_in_chunks_goes_on_in_chunks(tmp_path: Path) -> None:
    async with checked(tmp_path, showing(10)) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Transfer-Encoding: chunked", b"Connection: close", body=b"3\r\nabc\r\n")
        await until(lambda: proxy.chain.counts[names.DOWN_RQ_TOTAL] == 1)
        client.writer.write(b"1\r\nd\r\n0\r\n\r\n")
        assert (await supervisor.asked()).body == b"abcd"
        supervisor.answer()
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
        assert origin.seen[0].endswith(b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")
        client.writer.close()


async def test_a_body_that_is_too_large_gets_one_answer(tmp_path: Path) -> None:
    """Also when what follows in the same bytes is no HTTP."""
    async with checked(tmp_path, replace(showing(4), fail_open=True)) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Transfer-Encoding: chunked")
        await until(lambda: proxy.chain.counts[names.DOWN_RQ_TOTAL] == 1)
        client.writer.write(b"5\r\nabcde\r\n0\r\n\r\nnonsense\r\n\r\n")
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 413 Payload Too Large\r\n")
        assert answer.count(b"HTTP/1.1") == 1
        assert await told(proxy) == (413, "-", "request_payload_too_large")
        assert proxy.chain.counts[names.DOWN_RQ_TOO_LARGE] == 1
        assert not supervisor.questions
        assert not origin.seen
        client.writer.close()


async def test_a_client_that_stops_in_its_body(tmp_path: Path) -> None:
    async with checked(tmp_path, showing(10), idle_timeout_s=0.05) as (proxy, origin, supervisor):
        client = await posting(proxy, b"Content-Length: 6", body=b"abc")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert (await told(proxy))[2] == "stream_idle_timeout"
        leaving = await posting(proxy, b"Content-Length: 6", body=b"abc")
        await until(lambda: proxy.chain.counts[names.DOWN_RQ_TOTAL] == 2)
        leaving.writer.close()
        await until(lambda: proxy.chain.counts[names.DOWN_RQ_ACTIVE] == 0)
        assert not supervisor.questions
        assert not origin.seen
        client.writer.close()


async def test_two_filters_wait_for_one_body(tmp_path: Path) -> None:
    """The second looks at what the first has let pass."""
    filters = (
        HttpFilter(name="one", config=showing(10)),
        HttpFilter(name="two", config=replace(showing(4, partial=True), stat_prefix="two")),
    )
    async with (
        raw_origin() as origin,
        http_proxy(
            tmp_path, virtual_host(route("/", forward("c"))), [cluster("c", origin.port)], filters=filters
        ) as proxy,
    ):
        supervisor = Supervisor()
        supervisor.book = proxy.runtime.checks = CheckBook(
            proxy.runtime.wheel, proxy.runtime.clock, supervisor.frames.append
        )
        client = await posting(proxy, b"Content-Length: 6", b"Connection: close", body=b"abcdef")
        assert (await supervisor.asked(1)).body == b"abcdef"
        supervisor.answer(request=(setting(b"x-one", b"1"),))
        second = await supervisor.asked(2)
        assert second.body == b"abcd"
        assert dict(second.headers)[b"x-one"] == b"1"
        supervisor.answer()
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
        assert origin.seen[0].endswith(b"\r\n\r\nabcdef")
        client.writer.close()
