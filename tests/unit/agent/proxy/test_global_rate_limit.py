"""Global rate limits through a whole chain: waiting for the control plane's answer, and what follows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.ipc.messages import LimitAnswers, LimitQuestions
from agent.model.http_filters import HttpFilter
from agent.model.rate_limit import (
    Action,
    ActionKind,
    DescriptorRule,
    GlobalRateLimit,
    LimitAnswer,
    LimitQuestion,
    LimitState,
    LimitVerdict,
)
from agent.model.route import DirectResponse
from agent.proxy import question_book
from agent.proxy.limit_book import LimitBook
from agent.stats import names
from agent.stats.names import global_limit_group
from tests.support.proxying import (
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

RULES = (
    DescriptorRule((Action(kind=ActionKind.LITERAL, key="limit", value="a/b/c"),)),
    DescriptorRule((Action(kind=ActionKind.HEADER, key="user", name="x-user"),)),
)
STATE = LimitState(name="n", requests=5, window_s=60, remaining=0, reset_s=9)
RETRY = ((b"retry-after", b"9"),)


class ControlPlane:
    """What the workers' questions come to; answers when a test says so."""

    def __init__(self) -> None:
        self.frames: list[LimitQuestions] = []
        self.book: LimitBook | None = None

    @property
    def questions(self) -> list[LimitQuestion]:
        return [question for frame in self.frames for question in frame.questions]

    async def asked(self, count: int = 1) -> None:
        await until(lambda: len(self.questions) >= count)

    def answer(self, verdict: LimitVerdict, index: int = -1, **fields: Any) -> None:
        assert self.book is not None
        self.book.hear(LimitAnswers((LimitAnswer(self.questions[index].number, verdict, **fields),)))


@asynccontextmanager
async def limited(
    tmp_path: Path, **settings: Any
) -> AsyncIterator[tuple[Proxy, RawOrigin, ControlPlane]]:  # fmt: skip
    config = GlobalRateLimit(domain="gossamer", rules=RULES, **{"timeout_s": 30.0, **settings})
    answering = route("/direct", DirectResponse(status=200))
    host = virtual_host(answering, route("/nowhere", forward("nowhere")), route("/", forward("c")))
    filters = (HttpFilter(name="limit", config=config),)
    async with (
        raw_origin() as origin,
        http_proxy(tmp_path, host, [cluster("c", origin.port)], filters=filters) as proxy,
    ):
        plane = ControlPlane()
        plane.book = proxy.runtime.limits = LimitBook(proxy.runtime.wheel, proxy.runtime.clock, plane.frames.append)
        yield proxy, origin, plane
        assert not plane.book._asking, "no question is left"


def counts(proxy: Proxy) -> list[int]:
    return proxy.runtime.stats.get("cluster.c.ratelimit", lambda: global_limit_group("c")).counts


async def told(proxy: Proxy) -> tuple[Any, ...]:
    line = (await proxy.logged(1))[-1]
    return line["code"], line["flags"], line["details"]


async def test_a_request_waits_for_the_answer(tmp_path: Path) -> None:
    async with limited(tmp_path) as (proxy, origin, plane):
        asking = asyncio.ensure_future(proxy.get("/x"))
        await plane.asked()
        assert not origin.seen
        assert plane.questions[0].domain == "gossamer"
        assert plane.questions[0].descriptors == ((("limit", "a/b/c"),),), "no user, no second descriptor"
        plane.answer(LimitVerdict.OK, fields=((b"x-more", b"1"),))
        answer = await asking
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"x-more: 1" in answer
        assert counts(proxy)[names.GLOBAL_OK] == 1


async def test_over_the_limit(tmp_path: Path) -> None:
    async with limited(tmp_path, shown=True) as (proxy, origin, plane):
        asking = asyncio.ensure_future(proxy.get("/x"))
        await plane.asked()
        plane.answer(LimitVerdict.OVER, states=(STATE,), fields=RETRY)
        answer = await asking
        assert answer.startswith(b"HTTP/1.1 429 ")
        for field in (b"retry-after: 9", b"x-envoy-ratelimited: true", b'x-ratelimit-limit: 5, 5;w=60;name="n"'):
            assert field in answer
        assert answer.endswith(b"\r\n\r\n"), "no body"
        assert not origin.seen
        assert await told(proxy) == (429, "RL", "request_rate_limited")
        assert counts(proxy)[names.GLOBAL_OVER] == 1
        assert proxy.runtime.snapshot.clusters["c"].stats.codes == {429: 1}


async def test_without_an_answer_it_goes_on(tmp_path: Path) -> None:
    async with limited(tmp_path, timeout_s=0.02) as (proxy, origin, plane):
        assert (await proxy.get("/x")).startswith(b"HTTP/1.1 200 ")
        assert len(origin.seen) == len(plane.questions) == 1
        plane.answer(LimitVerdict.OVER)  # too late
        assert (counts(proxy)[names.GLOBAL_ERROR], counts(proxy)[names.GLOBAL_ALLOWED]) == (1, 1)


async def test_without_an_answer_it_is_refused(tmp_path: Path) -> None:
    async with limited(tmp_path, deny=True, error_status=503) as (proxy, origin, plane):
        asking = asyncio.ensure_future(proxy.get("/x"))
        await plane.asked()
        plane.answer(LimitVerdict.ERROR)
        assert (await asking).startswith(b"HTTP/1.1 503 ")
        assert await told(proxy) == (503, "RLSE", "rate_limiter_error")
        assert not origin.seen
        assert (counts(proxy)[names.GLOBAL_ERROR], counts(proxy)[names.GLOBAL_ALLOWED]) == (1, 0)


async def test_what_no_cluster_gets_is_not_asked_about(tmp_path: Path) -> None:
    async with limited(tmp_path) as (proxy, _, plane):
        assert (await proxy.get("/direct")).startswith(b"HTTP/1.1 200 ")
        assert (await proxy.get("/nowhere")).startswith(b"HTTP/1.1 503 ")
        assert not plane.questions


async def test_a_client_that_goes_is_not_answered(tmp_path: Path) -> None:
    async with limited(tmp_path) as (proxy, origin, plane):
        _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        await plane.asked()
        writer.close()
        await proxy.logged(1)
        plane.answer(LimitVerdict.OK)
        assert not origin.seen


async def test_questions_of_one_turn_are_one_frame_and_bounded(tmp_path: Path) -> None:
    async with limited(tmp_path, deny=True) as (_, _, plane):
        book, heard = plane.book, []
        assert book is not None
        most = question_book.MAX_QUESTIONS
        questions = [book.ask("d", (), 30.0, heard.append) for _ in range(most + 1)]
        assert questions[-1] is None
        await asyncio.sleep(0)
        assert [len(frame.questions) for frame in plane.frames] == [most]
        for index in range(most):
            plane.answer(LimitVerdict.OK, index)
        assert len(heard) == most
