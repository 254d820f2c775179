"""What the messages of an etcd watch stream mean: fragments, progress, repetition, compaction."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.store.etcd.assembler import Canceled, Compacted, WatchAssembler
from controlplane.store.etcd.wire import rpc_pb2 as wire
from controlplane.store.protocol import Changes


def put(key: str, revision: int, value: bytes = b"v") -> wire.Event:
    kv = wire.KeyValue(key=key.encode(), value=value, create_revision=1, mod_revision=revision)
    return wire.Event(type=wire.Event.PUT, kv=kv)


def delete(key: str, revision: int) -> wire.Event:
    return wire.Event(type=wire.Event.DELETE, kv=wire.KeyValue(key=key.encode(), mod_revision=revision))


def response(*events: wire.Event, revision: int = 0, fragment: bool = False) -> wire.WatchResponse:
    header = wire.ResponseHeader(revision=revision or max((event.kv.mod_revision for event in events), default=0))
    return wire.WatchResponse(header=header, events=events, fragment=fragment)


def changes(outcome: object) -> tuple[int, list[str], list[str]]:
    assert isinstance(outcome, Changes)
    return outcome.revision, [entry.key for entry in outcome.puts], list(outcome.deletes)


def test_the_next_revision_is_the_last_events_not_the_headers() -> None:
    assembler = WatchAssembler(10)
    assert changes(assembler.feed(response(put("a", 10), put("b", 12), revision=500))) == (12, ["a", "b"], [])
    assert assembler.next_revision == 13


def test_the_answer_to_the_creation_says_nothing() -> None:
    assembler = WatchAssembler(10)
    created = wire.WatchResponse(header=wire.ResponseHeader(revision=99), created=True)
    assert assembler.feed(created) is None
    assert assembler.next_revision == 10


def test_progress_moves_on_and_never_back() -> None:
    assembler = WatchAssembler(10)
    assert assembler.feed(response(revision=20)) is None
    assert assembler.next_revision == 21
    assert assembler.feed(response(revision=15)) is None
    assert assembler.next_revision == 21


def test_fragments_are_one_step_and_nothing_is_told_before_the_last() -> None:
    assembler = WatchAssembler(10)
    assert assembler.feed(response(put("a", 10), fragment=True)) is None
    assert assembler.feed(response(put("b", 10), fragment=True)) is None
    assert assembler.next_revision == 10, "a stream that breaks here is resumed from the whole revision"
    assert changes(assembler.feed(response(put("c", 10)))) == (10, ["a", "b", "c"], [])


def test_events_that_were_told_are_not_told_again() -> None:
    assembler = WatchAssembler(10)
    assembler.feed(response(put("a", 10), put("b", 11)))
    assert assembler.feed(response(put("a", 10), put("b", 11))) is None
    assert changes(assembler.feed(response(put("b", 11), put("c", 12)))) == (12, ["c"], [])


def test_a_key_stands_once_with_its_last_value() -> None:
    outcome = WatchAssembler(1).feed(response(put("a", 1, b"1"), put("b", 2), put("a", 3, b"2"), delete("b", 4)))
    assert changes(outcome) == (4, ["a"], ["b"])
    assert isinstance(outcome, Changes)
    assert outcome.puts[0].value == b"2"


def test_compaction_is_told_from_other_ends() -> None:
    compacted = wire.WatchResponse(canceled=True, compact_revision=7)
    assert WatchAssembler(1).feed(compacted) == Compacted(7)
    assert WatchAssembler(1).feed(wire.WatchResponse(canceled=True, cancel_reason="no leader")) == Canceled("no leader")
    assert WatchAssembler(1).feed(wire.WatchResponse(canceled=True)) == Canceled("no reason given")


def test_a_foreign_key_that_is_no_text_does_not_end_the_watch() -> None:
    event = wire.Event(type=wire.Event.PUT, kv=wire.KeyValue(key=b"/x/\xff", mod_revision=1))
    assert changes(WatchAssembler(1).feed(response(event))) == (1, ["/x/\ufffd"], [])


histories = st.lists(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=4), max_size=12)


@given(histories, st.data())
def test_whatever_the_cuts_and_repeats_the_reader_holds_what_the_store_holds(
    history: list[list[tuple[str, bool]]], data: st.DataObject
) -> None:
    """Each revision in fragments at random, some messages twice after a resume from `next_revision`."""
    store: dict[str, int] = {}
    revisions: list[list[wire.Event]] = []
    for revision, operations in enumerate(history, start=1):
        events: dict[str, wire.Event] = {}
        for key, is_put in operations:
            events[key] = put(key, revision) if is_put else delete(key, revision)
        revisions.append(list(events.values()))
        for key, event in events.items():
            if event.type == wire.Event.PUT:
                store[key] = revision
            else:
                store.pop(key, None)

    held: dict[str, int] = {}
    assembler = WatchAssembler(1)
    index = 0
    while index < len(revisions):
        events = revisions[index]
        cut = data.draw(st.integers(0, len(events) - 1))
        for part, more in ((events[:cut], True), (events[cut:], False)):
            outcome = assembler.feed(response(*part, fragment=more)) if part else None
            if isinstance(outcome, Changes):
                held.update({entry.key: entry.mod_revision for entry in outcome.puts})
                for key in outcome.deletes:
                    held.pop(key, None)
        index += 1
        if data.draw(st.booleans()):
            assert assembler.next_revision == index + 1
            assembler = WatchAssembler(assembler.next_revision)
    assert held == store
