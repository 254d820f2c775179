"""Asking the control plane's rate limit service for the workers.

Owns:   the channel, how many questions are under way, reading answers.
Not:    who asks (agent.supervisor.pool), what an answer does to a request (agent.proxy.global_rate_limit).
Source: envoy/service/ratelimit/v3/rls.proto.
Invariants: each question is answered once, with ERROR when the control plane does not; MAX_ASKING are under way at
        most, one more has failed at once; answers that come in one turn of the loop go in one frame.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from agent.ipc.messages import LimitAnswers, LimitQuestions
from agent.model.rate_limit import LimitAnswer, LimitQuestion, LimitState, LimitVerdict
from mesh.logs import get_logger
from mesh.tasks import spawn

_log = get_logger(__name__)

METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
MAX_ASKING = 1024
LOG_EVERY_S = 10.0
_CLOSE_S = 1.0
_WINDOWS = {
    RateLimitResponse.RateLimit.SECOND: 1,
    RateLimitResponse.RateLimit.MINUTE: 60,
    RateLimitResponse.RateLimit.HOUR: 3600,
    RateLimitResponse.RateLimit.DAY: 86400,
}
_VERDICTS = {RateLimitResponse.OK: LimitVerdict.OK, RateLimitResponse.OVER_LIMIT: LimitVerdict.OVER}

Reply = Callable[[LimitAnswers], None]


class RateLimitClient:
    """One per supervisor. `connect` may raise while there is no identity yet."""

    def __init__(self, connect: Callable[[], grpc.aio.Channel], *, clock: Callable[[], float]) -> None:
        self._connect = connect
        self._clock = clock
        self._channel: grpc.aio.Channel | None = None
        self._call: Any = None
        self._asking = 0
        self._answers: dict[Reply, list[LimitAnswer]] = {}
        self._logged = float("-inf")

    def ask(self, questions: LimitQuestions, reply: Reply) -> None:
        """`reply` is called with the answers, as they come."""
        for question in questions.questions:
            if self._asking >= MAX_ASKING:
                self._answer(reply, _failed(question))
            else:
                self._asking += 1
                spawn("rate limit question", self._ask(question, reply))

    def renew(self) -> None:
        """There is another identity: connect anew."""
        channel, self._channel, self._call = self._channel, None, None
        if channel is not None:
            spawn("close the rate limit channel", channel.close(_CLOSE_S))

    async def _ask(self, question: LimitQuestion, reply: Reply) -> None:
        answer = _failed(question)
        try:
            response = await self._method()(_request(question), timeout=question.timeout_s)
            answer = _read(question.number, response)
        except grpc.aio.AioRpcError as error:
            self._note(f"{error.code().name}: {error.details()}")
        except (LookupError, ValueError) as error:
            self._note(f"not connected: {error!r}")
        finally:
            self._asking -= 1
            self._answer(reply, answer)

    def _method(self) -> Any:
        if self._channel is None:
            self._channel = self._connect()
            self._call = self._channel.unary_unary(
                METHOD,
                request_serializer=RateLimitRequest.SerializeToString,
                response_deserializer=RateLimitResponse.FromString,
            )
        return self._call

    def _answer(self, reply: Reply, answer: LimitAnswer) -> None:
        if not self._answers:
            asyncio.get_running_loop().call_soon(self._flush)
        self._answers.setdefault(reply, []).append(answer)

    def _flush(self) -> None:
        answers, self._answers = self._answers, {}
        for reply, own in answers.items():
            reply(LimitAnswers(tuple(own)))

    def _note(self, reason: str) -> None:
        now = self._clock()
        if now - self._logged >= LOG_EVERY_S:
            self._logged = now
            _log.warning("the rate limit service does not answer", reason=reason)


def _failed(question: LimitQuestion) -> LimitAnswer:
    return LimitAnswer(question.number, LimitVerdict.ERROR)


def _request(question: LimitQuestion) -> RateLimitRequest:
    request = RateLimitRequest(domain=question.domain)
    for entries in question.descriptors:
        made = [RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries]
        request.descriptors.append(RateLimitDescriptor(entries=made))
    return request


def _read(number: int, response: RateLimitResponse) -> LimitAnswer:
    return LimitAnswer(
        number,
        _VERDICTS.get(response.overall_code, LimitVerdict.ERROR),
        tuple(_states(response.statuses)),
        tuple((item.key.encode(), _value(item.value)) for item in response.response_headers_to_add if item.key),
    )


def _value(text: str) -> bytes:
    """Whatever could end a line is no part of a value."""
    return text.translate({0: None, 10: None, 13: None}).encode()


def _states(statuses: Iterable[RateLimitResponse.DescriptorStatus]) -> Iterable[LimitState]:
    for status in statuses:
        if status.HasField("current_limit"):
            limit = status.current_limit
            yield LimitState(
                name=limit.name,
                requests=limit.requests_per_unit,
                window_s=_WINDOWS.get(limit.unit, 0),
                remaining=status.limit_remaining,
                reset_s=status.duration_until_reset.seconds,
            )
