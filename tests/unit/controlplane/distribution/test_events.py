"""The log of events: bounded and readable."""

from controlplane.compiler.types import Source
from controlplane.distribution.events import EventLog, refusal_events
from controlplane.distribution.stream_sync import Rejection, Span
from mesh.vocabulary import ObjectRef
from mesh.xds.type_url import CLUSTER


def test_events_are_bounded_and_readable() -> None:
    log = EventLog(size=2)
    for number in range(3):
        log.add(1_790_000_000.5, "ProxyConnected", f"node n{number}", "x" * 5000)
    first, last = log.events()
    assert (first.subject, last.subject) == ("node n1", "node n2")
    assert len(last.message) == 2000
    assert last.as_json()["at"] == "2026-09-21T14:13:20.500Z"


def rejection(name: str, *objects: str, certain: bool = True) -> Rejection:
    sources = tuple(Source(ObjectRef("g", "DestinationRule", "default", item), 1) for item in objects)
    return Rejection(
        type_url=CLUSTER, name=name, version="v", sources=sources, reason="bad", span=Span(0, 1), certain=certain
    )  # fmt: skip


def test_a_refusal_is_an_event_of_every_object_behind_it() -> None:
    found = refusal_events(
        "node n", [rejection("c", "a", "b"), rejection("d", "a"), rejection("e", "x", certain=False)]
    )
    assert found == [
        ("ConfigRejected", "DestinationRule default/a", "node n refuses CDS c: bad"),
        ("ConfigRejected", "DestinationRule default/b", "node n refuses CDS c: bad"),
        ("ConfigSuspected", "DestinationRule default/x", "node n refuses CDS e: bad"),
    ]
    many = refusal_events("node n", [rejection("c", *(f"o{number}" for number in range(100)))])
    assert len(many) == 20
