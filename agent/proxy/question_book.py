"""Questions of one worker that its supervisor asks others: numbered, timed, bounded.

Owns:   the questions under way, their time-outs, putting those of one turn of the loop into one frame.
Not:    what is asked and what an answer does (limit_book, check_book and whom they serve).
Invariants: each question has one end: an answer, its time-out, or that nobody waits any more; at most MAX_QUESTIONS are
        under way, one more has failed at once.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from agent.ipc.messages import CheckAnswers, LimitAnswers
from agent.upstream.wheel import Timed, TimerWheel

MAX_QUESTIONS: Final = 1024

Heard = Callable[[Any], None]  # the answer, None = there is none


class Question(Timed):
    """One question under way. `weight`: bytes."""

    __slots__ = ("_book", "_heard", "number", "weight")

    def __init__(self, book: "QuestionBook", number: int, heard: Heard, weight: int) -> None:
        super().__init__()
        self._book = book
        self._heard: Heard | None = heard
        self.number = number
        self.weight = weight

    def on_deadline(self, now: float) -> None:
        self._book.drop(self)
        self.end(None)

    def end(self, answer: Any) -> None:
        """It is answered, or will not be."""
        heard = self._heard
        self._leave()
        if heard is not None:
            heard(answer)

    def forget(self) -> None:
        """Nobody waits any more."""
        self._book.drop(self)
        self._leave()

    def _leave(self) -> None:
        self._heard = None
        self._book.leave(self)


class QuestionBook:
    """One per worker and kind of question."""

    __slots__ = ("_asking", "_clock", "_next", "_told", "_weight", "_wheel")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float]) -> None:
        self._wheel = wheel
        self._clock = clock
        self._asking: dict[int, Question] = {}
        self._next = 0
        self._weight = 0
        self._told = True  # there is nothing to be flushed

    def flush(self) -> None:
        """Send what is new."""
        raise NotImplementedError

    def drop(self, question: Question) -> None:
        """Its answer is not wanted any more."""

    def begin(self, timeout_s: float, heard: Heard, weight: int = 0) -> Question | None:
        """A question; `heard` is called later, once, unless it is forgotten. None: there are too many."""
        if len(self._asking) >= MAX_QUESTIONS:
            return None
        self._next += 1
        question = self._asking[self._next] = Question(self, self._next, heard, weight)
        self._weight += weight
        self._wheel.arm(question, self._clock() + timeout_s)
        self.flush_soon()
        return question

    def flush_soon(self) -> None:
        """At the end of this turn of the loop."""
        if self._told:
            self._told = False
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._told = True
        self.flush()

    def hear(self, answers: LimitAnswers | CheckAnswers) -> None:
        """From the supervisor."""
        for answer in answers.answers:
            question = self._asking.get(answer.number)
            if question is not None:  # else it was too late
                question.end(answer)

    def leave(self, question: Question) -> None:
        if self._asking.pop(question.number, None) is not None:
            self._weight -= question.weight
            self._wheel.disarm(question)
