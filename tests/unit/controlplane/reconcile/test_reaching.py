"""How many proxies that use an object have acknowledged its present form: against a count proxy by proxy."""

from collections import Counter
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.compiler.types import Compiled, Resource, Source
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.reach import Reach
from controlplane.distribution.stream_sync import Sent, Span, StreamSync
from controlplane.reconcile.reaching import Reaching
from controlplane.snapshot.view import EMPTY, View
from mesh.vocabulary import Dialect, Locality, ObjectRef
from mesh.xds.type_url import CLUSTER, LISTENER
from tests.support.resources import cluster


def ref(name: str) -> ObjectRef:
    return ObjectRef("networking.istio.io", "DestinationRule", "default", name)


def compiled(*names: str, url: str = CLUSTER) -> Compiled:
    """One resource from each object of `names`."""
    resources = {name: Resource(url, name, "v", b"", b"", (Source(ref(name), 1),)) for name in names}
    return Compiled(resources={url: resources})


class Fleet:
    """Streams with their views, and objects with the revision that wrote each."""

    def __init__(self, published: int = 100, **revisions: int) -> None:
        self.ledger = DistributionLedger()
        self.ledger.publish(published)
        self.views: dict[int, View] = {}
        self.revisions = {ref(name): revision for name, revision in revisions.items()}
        self.reaching = Reaching(self.ledger)

    def connect(
        self, node: str, shared: Compiled, own: Compiled = EMPTY, dialect: Dialect = Dialect.GOSSAMER
    ) -> StreamSync:
        number = len(self.views) + 1
        self.views[number] = View(100, shared, own)
        connection = Connection(
            stream=number, node=node, dialect=dialect, user_agent="", address="", namespace="default",
            locality=Locality("eu"), delta=True, connected_since=0.0,
        )  # fmt: skip
        sync = self.ledger.connect(connection)
        sync.begin(None)
        return sync

    def counts(self) -> Mapping[str, tuple[int, int, int]]:
        found = self.reaching.reaches(self.views, self.revisions)
        return {key.name: (item.acknowledged, item.pending, item.rejected) for key, item in found.items()}


def send(sync: StreamSync, span: Span, *names: str, nonce: str = "1") -> None:
    resources = {name: cluster(name, sources=(Source(ref(name), 1),)) for name in names}
    sync.sent(CLUSTER, nonce, Sent(span, dict(resources), frozenset(names)))


def test_only_objects_that_somebody_uses_are_counted() -> None:
    fleet = Fleet(a=10, b=20, unused=30)
    shared = compiled("a", "b", "not-stored")
    fleet.connect("n1", shared)
    fleet.connect("n2", shared, compiled("own", url=LISTENER))
    assert fleet.counts() == {"a": (2, 0, 0), "b": (2, 0, 0)}


def test_pending_are_those_whose_span_holds_the_objects_revision() -> None:
    fleet = Fleet(a=10, b=20, own=20)
    shared = compiled("a", "b")
    one = fleet.connect("n1", shared)
    fleet.connect("n2", shared)
    three = fleet.connect("n3", compiled("a"), compiled("own", url=LISTENER))
    one.queue(Span(15, 20))
    send(three, Span(19, 21), "a")
    assert fleet.counts() == {"a": (3, 0, 0), "b": (1, 1, 0), "own": (0, 1, 0)}
    three.ack(CLUSTER, "1")
    one.take_queued(Span(0, 0))
    assert fleet.counts() == {"a": (3, 0, 0), "b": (2, 0, 0), "own": (1, 0, 0)}


def test_what_is_not_published_is_pending_everywhere() -> None:
    fleet = Fleet(published=15, a=10, b=20)
    fleet.connect("n1", compiled("a", "b"))
    assert fleet.counts() == {"a": (1, 0, 0), "b": (0, 1, 0)}
    fleet.ledger.publish(20)
    assert fleet.counts()["b"] == (1, 0, 0)


def test_a_refusal_counts_once_and_not_as_pending() -> None:
    fleet = Fleet(a=10)
    sync = fleet.connect("n1", compiled("a"))
    fleet.connect("n2", compiled("a"))
    send(sync, Span(9, 10), "a")
    sync.nack(CLUSTER, "1", "no", {"a": "no"})
    sync.queue(Span(9, 11))  # something else with it is still under way
    assert fleet.counts() == {"a": (1, 0, 1)}


