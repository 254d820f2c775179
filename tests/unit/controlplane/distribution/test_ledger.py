"""How far a revision has come, over all streams of a replica."""

from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.stream_sync import Held, Sent, Span, StreamSync
from mesh.vocabulary import Dialect, Locality
from mesh.xds.type_url import CLUSTER, CLUSTER_LOAD_ASSIGNMENT, LISTENER, VIRTUAL_HOST
from tests.support.resources import cluster


def connect(ledger: DistributionLedger, stream: int, node: str) -> StreamSync:
    """A stream that has its first state."""
    sync = fresh(ledger, stream, node)
    sync.begin(None)
    return sync


def fresh(ledger: DistributionLedger, stream: int, node: str) -> StreamSync:
    return ledger.connect(
        Connection(
            stream=stream, node=node, dialect=Dialect.GOSSAMER, user_agent="gossamer-agent", address="ipv4:127.0.0.1:1",
            namespace="default", locality=Locality("eu", "a"), delta=True, connected_since=5.0,
        )
    )  # fmt: skip


def push(sync: StreamSync, nonce: str, span: Span, name: str = "a") -> None:
    sync.sent(CLUSTER, nonce, Sent(span, {name: cluster(name, nonce)}, frozenset({name})))


def test_revision_goes_from_published_to_acked_node_by_node() -> None:
    ledger = DistributionLedger()
    first, second, idle = connect(ledger, 1, "n1"), connect(ledger, 2, "n2"), connect(ledger, 3, "idle")
    assert ledger.revision_status(7).pending == ("idle", "n1", "n2")  # nobody was told yet
    for sync in (first, second):
        sync.queue(Span(6, 7))
    ledger.publish(7)
    status = ledger.revision_status(7)
    assert (status.acked, status.pending, status.settled) == (("idle",), ("n1", "n2"), False)
    for sync in (first, second):
        push(sync, "1", sync.take_queued(Span(0, 0)))
    first.ack(CLUSTER, "1")
    assert ledger.revision_status(7).acked == ("idle", "n1")
    second.nack(CLUSTER, "1", "a: bad", {"a": "bad"})
    status = ledger.revision_status(7)
    assert status.settled
    assert [(item.node, item.reasons) for item in status.rejected] == [("n2", (("a", "bad"),))]
    # The revisions before and after are not the ones that it refused.
    assert ledger.revision_status(6).acked == ("idle", "n1", "n2")
    ledger.publish(8)
    assert ledger.revision_status(8).rejected == ()
    assert idle.types == {}


def test_a_revision_in_the_future_is_pending_everywhere() -> None:
    ledger = DistributionLedger()
    connect(ledger, 1, "n1")
    ledger.publish(3)
    ledger.publish(2)  # never goes back
    assert ledger.published == 3
    assert ledger.revision_status(3).acked == ("n1",)
    assert ledger.revision_status(4).pending == ("n1",)


def test_a_node_with_two_streams_is_as_far_as_the_slower_one() -> None:
    ledger = DistributionLedger()
    fast, slow = connect(ledger, 1, "n1"), connect(ledger, 2, "n1")
    ledger.publish(1)
    for sync in (fast, slow):
        push(sync, "1", Span(0, 1))
    fast.ack(CLUSTER, "1")
    assert (ledger.revision_status(1).acked, ledger.revision_status(1).pending) == ((), ("n1",))
    ledger.disconnect(2)
    assert (ledger.revision_status(1).acked, ledger.revision_status(1).pending) == (("n1",), ())
    ledger.disconnect(2)  # twice is nothing


