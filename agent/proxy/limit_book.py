"""The questions of one worker to the rate limit service, which it asks by way of the supervisor.

Not:    what a request asks and what the answer does to it (global_rate_limit).
"""

from collections.abc import Callable

from agent.filters.rate_limit_descriptors import Entries
from agent.ipc.messages import LimitQuestions
from agent.model.rate_limit import LimitQuestion
from agent.proxy.question_book import Heard, Question, QuestionBook
from agent.upstream.wheel import TimerWheel

Send = Callable[[LimitQuestions], None]


class LimitBook(QuestionBook):
    """One per worker. `send`: to the supervisor."""

    __slots__ = ("_new", "_send")

    def __init__(self, wheel: TimerWheel, clock: Callable[[], float], send: Send) -> None:
        super().__init__(wheel, clock)
        self._send = send
        self._new: list[LimitQuestion] = []

    def ask(self, domain: str, descriptors: tuple[Entries, ...], timeout_s: float, heard: Heard) -> Question | None:
        """Ask; `heard` is called later, once, unless the question is forgotten. None: there are too many."""
        question = self.begin(timeout_s, heard)
        if question is not None:
            self._new.append(LimitQuestion(question.number, domain, descriptors, timeout_s))
        return question

    def flush(self) -> None:
        new, self._new = self._new, []
        self._send(LimitQuestions(tuple(new)))
