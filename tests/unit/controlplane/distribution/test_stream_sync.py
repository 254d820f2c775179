"""The nonce ledger of one stream: what was sent, taken, refused, held."""

import pytest

from controlplane.compiler.types import Resource, Source
from controlplane.distribution.stream_sync import Held, Sent, Span, StreamSync
from mesh.vocabulary import ObjectRef
from mesh.xds.type_url import CLUSTER, VIRTUAL_HOST
from tests.support.resources import cluster

SOURCE = Source(ObjectRef("networking.istio.io", "DestinationRule", "default", "a"), 3)


def sent(after: int, revision: int, *changed: Resource | str, whole: tuple[Resource, ...] = ()) -> Sent:
    """`changed`: resources, or names that are removed; `whole`: repeated in a full-state response."""
    resources = {
        item if isinstance(item, str) else item.name: None if isinstance(item, str) else item for item in changed
    }
    return Sent(Span(after, revision), {**resources, **{item.name: item for item in whole}}, frozenset(resources))


def current() -> StreamSync:
    """Of a stream that has its first state."""
    sync = StreamSync()
    sync.begin(None)
    return sync


def test_span_is_open_below_and_closed_above() -> None:
    span = Span(3, 5)
    assert [span.holds(revision) for revision in (3, 4, 5, 6)] == [False, True, True, False]
    assert span.joined(Span(7, 9)) == Span(3, 9)
    assert span.joined(None) == span


def test_ack_is_matched_by_nonce() -> None:
    """Content hashes can repeat, nonces do not: only the named response is answered."""
    sync = current()
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a", "1")))
    sync.sent(CLUSTER, "2", sent(1, 2, cluster("a", "2")))
    assert (sync.pending_for(1), sync.pending_for(2)) == (True, True)
    assert sync.ack(CLUSTER, "2", "hash")
    assert (sync.pending_for(1), sync.pending_for(2)) == (True, False)
    assert not sync.ack(CLUSTER, "2")
    assert not sync.ack(CLUSTER, "99")
    assert sync.ack(CLUSTER, "1")
    state = sync.of(CLUSTER)
    assert (state.state(), state.version, state.revision, state.accepted) == ("synced", "hash", 2, {"a"})


def test_what_is_held_or_queued_is_pending() -> None:
    sync = current()
    sync.of(VIRTUAL_HOST).held = {"r/h": Held(Span(4, 6), "CDS a")}
    assert [sync.pending_for(revision) for revision in (4, 5, 6, 7)] == [False, True, True, False]
    assert sync.of(VIRTUAL_HOST).state() == "pending"
    sync.queue(Span(6, 7))
    sync.queue(Span(7, 9))
    assert [sync.pending_for(revision) for revision in (7, 9, 10)] == [True, True, False]
    assert sync.take_queued(Span(0, 0)) == Span(6, 9)
    assert sync.take_queued(Span(9, 9)) == Span(9, 9)


def test_nack_by_name_accepts_the_rest() -> None:
    """Rule 27: clients apply the valid resources of a refused response."""
    sync = current()
    bad = cluster("bad", "1", sources=(SOURCE,))
    sync.sent(CLUSTER, "1", sent(0, 1, bad, cluster("good"), "gone"))
    (rejection,) = sync.nack(CLUSTER, "1", "bad: no", {"bad": "no"})
    assert (rejection.name, rejection.reason, rejection.certain) == ("bad", "no", True)
    assert (rejection.version, rejection.sources, rejection.span) == (bad.version, (SOURCE,), Span(0, 1))
    assert sync.of(CLUSTER).accepted == {"good"}
    assert sync.of(CLUSTER).state() == "rejected"
    assert not sync.pending_for(1)
    assert sync.rejections() == (rejection,)


def test_nack_without_a_name_suspects_what_changed() -> None:
    """Decision 21; what a full-state response only repeats is above suspicion."""
    sync = current()
    known = cluster("known")
    sync.sent(CLUSTER, "1", sent(0, 1, known))
    sync.ack(CLUSTER, "1")
    sync.sent(CLUSTER, "2", sent(1, 2, cluster("x"), cluster("y"), whole=(known,)))
    found = sync.nack(CLUSTER, "2", "something", {})
    assert sorted((item.name, item.certain) for item in found) == [("x", False), ("y", False)]
    assert sync.of(CLUSTER).accepted == {"known"}