def test_proxies_say_what_they_wait_for_and_refuse() -> None:
    ledger = DistributionLedger()
    sync = fresh(ledger, 1, "n1")
    (begun,) = ledger.proxies()
    assert (begun.sync, begun.types, begun.unasked) == ("pending", (), "anything")
    push(sync, "1", Span(0, 4))
    sync.begin((CLUSTER_LOAD_ASSIGNMENT, "a"))
    sync.ack(CLUSTER, "1", "v0")
    (asking,) = ledger.proxies()
    assert (asking.sync, asking.types[0].sync, asking.unasked) == ("pending", "synced", "EDS a")
    push(sync, "1", Span(0, 4))
    sync.begin(None)
    sync.ack(CLUSTER, "1", "v1")
    (synced,) = ledger.proxies()
    assert (synced.sync, synced.node, synced.delta, synced.connected_since) == ("synced", "n1", True, 5.0)
    (state,) = synced.types
    assert (state.short_name, state.sync, state.resources, state.version, state.revision) == (
        "CDS",
        "synced",
        1,
        "v1",
        4,
    )
    sync.of(VIRTUAL_HOST).held = {"r/h": Held(Span(4, 5), "CDS b")}
    (held,) = ledger.proxies()
    assert held.sync == "pending"
    assert held.types[1].waits_for == (("r/h", "CDS b"),)
    push(sync, "2", Span(4, 5), "b")
    sync.nack(CLUSTER, "2", "b: no", {"b": "no"})
    (refusing,) = ledger.proxies()
    assert refusing.sync == "rejected"
    assert (refusing.types[0].rejected, refusing.types[0].error) == ((("b", "no"),), "b: no")
    assert [(node, item.name) for node, item in ledger.rejections()] == [("n1", "b")]


def test_a_queued_view_is_pending() -> None:
    ledger = DistributionLedger()
    sync = connect(ledger, 1, "n1")
    push(sync, "1", Span(0, 1))
    sync.ack(CLUSTER, "1")
    sync.queue(Span(1, 2))
    assert ledger.proxies()[0].sync == "pending"


def test_proxies_are_sorted_by_node_then_stream() -> None:
    ledger = DistributionLedger()
    for stream, node in ((3, "b"), (2, "a"), (1, "b")):
        connect(ledger, stream, node)
    assert [(item.node, item.stream) for item in ledger.proxies()] == [("a", 2), ("b", 1), ("b", 3)]


def test_what_the_pending_wait_for() -> None:
    ledger = DistributionLedger()
    queued, sent, held, told = (connect(ledger, number, f"n{number}") for number in range(1, 5))
    queued.queue(Span(6, 7))
    push(sent, "1", Span(6, 7))
    push(sent, "2", Span(7, 8), "later")
    held.of(VIRTUAL_HOST).held = {"vh": Held(Span(5, 7), "EDS a")}
    push(told, "1", Span(6, 7))
    told.nack(CLUSTER, "1", "a: bad", {"a": "bad"})
    ledger.publish(8)
    waits = [(item.node, item.type, item.name, item.waits_for) for item in ledger.revision_status(7).waits]
    assert waits == [
        ("n1", "", "", "being sent"), ("n2", "CDS", "a", "acknowledgement"), ("n3", "VHDS", "vh", "EDS a"),
    ]  # fmt: skip
    assert [item.waits_for for item in ledger.revision_status(9).waits] == ["publication"] * 4


def test_a_fresh_stream_is_pending_until_its_first_state_is_whole() -> None:
    """Between its request for one type and that for the next nothing is unanswered, and it has not the rest yet."""
    ledger = DistributionLedger()
    ledger.publish(7)
    sync = fresh(ledger, 1, "n1")
    old = connect(ledger, 2, "n2")
    push(old, "1", Span(0, 7))
    old.ack(CLUSTER, "1")

    def looked() -> tuple[tuple[str, ...], tuple[str, ...], list[tuple[str, str, str]]]:
        status = ledger.revision_status(7)
        assert ledger.settled(7) == status.settled
        return status.acked, status.pending, [(item.type, item.name, item.waits_for) for item in status.waits]

    assert looked() == (("n2",), ("n1",), [("", "", "the proxy's request")])
    push(sync, "1", Span(0, 7))
    assert looked() == (("n2",), ("n1",), [("CDS", "a", "acknowledgement")])
    sync.begin((LISTENER, ""))
    assert looked() == (("n2",), ("n1",), [("CDS", "a", "acknowledgement"), ("LDS", "", "the proxy's request")])
    sync.ack(CLUSTER, "1")
    assert looked() == (("n2",), ("n1",), [("LDS", "", "the proxy's request")])
    assert ledger.revision_status(3).pending == ("n1",), "nor has it shown that it has what is older"
    sync.begin(None)
    assert looked() == (("n1", "n2"), (), [])


