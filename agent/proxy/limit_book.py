"""The questions of one worker to the rate limit service, which it asks by way of the supervisor.

Owns:   the questions under way, their time-outs, putting those of one turn of the loop into one frame.
Not:    what a request asks and what the answer does to it (global_rate_limit).
Invariants: each question has one end: an answer, its time-out, or that nobody waits any more; at most MAX_QUESTIONS are
        under way, one more has failed at once.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from agent.filters.rate_limit_descriptors import Entries
from agent.ipc.messages import LimitAnswers, LimitQuestions
from agent.model.rate_limit import LimitAnswer, LimitQuestion
from agent.upstream.wheel import Timed, TimerWheel

MAX_QUESTIONS: Final = 1024

Heard = Callable[[LimitAnswer | None], None]  # None = no answer
Send = Callable[[LimitQuestions], None]


class Question(Timed):
    """One question under way."""

    __slots__ = ("_book", "_heard", "number")

    def __init__(self, book: "LimitBook", number: int, heard: Heard) -> None:
        super().__init__()
        self._book = book
        self._heard: Heard | None = heard
        self.number = number

    def on_deadline(self, now: float) -> None:
        self.end(None)

    def end(self, answer: LimitAnswer | None) -> None:
        """It is answered, or will not be."""
        heard = self._heard
        self.forget()
        if heard is not None:
            heard(answer)

    def forget(self) -> None:
        """Nobody waits any more."""
        self._heard = None
        self._book.leave(self)


class LimitBook:
    """One per worker. `send`: to the supervisor."""

    __slots__ = ("_asking", "_clock", "_new", "_next", "_send", "_wheel")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float], send: Send) -> None:
        self._wheel = wheel
        self._clock = clock
        self._send = send
        self._asking: dict[int, Question] = {}
        self._new: list[LimitQuestion] = []
        self._next = 0

    def ask(self, domain: str, descriptors: tuple[Entries, ...], timeout_s: float, heard: Heard) -> Question | None:
        """Ask; `heard` is called later, once, unless the question is forgotten. None: there are too many."""
        if len(self._asking) >= MAX_QUESTIONS:
            return None
        self._next += 1
        question = self._asking[self._next] = Question(self, self._next, heard)
        self._wheel.arm(question, self._clock() + timeout_s)
        if not self._new:
            asyncio.get_running_loop().call_soon(self._flush)
        self._new.append(LimitQuestion(self._next, domain, descriptors, timeout_s))
        return question

    def hear(self, answers: LimitAnswers) -> None:
        """From the supervisor."""
        for answer in answers.answers:
            question = self._asking.get(answer.number)
            if question is not None:  # else it was too late
                question.end(answer)

    def leave(self, question: Question) -> None:
        if self._asking.pop(question.number, None) is not None:
            self._wheel.disarm(question)

    def _flush(self) -> None:
        new, self._new = self._new, []
        self._send(LimitQuestions(tuple(new)))