def test_a_changed_name_leaves_its_rejection_behind() -> None:
    sync = current()
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a", "1")))
    sync.nack(CLUSTER, "1", "no", {"a": "no"})
    sync.sent(CLUSTER, "2", sent(1, 2, cluster("a", "2")))
    assert sync.rejections() == ()
    sync.ack(CLUSTER, "2")
    assert sync.of(CLUSTER).state() == "synced"
    assert sync.of(CLUSTER).error == ""


def test_a_repeated_refusal_is_one_rejection() -> None:
    """The span stays that of the revision which brought the refused version."""
    sync = current()
    bad = cluster("bad")
    sync.sent(CLUSTER, "1", sent(0, 1, bad))
    (first,) = sync.nack(CLUSTER, "1", "no", {"bad": "no"})
    sync.sent(CLUSTER, "2", sent(1, 2, cluster("good"), whole=(bad,)))
    assert sync.nack(CLUSTER, "2", "no", {"bad": "still no"}) == ()
    assert sync.rejections() == (first,)
    assert sync.of(CLUSTER).accepted == {"good"}


def test_a_late_refusal_of_what_is_removed_does_not_stay() -> None:
    """The NACK crosses the removal on the wire; the removal's ACK ends it."""
    sync = current()
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a")))
    sync.sent(CLUSTER, "2", sent(1, 2, "a"))
    sync.nack(CLUSTER, "1", "no", {"a": "no"})
    assert sync.of(CLUSTER).state() == "rejected"
    sync.ack(CLUSTER, "2")
    assert (sync.rejections(), sync.of(CLUSTER).state()) == ((), "synced")


@pytest.mark.parametrize("refused", [False, True])
def test_an_answer_about_what_was_unsubscribed_says_nothing(refused: bool) -> None:
    """It was under way: the client has forgotten the name already."""
    sync = current()
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a")))
    sync.forget(CLUSTER, "a")
    if refused:
        assert sync.nack(CLUSTER, "1", "no", {"a": "no"}) == ()
    else:
        assert sync.ack(CLUSTER, "1")
    assert sync.of(CLUSTER).accepted == set()
    assert sync.of(CLUSTER).state() == "synced"


def test_unknown_nack_is_nothing() -> None:
    sync = current()
    assert sync.nack(CLUSTER, "1", "no", {}) == ()
    assert sync.of(CLUSTER).state() == "synced"


def test_an_old_answer_does_not_bring_back_what_a_later_response_took_away() -> None:
    """The removal is under way: routes to the name must wait until it is sent and accepted anew."""
    sync = current()
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a", "1"), cluster("b", "1")))
    sync.sent(CLUSTER, "2", sent(1, 2, "a"))
    sync.sent(CLUSTER, "3", sent(2, 3, cluster("a", "2")))
    assert sync.ack(CLUSTER, "1")
    assert sync.of(CLUSTER).accepted == {"b"}
    assert sync.ack(CLUSTER, "2")
    assert sync.of(CLUSTER).accepted == {"b"}
    assert sync.ack(CLUSTER, "3")
    assert sync.of(CLUSTER).accepted == {"a", "b"}


def test_nor_does_an_old_refusal_of_something_else() -> None:
    sync = current()
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a", "1"), cluster("b", "1")))
    sync.sent(CLUSTER, "2", sent(1, 2, "a"))
    sync.nack(CLUSTER, "1", "b: no", {"b": "no"})
    assert sync.of(CLUSTER).accepted == set()
    assert set(sync.of(CLUSTER).rejected) == {"b"}


def test_at_rest_is_nothing_queued_unanswered_or_held() -> None:
    sync = current()
    assert sync.at_rest
    sync.sent(CLUSTER, "1", sent(0, 1, cluster("a")))
    assert not sync.at_rest
    sync.ack(CLUSTER, "1")
    assert sync.at_rest
    sync.queue(Span(1, 2))
    assert not sync.at_rest
