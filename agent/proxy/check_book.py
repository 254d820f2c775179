"""The questions of one worker to authorization services over gRPC, which it asks by way of the supervisor.

Not:    what a request asks and what the answer does to it (ext_authz, ext_authz_grpc).
Invariants: all questions under way have MAX_BYTES at most, so that a frame has room for all that are new; a question
        whose request has ended is taken back. When the supervisor is gone, questions wait for its successor, who is
        asked all that have no answer; if none comes within GAP_S they fail, and from then on every question at once.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agent.ipc.messages import CheckQuestions
from agent.model.ext_authz import CheckQuestion
from agent.proxy.pause import Pause
from agent.proxy.question_book import Heard, Question, QuestionBook
from agent.upstream.wheel import TimerWheel

MAX_BYTES: Final = 8 * 1024 * 1024
GAP_S: Final = 5.0  # an upgrade in place: a new process starts

Send = Callable[[CheckQuestions], None]


class CheckBook(QuestionBook):
    """One per worker. `send`: to the supervisor."""

    __slots__ = ("_dropped", "_gap_s", "_given_up", "_lost", "_new", "_pause", "_send", "_sent")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float], send: Send, gap_s: float = GAP_S) -> None:
        super().__init__(wheel, clock)
        self._send = send
        self._gap_s = gap_s
        self._new: dict[int, CheckQuestion] = {}
        self._sent: dict[int, CheckQuestion] = {}
        self._dropped: list[int] = []
        self._lost = self._given_up = False
        self._pause = Pause(self._give_up)

    def ask(self, asked: CheckQuestion, heard: Heard) -> Question | None:
        """Ask, whatever its number; `heard` is called later, once, unless the question is forgotten. None: there are
        too many."""
        weight = asked.weight
        if self._given_up or self._weight + weight > MAX_BYTES:
            return None
        question = self.begin(asked.timeout_s, heard, weight)
        if question is not None:
            self._new[question.number] = replace(asked, number=question.number)
        return question

    def drop(self, question: Question) -> None:
        if question.number in self._sent and not self._lost:
            self._dropped.append(question.number)
            self.flush_soon()

    def leave(self, question: Question) -> None:
        self._new.pop(question.number, None)
        self._sent.pop(question.number, None)
        super().leave(question)

    def flush(self) -> None:
        if self._lost:
            return
        new, self._new = self._new, {}
        dropped, self._dropped = self._dropped, []
        if new or dropped:
            self._sent.update(new)
            self._send(CheckQuestions(tuple(new.values()), tuple(dropped)))

    # --- the supervisor's end -----------------------------------------------------------------------------------

    def lose(self) -> None:
        """It is gone."""
        self._lost = True
        self._new = {**self._sent, **self._new}
        self._sent = {}
        self._dropped.clear()
        self._wheel.arm(self._pause, self._clock() + self._gap_s)

    def find(self) -> None:
        """A successor has come: `send` is to it."""
        if self._lost:
            self._lost = self._given_up = False
            self._wheel.disarm(self._pause)
            self.flush_soon()

    def _give_up(self) -> None:
        self._given_up = True
        for question in list(self._asking.values()):
            question.end(None)
