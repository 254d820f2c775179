"""The ADS sessions against a model of an Envoy: whatever happens and in whatever order, both end up with the same.

The two talk through queues, so requests and responses cross. The client applies what it takes, keeps what it had of
what it refuses (the same version always), asks for the endpoints of the clusters that it has, and a cluster warms until
a ClusterLoadAssignment comes after it. Checked at every step: no name twice in a response; no route reaches the client
before the clusters that it names are usable there; a well-behaved client never loses a cluster that a route of its
needs; who is pending for nothing has the whole view. Checked at the end, when all is answered: client == view, nothing
warms, the ledger says the same.
"""

from collections import deque
from collections.abc import Mapping

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from controlplane.compiler.types import Resource
from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.response import Response
from controlplane.discovery.session import REMOVAL_HOLD_S
from controlplane.discovery.sotw import SotwSession
from controlplane.distribution.stream_sync import StreamSync
from controlplane.snapshot.diff import DiffCache
from controlplane.snapshot.references import clusters_named, empty_load_assignment, whole_service
from controlplane.snapshot.view import EMPTY, NOTHING, View
from mesh.xds import type_url
from tests.support import resources
from tests.support.depth import examples

CDS, EDS, LDS = type_url.CLUSTER, type_url.CLUSTER_LOAD_ASSIGNMENT, type_url.LISTENER
RDS, VHDS = type_url.ROUTE_CONFIGURATION, type_url.VIRTUAL_HOST
CLUSTERS = ("outbound|1||a", "outbound|1|s|a", "outbound|1|t|a", "plain")
ROUTES = ("r1", "r2")
HOSTS = ("h/1", "h/2")
TAGS = st.integers(0, 2).map(str)
NAMES = st.frozensets(st.sampled_from(CLUSTERS), max_size=4)

Request = DiscoveryRequest | DeltaDiscoveryRequest


@st.composite
def views(draw: st.DrawFn) -> tuple[Resource, ...]:
    """A mesh that hangs together: routes and listeners name clusters that are there."""
    names = sorted(draw(NAMES))
    found = [resources.cluster(name, draw(TAGS), eds=name != "plain") for name in names]
    found += [resources.assignment(name, draw(TAGS)) for name in names if name != "plain"]
    some = st.lists(st.sampled_from(names), max_size=2, unique=True) if names else st.just([])
    found += [
        resources.route_configuration(name, *draw(some), tag=draw(TAGS)) for name in ROUTES if draw(st.booleans())
    ]
    found += [resources.vhds(name, *draw(some), tag=draw(TAGS)) for name in HOSTS if draw(st.booleans())]
    found += [resources.listener("l", *draw(some), tag=draw(TAGS))] if draw(st.booleans()) else []
    return tuple(found)


class Client:
    """What an Envoy does, as far as it concerns the server."""

    def __init__(self, *, delta: bool) -> None:
        self.types = (CDS, EDS, LDS, RDS, VHDS) if delta else (CDS, EDS, LDS, RDS)
        self.held: dict[str, dict[str, Resource]] = {url: {} for url in self.types}
        self.wanted: dict[str, set[str]] = {EDS: set(), RDS: set()}
        self.refuses: set[tuple[str, str, str]] = set()
        self.warming: set[str] = set()

    def refused(self, resource: Resource) -> bool:
        held = self.held[resource.type_url].get(resource.name)
        same = held is not None and held.version == resource.version
        return not same and (resource.type_url, resource.name, resource.version) in self.refuses

    def apply(self, response: Response, *, full: bool) -> list[str]:
        """Take what it does not refuse. Gives the names that it refuses."""
        url = response.type_url
        held = self.held[url]
        bad = [item.name for item in response.resources if self.refused(item)]
        for item in response.resources:
            if item.name not in bad:
                self._put(item)
        present = {item.name for item in response.resources}
        for name in [name for name in held if name not in present] if full else response.removed:
            held.pop(name, None)
            self.warming.discard(name)
        return bad

    def _put(self, item: Resource) -> None:
        before = self.held[item.type_url].get(item.name)
        if item.type_url in self.wanted and item.name not in self.wanted[item.type_url]:
            return  # nobody here waits for it any more
        self.held[item.type_url][item.name] = item
        if item.type_url == CDS and item.name != "plain" and (before is None or before.version != item.version):
            self.warming.add(item.name)
        elif item.type_url == EDS:
            self.warming.discard(item.name)

    def endpoints_wanted(self) -> set[str]:
        return {name for name in self.held[CDS] if name != "plain"}

    def usable(self, cluster: str) -> bool:
        return cluster in self.held[CDS] and (cluster == "plain" or cluster in self.held[EDS])

    def unrefused(self) -> None:
        self.refuses.clear()


