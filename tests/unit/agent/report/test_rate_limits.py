"""Questions of workers at a rate limit service over real gRPC on loopback."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from agent.ipc.messages import LimitAnswers, LimitQuestions
from agent.model.rate_limit import LimitAnswer, LimitQuestion, LimitState, LimitVerdict
from agent.report import rate_limits
from agent.report.rate_limits import RateLimitClient
from tests.support.proxying import until

Decide = Callable[[RateLimitRequest], RateLimitResponse]
DESCRIPTORS = ((("limit", "a/b/c"), ("header.x-user", "u")), (("limit", "d/e/f"),))


def question(number: int, timeout_s: float = 10.0) -> LimitQuestion:
    return LimitQuestion(number, "gossamer", DESCRIPTORS, timeout_s)


@asynccontextmanager
async def service(decide: Decide) -> AsyncIterator[str]:
    async def should(request: RateLimitRequest, context: Any) -> RateLimitResponse:
        return decide(request)

    method = grpc.unary_unary_rpc_method_handler(
        should,
        request_deserializer=RateLimitRequest.FromString,
        response_serializer=RateLimitResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(
        "envoy.service.ratelimit.v3.RateLimitService", {"ShouldRateLimit": method}
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def answers(client: RateLimitClient, *questions: LimitQuestion) -> list[LimitAnswer]:
    frames: list[LimitAnswers] = []
    client.ask(LimitQuestions(questions), frames.append)
    await until(lambda: sum(len(frame.answers) for frame in frames) >= len(questions))
    return [answer for frame in frames for answer in frame.answers]


def over(request: RateLimitRequest) -> RateLimitResponse:
    response = RateLimitResponse(overall_code=RateLimitResponse.OVER_LIMIT)
    status = response.statuses.add(code=RateLimitResponse.OVER_LIMIT, limit_remaining=2)
    status.current_limit.name, status.current_limit.requests_per_unit = "n", 5
    status.current_limit.unit = RateLimitResponse.RateLimit.HOUR
    status.duration_until_reset.seconds = 7
    response.statuses.add(code=RateLimitResponse.OK)
    response.response_headers_to_add.add(key="retry-after", value="7\r\nx: y")
    response.response_headers_to_add.add(key="told", value=str(request).replace("\n", " "))
    return response


async def test_asked_and_answered() -> None:
    async with service(over) as address:
        client = RateLimitClient(lambda: grpc.aio.insecure_channel(address), clock=lambda: 0.0)
        (answer,) = await answers(client, question(7))
        assert (answer.number, answer.verdict) == (7, LimitVerdict.OVER)
        assert answer.states == (LimitState(name="n", requests=5, window_s=3600, remaining=2, reset_s=7),)
        told = dict(answer.fields)
        assert told[b"retry-after"] == b"7x: y", "no value ends a line"
        for part in (b'domain: "gossamer"', b'value: "a/b/c"', b'key: "header.x-user"', b'value: "d/e/f"'):
            assert part in told[b"told"]
        client.renew()
        assert (await answers(client, question(8)))[0].verdict is LimitVerdict.OVER
        client.renew()


async def test_no_answer_is_an_error() -> None:
    client = RateLimitClient(lambda: grpc.aio.insecure_channel("127.0.0.1:1"), clock=lambda: 0.0)
    assert await answers(client, question(1, 0.5)) == [LimitAnswer(1, LimitVerdict.ERROR)]
    client.renew()


async def test_without_an_identity_there_is_no_channel() -> None:
    def connect() -> grpc.aio.Channel:
        raise KeyError("spiffe://cluster.local/node/a")

    client = RateLimitClient(connect, clock=lambda: 0.0)
    assert await answers(client, question(1)) == [LimitAnswer(1, LimitVerdict.ERROR)]


async def test_a_code_that_is_none_is_an_error() -> None:
    async with service(lambda _: RateLimitResponse()) as address:
        client = RateLimitClient(lambda: grpc.aio.insecure_channel(address), clock=lambda: 0.0)
        assert (await answers(client, question(1)))[0].verdict is LimitVerdict.ERROR
        client.renew()


async def test_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MAX_ASKING", 3)
    async with service(lambda _: RateLimitResponse(overall_code=RateLimitResponse.OK)) as address:
        client = RateLimitClient(lambda: grpc.aio.insecure_channel(address), clock=lambda: 0.0)
        found = await answers(client, *(question(number) for number in range(5)))
        verdicts = {answer.number: answer.verdict for answer in found}
        assert [verdicts[number] for number in range(5)] == [LimitVerdict.OK] * 3 + [LimitVerdict.ERROR] * 2
        assert (await answers(client, question(9)))[0].verdict is LimitVerdict.OK
        client.renew()
