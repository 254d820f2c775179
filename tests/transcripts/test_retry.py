"""Retries, played from transcripts: what a cluster decides on each outcome of a request's tries.

Commands (one a line; the output is what is decided, in order):
  cluster [SETTING=VALUE...]   a new cluster of two hosts; settings are fields of agent.model.cluster.Thresholds
  policy CONDITION,... [SETTING=VALUE...]   the route's; settings are fields of agent.model.route.RetryPolicy
  request NAME [FIELD:VALUE...]   a new request of that name with these header fields; its first try begins
  NAME answers STATUS [FIELD:VALUE...]   the present try is answered
  NAME ends REASON             the present try ends without an answer (agent.model.resets)
  NAME is late                 the present try takes too long, and goes on beside the next one
  NAME leaves                  the client has gone
  busy COUNT                   so many requests are under way at the cluster besides
  stats                        the counts that are not 0, and how many retries are under way
Delays are the upper bounds of the random back-off (rng gives nearly 1). The wall clock stands at 1000 s.
"""

from pathlib import Path

import pytest

from agent.cluster.retries import RetryBook
from agent.codec.head import Headers, RequestHead, ResponseHead
from agent.model.cells import REQUESTS, RETRIES
from agent.model.cluster import Thresholds
from agent.model.route import RetryPolicy
from agent.stats.names import CLUSTER
from tests.support import transcripts
from tests.support.hosts import endpoint
from tests.support.upstream import ClusterUnderTest, Request

HERE = Path(__file__).parent


class Play:
    """A cluster, a route's policy and the requests by name."""

    def __init__(self) -> None:
        self.under_test = ClusterUnderTest()
        self.policy: RetryPolicy | None = None
        self.book = RetryBook()
        self.requests: dict[str, Request] = {}

    @property
    def cluster(self):  # type: ignore[no-untyped-def]
        return self.under_test.cluster

    def execute(self, text: str) -> str:
        lines: list[str] = []
        for line in text.splitlines():
            verb, *words = line.split()
            if verb in self.requests:
                lines += self._outcome(verb, self.requests[verb], words)
            else:
                lines += getattr(self, f"do_{verb}")(words)
        return "\n".join(lines)

    def do_cluster(self, words: list[str]) -> list[str]:
        settings = {name: float(value) if "." in value else int(value) for name, value in _pairs(words, "=")}
        self.under_test = ClusterUnderTest(
            [endpoint(1), endpoint(2)],
            rng=lambda: 0.999999999,
            thresholds=Thresholds(**settings),  # type: ignore[arg-type]
        )
        self.requests = {}
        return []

    def do_policy(self, words: list[str]) -> list[str]:
        settings: dict[str, object] = {}
        for name, value in _pairs(words[1:], "="):
            if name == "retriable_status_codes":
                settings[name] = frozenset(map(int, value.split(",")))
            elif name == "reset_headers":  # a ! behind a name: it holds a Unix time
                settings[name] = tuple((one.rstrip("!"), one.endswith("!")) for one in value.split(","))
            else:
                settings[name] = value == "true" if value in ("true", "false") else float(value)
        if "num_retries" in settings:
            settings["num_retries"] = int(settings["num_retries"])  # type: ignore[call-overload]
        if "host_selection_max_attempts" in settings:
            settings["host_selection_max_attempts"] = int(settings["host_selection_max_attempts"])  # type: ignore[call-overload]
        self.policy = RetryPolicy(retry_on=frozenset(words[0].split(",")), **settings)  # type: ignore[arg-type]
        return []

    def do_request(self, words: list[str]) -> list[str]:
        head = RequestHead(b"GET", b"/", b"x", _headers(words[1:]))
        request = self.requests[words[0]] = Request(self.book.rules_for(self.policy, head))
        request.head = head
        return [*([] if request.retry else [f"{words[0]} is not retried"]), *self._try(words[0], request)]

    def do_busy(self, words: list[str]) -> list[str]:
        for _ in range(int(words[0])):
            self.cluster.limits[0].force(REQUESTS)
        return []

    def do_stats(self, words: list[str]) -> list[str]:
        names = [f"{name} {count}" for name, count in zip(CLUSTER.names, self.under_test.counts, strict=True) if count]
        return [*names, f"retries under way: {self.cluster.limits[0].under_way(RETRIES)}"]

    def _try(self, name: str, request: Request) -> list[str]:
        host = self.cluster.pick(request)
        request.attempts += 1
        request.host = host  # type: ignore[attr-defined]
        return [f"{name} tries {host.key}"]

    def _outcome(self, name: str, request: Request, words: list[str]) -> list[str]:
        if words[0] == "leaves":
            if request.holds_retry:
                self.cluster.end_retry(request)
            return []
        if words[0] == "answers":
            answer = ResponseHead(int(words[1]), b"", _headers(words[2:]))
            again = request.retry is not None and self.cluster.retry_after_status(request, answer)
        elif words == ["is", "late"]:
            again = self.cluster.retry_beside(request)
        else:
            again = request.retry is not None and self.cluster.retry_after_reset(request, words[1])
        if not again:
            return [f"{name} is done{', flags ' + request.flags if request.flags else ''}"]
        request.tried.append(request.host)  # type: ignore[attr-defined]
        delay_ms = self.cluster.retry_delay_s(request) * 1000
        return [f"{name} waits less than {delay_ms:.0f} ms", *self._try(name, request)]


def _pairs(words: list[str], mark: str) -> list[tuple[str, str]]:
    return [(name, value) for name, _, value in (word.partition(mark) for word in words)]


def _headers(words: list[str]) -> Headers:
    made = Headers()
    for name, value in _pairs(words, ":"):
        made.append(name.encode(), value.encode())
    return made


@pytest.mark.parametrize("path", transcripts.cases(HERE / "retry"), ids=lambda path: path.stem)
async def test_retry(path: Path) -> None:
    transcripts.run(path, Play().execute)