class Machine(RuleBasedStateMachine):
    """`delta` and `hostile` are set by the subclasses; a hostile client refuses, and lets time pass."""

    delta = True
    hostile = True

    @initialize(view=views())
    def begin(self, view: tuple[Resource, ...]) -> None:
        self.now = 0.0
        self.view = View(1, resources.compiled(*view), EMPTY)
        self.diffs = DiffCache()
        self.client = Client(delta=self.delta)
        self.came_back = False
        self._connect(list(self.client.types))

    # --- the wire

    def _connect(self, order: list[str]) -> None:
        self.to_server: deque[Request] = deque()
        self.to_client: deque[tuple[Response, View]] = deque()
        self.nonces: dict[str, str] = {}
        self.session = (DeltaSession if self.delta else SotwSession)(self.view, StreamSync())
        self.client.warming -= self.client.held[EDS].keys()  # as Envoy does when its first fetch times out
        for url in order:
            names = self.client.wanted.get(url, set())
            if url in self.client.wanted and not names:
                continue
            if self.delta:
                held = {name: item.version for name, item in self.client.held[url].items()}
                self._ask(
                    DeltaDiscoveryRequest(
                        type_url=url, resource_names_subscribe=sorted(names), initial_resource_versions=held
                    )
                )
            else:
                known = "another" if self.client.held[url] else ""
                self._ask(DiscoveryRequest(type_url=url, resource_names=sorted(names), version_info=known))

    def _ask(self, request: Request) -> None:
        self.to_server.append(request)

    def _sent(self, responses: list[Response]) -> None:
        for response in responses:
            names = [item.name for item in response.resources] + list(response.removed)
            assert len(names) == len(set(names)), f"{response.type_url}: a name twice in {names}"
            self.to_client.append((response, self.view))

    def _want(self, url: str, names: set[str]) -> None:
        """Change a subscription by name."""
        before = self.client.wanted[url]
        if names == before:
            return
        self.client.wanted[url] = names
        for gone in before - names:
            self.client.held[url].pop(gone, None)
        if self.delta:
            self._ask(
                DeltaDiscoveryRequest(
                    type_url=url,
                    resource_names_subscribe=sorted(names - before),
                    resource_names_unsubscribe=sorted(before - names),
                )
            )
        else:
            nonce = self.nonces.get(url, "")
            self._ask(DiscoveryRequest(type_url=url, resource_names=sorted(names), response_nonce=nonce))

    def _server_reads(self) -> None:
        request = self.to_server.popleft()
        if isinstance(self.session, DeltaSession):
            assert isinstance(request, DeltaDiscoveryRequest)
            self._sent(self.session.on_request(request, self.now))
        else:
            assert isinstance(request, DiscoveryRequest)
            self._sent(self.session.on_request(request, self.now))

    def _client_reads(self) -> None:
        response, view = self.to_client.popleft()
        url = response.type_url
        had = set(self.client.held[CDS])
        self._check_routes(response, view)
        bad = self.client.apply(response, full=not self.delta and url in (CDS, LDS))
        self._check_clusters(had, view)
        self.nonces[url] = response.nonce
        if self.delta:
            answer: Request = DeltaDiscoveryRequest(type_url=url, response_nonce=response.nonce)
        else:
            names = sorted(self.client.wanted.get(url, ()))
            answer = DiscoveryRequest(type_url=url, response_nonce=response.nonce, resource_names=names)
        if bad:
            answer.error_detail.message = ", ".join(f"{name}: no" for name in bad)
        self._ask(answer)
        if url == CDS:
            self._want(EDS, self.client.endpoints_wanted())

    def _check_routes(self, response: Response, view: View) -> None:
        for item in response.resources if response.type_url in (RDS, VHDS) else ():
            for cluster in clusters_named(item):
                if view.get(CDS, cluster) is not None:
                    assert self.client.usable(cluster), f"{item.name} came before {cluster}"

    def _check_clusters(self, had: set[str], view: View) -> None:
        """SotW cannot take a route away, nor keep what it never knew the client to have: of an earlier stream those are
        the subsets of services that are there."""
        if self.hostile:
            return
        gone = had - self.client.held[CDS].keys()
        if self.came_back and not self.delta:
            gone = {name for name in gone if view.get(CDS, whole_service(name)) is not None}
        for url in (RDS, VHDS) if self.delta else (RDS,):
            for name, item in self.client.held[url].items():
                if self.delta or view.get(url, name) is not None:
                    assert not gone & clusters_named(item), f"{name} lost its cluster"

    # --- what may happen

    @rule(view=views())
    def update(self, view: tuple[Resource, ...]) -> None:
        self._update(view)

    def _update(self, view: tuple[Resource, ...]) -> None:
        following = View(self.view.revision + 1, resources.compiled(*view), EMPTY)
        changed = self.diffs.between(self.view, following)
        self.view = following
        self._sent(self.session.on_view(following, changed, self.now))

    @precondition(lambda self: self.to_server)
    @rule(count=st.integers(1, 4))
    def server_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.to_server))):
            self._server_reads()

    @precondition(lambda self: self.to_client)
    @rule(count=st.integers(1, 4))
    def client_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.to_client))):
            self._client_reads()

    @rule(names=st.frozensets(st.sampled_from(ROUTES)))
    def client_wants_routes(self, names: frozenset[str]) -> None:
        self._want(RDS, set(names))

    @precondition(lambda self: self.delta)
    @rule(url=st.sampled_from((CDS, LDS, VHDS)))
    def client_asks_for_everything_again(self, url: str) -> None:
        self._ask(DeltaDiscoveryRequest(type_url=url, resource_names_subscribe=["*"]))

    @rule(order=st.permutations((CDS, EDS, LDS, RDS, VHDS)))
    def reconnect(self, order: list[str]) -> None:
        """Clusters are asked for before what names them, as all clients do that ask for all clusters; an Envoy that was
        warming some asks for them later, but then it brings what it has of the other types."""
        self.came_back = True
        order = [url for url in order if url in self.client.types]
        early = order[: order.index(CDS)]
        if not all(self.client.held[url] for url in early if url != EDS):
            order = [CDS, *(url for url in order if url != CDS)]
        self._connect(order)

    @precondition(lambda self: self.hostile and self.to_client)
    @rule()
    def client_refuses(self) -> None:
        response, _ = self.to_client[0]
        for item in response.resources[:1]:
            self.client.refuses.add((item.type_url, item.name, item.version))
        self._client_reads()

    @precondition(lambda self: self.hostile)
    @rule(seconds=st.sampled_from((1.0, REMOVAL_HOLD_S)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self._on_time()

    def _on_time(self) -> None:
        if self.session.deadline is not None and self.session.deadline <= self.now:
            self._sent(self.session.on_time(self.now))

    @invariant()
    def what_is_held_says_why(self) -> None:
        for sync in self.session.sync.types.values():
            assert all(held.waits_for for held in sync.held.values())

    @invariant()
    def who_owes_nothing_has_it_all(self) -> None:
        """What `?wait=` counts as acknowledged."""
        if self.hostile or self.to_server or self.to_client or any(self.session.sync.open_spans()):
            return
        for url in self.client.types:
            self._compare(url)

    # --- the end

    def teardown(self) -> None:
        if not hasattr(self, "session"):
            return
        self._settle()
        assert self.hostile or not self.client.warming  # a hostile one may refuse what it waits for
        # What a client refuses, it refuses: so all of that changes once more, and now it takes everything.
        self.client.unrefused()
        self._update(tuple(_renewed(self.view)))
        self._settle()
        for url in self.client.types:
            self._compare(url)
        assert not self.client.warming
        assert {sync.state() for sync in self.session.sync.types.values()} <= {"synced"}
        assert self.session.sync.unasked is None
        assert self.session.deadline is None

    def _settle(self) -> None:
        for _ in range(500):
            if self.to_client:
                self._client_reads()
            elif self.to_server:
                self._server_reads()
            elif self.session.deadline is not None:
                self.now = self.session.deadline
                self._on_time()
            else:
                return
        pytest.fail("the two never come to rest")

    def _compare(self, url: str) -> None:
        # SotW has no word for a route configuration that is gone: the client keeps it.
        lasting = url == RDS and not self.delta
        has = {
            name: item.version
            for name, item in self.client.held[url].items()
            if not lasting or self.view.get(url, name) is not None
        }
        assert has == self._expected(url), type_url.SHORT_NAMES[url]
        subscription = self.session.subscriptions.get(url)
        if subscription is not None:
            assert not subscription.due
            assert {name: item.version for name, item in subscription.sent.items()} == has
            assert self.session.sync.of(url).accepted == has.keys()

    def _expected(self, url: str) -> Mapping[str, str]:
        found = {name: item.version for name, item in self.view.items(url)}
        if url == EDS:
            wanted = self.client.endpoints_wanted()
            return {name: found.get(name) or empty_load_assignment(name).version for name in wanted}
        return {name: version for name, version in found.items() if url != RDS or name in self.client.wanted[RDS]}


def _renewed(view: View) -> list[Resource]:
    """The same mesh with other content everywhere."""
    found = [resources.cluster(name, "new", eds=name != "plain") for name in view.names(CDS)]
    found += [resources.assignment(name, "new") for name in view.names(EDS)]
    found += [resources.route_configuration(name, *clusters_named(item), tag="new") for name, item in view.items(RDS)]
    found += [resources.vhds(name, *clusters_named(item), tag="new") for name, item in view.items(VHDS)]
    return found + [resources.listener(name, *clusters_named(item), tag="new") for name, item in view.items(LDS)]


@pytest.mark.parametrize("hostile", [False, True], ids=["well-behaved", "hostile"])
@pytest.mark.parametrize("delta", [True, False], ids=["delta", "sotw"])
def test_client_and_server_agree(delta: bool, hostile: bool) -> None:
    machine = type("Agreement", (Machine,), {"delta": delta, "hostile": hostile})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(150),
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_view_of_nothing_is_a_view() -> None:
    """The machine's end with the smallest mesh of all."""
    session = DeltaSession(NOTHING, StreamSync())
    (answer,) = session.on_request(DeltaDiscoveryRequest(type_url=CDS), 0.0)
    assert (answer.resources, answer.removed) == ((), ())