def test_a_fresh_stream_that_refuses_is_rejected() -> None:
    ledger = DistributionLedger()
    ledger.publish(7)
    sync = fresh(ledger, 1, "n1")
    push(sync, "1", Span(0, 7))
    sync.nack(CLUSTER, "1", "a: bad", {"a": "bad"})
    status = ledger.revision_status(7)
    assert ([item.node for item in status.rejected], status.pending, ledger.settled(7)) == (["n1"], (), True)


def test_an_idle_stream_is_neither_waited_for_nor_counted() -> None:
    ledger = DistributionLedger()
    ledger.publish(7)
    sync = fresh(ledger, 1, "n1")
    sync.begin(("", ""), idle=True)
    status = ledger.revision_status(7)
    assert (status.acked, status.pending, ledger.settled(7)) == ((), (), True)
    assert ledger.revision_status(8).pending == ()
    (shown,) = ledger.proxies()
    assert (shown.sync, shown.unasked) == ("pending", "anything")
    sync.begin((LISTENER, ""))
    assert ledger.revision_status(7).pending == ("n1",)


def test_what_is_said_of_the_pending_is_bounded() -> None:
    ledger = DistributionLedger()
    for number in range(150):
        sync = connect(ledger, number, f"n{number:03}")
        for name in range(20):
            push(sync, str(name), Span(6, 7), f"c{name}")
    ledger.publish(7)
    status = ledger.revision_status(7)
    assert (len(status.pending), len(status.waits)) == (150, 100 * 10)


def test_the_fingerprint_changes_with_everything_that_happens() -> None:
    ledger = DistributionLedger()
    seen = {ledger.fingerprint()}
    sync = connect(ledger, 1, "n1")
    seen.add(ledger.fingerprint())
    for happen in (
        lambda: sync.queue(Span(0, 1)), lambda: sync.take_queued(Span(0, 0)), lambda: push(sync, "1", Span(0, 1)),
        lambda: sync.ack(CLUSTER, "1"), lambda: push(sync, "2", Span(1, 2)), lambda: sync.nack(CLUSTER, "2", "no", {}),
        lambda: sync.forget(CLUSTER, "a"), lambda: sync.begin((LISTENER, "")), lambda: ledger.publish(2),
        lambda: ledger.disconnect(1),
    ):  # fmt: skip
        happen()
        assert ledger.fingerprint() not in seen
        seen.add(ledger.fingerprint())
    assert ledger.fingerprint() in seen


def test_settled_says_what_the_status_says() -> None:
    ledger = DistributionLedger()
    assert not ledger.settled(1)  # nobody is there, but somebody may come before it is published
    one, other, third = connect(ledger, 1, "n1"), connect(ledger, 2, "n1"), connect(ledger, 3, "n2")

    def both() -> bool:
        assert ledger.settled(7) == (ledger.published >= 7 and ledger.revision_status(7).settled)
        return ledger.settled(7)

    assert not both()
    ledger.publish(7)
    assert both()
    for sync in (one, other, third):
        push(sync, "1", Span(6, 7))
    assert not both()
    third.ack(CLUSTER, "1")
    one.nack(CLUSTER, "1", "a: bad", {"a": "bad"})
    assert both()  # the other stream of a node that refuses is not waited for
    push(third, "2", Span(6, 7))
    assert not both()
    third.ack(CLUSTER, "2")
    other.ack(CLUSTER, "1")
    assert both()
    ledger.disconnect(1)
    assert both()
