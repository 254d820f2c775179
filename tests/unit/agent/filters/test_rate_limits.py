"""Local limits, the descriptors of requests, and the fields that tell clients where they stand."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.local_rate_limit import LocalLimiter
from agent.filters.rate_limit_descriptors import CompiledRule
from agent.filters.rate_limit_fields import limit_fields
from agent.filters.token_buckets import SharedBucket, TokenCells
from agent.model.rate_limit import (
    Action,
    ActionKind,
    DescriptorBucket,
    DescriptorRule,
    LimitState,
    LocalRateLimit,
    TokenBucket,
)
from agent.model.tags import tag_of
from agent.model.token_cells import TABLE

S = 1_000_000_000


@dataclass
class Connection:
    peer_address: str = "192.0.2.9:4000"
    peer_uris: frozenset[str] = frozenset()


@dataclass
class Chain:
    trusted_hops: int = 0


@dataclass
class Passage:
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass
class Subject:
    head: RequestHead
    connection: Connection = field(default_factory=Connection)
    chain: Chain = field(default_factory=Chain)
    passage: Passage | None = None


def request(path: bytes = b"/a?b=c", *fields: tuple[bytes, bytes], **more: Any) -> Subject:
    headers = Headers()
    for name, value in fields:
        headers.append(name, value)
    return Subject(RequestHead(b"GET", path, b"host", headers), **more)


def entries(action: Action, subject: Subject) -> Any:
    return CompiledRule(DescriptorRule((action,))).entries(subject)


def cells(slots: int = 1) -> list[TokenCells]:
    shared = memoryview(bytearray(slots * TABLE * 8)).cast("q")
    return [TokenCells(shared, slots, slot) for slot in range(slots)]


def test_descriptors() -> None:
    principal = Action(kind=ActionKind.PRINCIPAL, key="p")
    assert entries(principal, request()) is None
    known = Connection(peer_uris=frozenset({"spiffe://b", "spiffe://a"}))
    assert entries(principal, request(connection=known)) == (("p", "spiffe://a"),)
    assert entries(Action(kind=ActionKind.URL_PATH, key="p"), request()) == (("p", "/a"),)
    assert entries(Action(kind=ActionKind.REMOTE_ADDRESS, key="r"), request()) == (("r", "192.0.2.9"),)
    forwarded = request(b"/", (b"x-forwarded-for", b"10.0.0.1, 10.0.0.2"))
    assert entries(Action(kind=ActionKind.REMOTE_ADDRESS, key="r"), forwarded) == (("r", "10.0.0.2"),)
    header = Action(kind=ActionKind.HEADER, key="h", name="x-a")
    assert entries(header, request()) is None
    assert entries(header, request(b"/", (b"X-A", b"1, 2"))) == (("h", "1, 2"),)
    assert entries(header, request(b"/", (b"X-A", b"1"), (b"x-a", b"2"))) == (("h", "1"),)
    cookie = Action(kind=ActionKind.HEADER, key="c", name="cookie")
    assert entries(cookie, request(b"/", (b"cookie", b"a=1"), (b"cookie", b"b=2"))) == (("c", "a=1"),)
    assert entries(cookie, request(b"/", (b"cookie", b"a=1; b=2"))) == (("c", "a=1; b=2"),)
    assert entries(Action(kind=ActionKind.HEADER, key="m", name=":method"), request()) == (("m", "GET"),)


@pytest.mark.parametrize(
    ("metadata", "value"),
    [
        ({"jwt": {"payload": {"sub": "ann"}}}, "ann"),
        ({"jwt": {"payload": {"sub": ""}}}, None),
        ({"jwt": {"payload": {"sub": 7}}}, None),
        ({"jwt": {"payload": ["sub"]}}, None),
        ({"jwt": {}}, None),
        ({}, None),
    ],
)
def test_claims(metadata: dict[str, Any], value: str | None) -> None:
    action = Action(kind=ActionKind.METADATA, key="c", name="jwt", path=("payload", "sub"))
    found = entries(action, request(passage=Passage(metadata)))
    assert found == ((("c", value),) if value is not None else None)
    assert entries(action, request()) is None


def test_one_action_without_a_value_and_there_is_no_descriptor() -> None:
    literal = Action(kind=ActionKind.LITERAL, key="l", value="v")
    rule = CompiledRule(DescriptorRule((literal, Action(kind=ActionKind.HEADER, key="h", name="x-a"))))
    assert rule.entries(request()) is None
    assert rule.entries(request(b"/", (b"x-a", b"1"))) == (("l", "v"), ("h", "1"))


def limiter(*buckets: tuple[str, int, float], name: str = "f") -> LocalLimiter:
    """For each of `key, tokens, interval`: a bucket per value of the header `key`."""
    config = LocalRateLimit(
        stat_prefix="s",
        rules=tuple(DescriptorRule((Action(kind=ActionKind.HEADER, key=key, name=key),)) for key, _, _ in buckets),
        buckets=tuple(
            DescriptorBucket(
                entries=((key, ""),), bucket=TokenBucket(max_tokens=tokens, tokens_per_fill=tokens, fill_interval_s=s)
            )
            for key, tokens, s in buckets
        ),
    )
    return LocalLimiter(config, name)


def test_tokens_come_back_evenly() -> None:
    own, (worker,), subject = limiter(("a", 2, 10.0)), cells(), request(b"/", (b"a", b"x"))
    taken = [own.check(worker, "p", subject, 100 * S).allowed for _ in range(3)]
    assert taken == [True, True, False]
    refused = own.check(worker, "p", subject, 102 * S)
    assert (refused.allowed, refused.retry_s, refused.remaining) == (False, 3, 0)
    assert own.check(worker, "p", subject, 105 * S).allowed
    assert not own.check(worker, "p", subject, 105 * S).allowed
    later = own.check(worker, "p", subject, 1000 * S)
    assert (later.allowed, later.remaining) == (True, 1), "no more than it holds"


def test_the_slow_bucket_is_asked_first_and_ends_it() -> None:
    own, (worker,) = limiter(("fast", 5, 1.0), ("slow", 1, 100.0)), cells()
    both = request(b"/", (b"fast", b"x"), (b"slow", b"x"))
    first = own.check(worker, "p", both, 100 * S)
    assert (first.allowed, first.bucket.max_tokens if first.bucket else 0) == (True, 1)
    assert not own.check(worker, "p", both, 100 * S).allowed
    fast = own.check(worker, "p", request(b"/", (b"fast", b"x")), 100 * S)
    assert fast.remaining == 3, "the refused request has taken nothing of it"


def test_places_and_filters_have_buckets_of_their_own() -> None:
    (worker,), subject = cells(), request(b"/", (b"a", b"x"))
    one, other = limiter(("a", 1, 100.0)), limiter(("a", 1, 100.0), name="g")
    taken = [own.check(worker, place, subject, S).allowed for own, place in ((one, "p"), (one, "q"), (other, "p"))]
    assert taken == [True] * 3
    again = limiter(("a", 1, 100.0))
    assert not again.check(worker, "p", subject, S).allowed, "a new configuration of the same limit goes on counting"


def test_workers_share_and_a_successor_goes_on() -> None:
    own, subject = limiter(("a", 3, 100.0)), request(b"/", (b"a", b"x"))
    first, second, third = cells(3)
    taken = [own.check(worker, "p", subject, S).allowed for worker in (first, second, third, first, second)]
    assert taken == [True, True, True, False, False]


def test_a_tag_is_the_same_everywhere_and_never_none() -> None:
    assert tag_of(("a", "b")) == 5898916173540024575, "workers of two versions share buckets"
    assert tag_of(("a", "b")) != tag_of(("ab", ""))
    assert 0 < tag_of(("\udcff",)) < 2**63


def test_a_bucket_that_would_hold_centuries_is_bounded() -> None:
    bucket = SharedBucket(4_000_000_000, 1, 86400.0)
    (worker,) = cells()
    assert worker.take(1, bucket, 10**15) >= 0
    assert bucket.full_ns < 2**62


def test_limit_fields() -> None:
    assert limit_fields(()) == ()
    states = (
        LimitState(name="a/b/c", requests=5, window_s=60, remaining=4, reset_s=9),
        LimitState(name="", requests=7, window_s=3600, remaining=2, reset_s=99),
    )
    assert limit_fields(states) == (
        (b"x-ratelimit-limit", b'7, 5;w=60;name="a/b/c", 7;w=3600'),
        (b"x-ratelimit-remaining", b"2"),
        (b"x-ratelimit-reset", b"99"),
    )