def test_a_client_that_names_its_resources_uses_those() -> None:
    fleet = Fleet(a=10, b=10, c=10)
    sync = fleet.connect("n1", compiled("a", "b", "c"), dialect=Dialect.GRPC)
    send(sync, Span(9, 10), "a", nonce="1")
    sync.ack(CLUSTER, "1")
    send(sync, Span(9, 10), "b", nonce="2")
    assert fleet.counts() == {"a": (0, 1, 0), "b": (0, 1, 0)}, "both came with a revision that is not acknowledged"
    sync.ack(CLUSTER, "2")
    assert fleet.counts() == {"a": (1, 0, 0), "b": (1, 0, 0)}


def test_a_fresh_stream_is_pending_and_an_idle_one_uses_nothing() -> None:
    fleet = Fleet(a=10)
    sync = fleet.connect("n1", compiled("a"))
    sync.begin((CLUSTER, ""))
    assert fleet.counts() == {"a": (0, 1, 0)}
    sync.begin(("", ""), idle=True)
    assert fleet.counts() == {}
    sync.begin(None)
    assert fleet.counts() == {"a": (1, 0, 0)}


def test_a_node_with_two_streams_is_one_proxy() -> None:
    fleet = Fleet(a=10, b=10)
    fleet.connect("n1", compiled("a"))
    late = fleet.connect("n1", compiled("b"))
    late.queue(Span(9, 10))
    assert fleet.counts() == {"a": (0, 1, 0), "b": (0, 1, 0)}


def test_nothing_is_counted_again_while_nothing_happens() -> None:
    fleet = Fleet(a=10)
    sync = fleet.connect("n1", compiled("a"))
    first = fleet.reaching.reaches(fleet.views, fleet.revisions)
    assert fleet.reaching.reaches(fleet.views, fleet.revisions) is first
    sync.queue(Span(9, 10))
    assert fleet.reaching.reaches(fleet.views, fleet.revisions) is not first
    fleet.revisions[ref("a")] = 11
    assert fleet.counts()["a"] == (1, 0, 0)


OBJECTS = ("a", "b", "c", "d", "e")
names = st.frozensets(st.sampled_from(OBJECTS))
spans = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 10)), max_size=3)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(OBJECTS), st.integers(1, 30), min_size=1),
    st.lists(names, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), names, spans, names), max_size=6),
    st.integers(20, 30),
)
def test_the_ranges_say_what_a_count_proxy_by_proxy_says(
    revisions: dict[str, int],
    scopes: list[frozenset[str]],
    proxies: list[tuple[int, frozenset[str], list[tuple[int, int]], frozenset[str]]],
    published: int,
) -> None:
    fleet = Fleet(published=published, **revisions)
    shared = [compiled(*sorted(scope)) for scope in scopes]
    total: Counter[str] = Counter()
    pending: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for number, (scope, own, held, refused) in enumerate(proxies):
        place = scope % len(scopes)
        sync = fleet.connect(f"n{number}", shared[place], compiled(*sorted(own), url=LISTENER))
        for nonce, (after, length) in enumerate(held):
            sync.sent(CLUSTER, str(nonce), Sent(Span(after, after + length), {}, frozenset()))
        uses = (scopes[place] | own) & revisions.keys()
        refuses = refused & uses
        if refuses:
            send(sync, Span(0, 0), *refuses, nonce="refused")
            sync.nack(CLUSTER, "refused", "no", dict.fromkeys(refuses, "no"))
        for name in uses:
            total[name] += 1
            if name in refuses:
                rejected[name] += 1
            elif revisions[name] > published or any(after < revisions[name] <= after + n for after, n in held):
                pending[name] += 1
    assert fleet.counts() == {
        name: (count - pending[name] - rejected[name], pending[name], rejected[name]) for name, count in total.items()
    }


def test_reaches_are_added_and_worded() -> None:
    total = Reach(3) + Reach(1, 2) + Reach(0, 0, 1)
    assert (total.interested, total.status, total.reason) == (7, "False", "Rejected")
    assert total.message == "acknowledged by 4 of 7 interested proxies, 2 pending, 1 rejected"
    assert (Reach(1).status, Reach(1).message) == ("True", "acknowledged by 1 of 1 interested proxy")
    assert (Reach(0, 1).status, Reach(0, 1).reason) == ("Unknown", "Pending")
