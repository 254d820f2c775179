"""Views of connected proxies: compiled once per scope, updates only to whom something changed."""

from collections import Counter

from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Compiled, Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy, ProxyScope
from controlplane.snapshot.cache import SnapshotCache
from mesh.xds.type_url import CLUSTER_LOAD_ASSIGNMENT
from tests.support.compiling import agent, instance, mesh_of, proxy_of, put

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80, targetPort: 3001}]}
"""


class Counting:
    """The real compiler, with its calls counted."""

    def __init__(self) -> None:
        self.inner = Compiler()
        self.calls: Counter[str] = Counter()

    def compile_scope(self, mesh: MeshState, scope: ProxyScope) -> Compiled:
        self.calls["scope"] += 1
        return self.inner.compile_scope(mesh, scope)

    def compile_proxy(self, mesh: MeshState, proxy: Proxy) -> Compiled:
        self.calls["proxy"] += 1
        return self.inner.compile_proxy(mesh, proxy)

    def conditions(self, mesh: MeshState) -> tuple[Condition, ...]:
        return self.inner.conditions(mesh)


def test_proxies_of_a_scope_share_their_part() -> None:
    cache = SnapshotCache(Compiler(), mesh_of(SERVICE))
    first, second = cache.connect(1, agent("n1")), cache.connect(2, agent("n2"))
    envoy = cache.connect(3, proxy_of({"id": "e", "userAgentName": "envoy"}))
    assert first.shared is second.shared
    assert first.shared is not envoy.shared
    assert first.revision == cache.mesh.revision


def test_an_update_goes_to_whom_it_changes() -> None:
    """Endpoints concern every scope; a node's own listener only that node; nothing concerns nobody."""
    cache = SnapshotCache(Compiler(), put(mesh_of(SERVICE), instance("u1")))
    for stream, node in ((1, "node-1"), (2, "node-2"), (3, "node-3")):
        cache.connect(stream, agent(node))
    assert list(cache.refresh()) == []
    cache.advance(put(cache.mesh, instance("u2", node="node-2", address="10.0.0.2")))
    updates = {update.stream: update for update in cache.refresh()}
    assert updates.keys() == {1, 2, 3}
    assert {(update.after, update.view.revision) for update in updates.values()} == {(2, 3)}
    assert len({id(update.view.shared) for update in updates.values()}) == 1

    unrelated = "kind: Node\nname: other\naddress: 10.0.0.9\n"
    cache.advance(mesh_of(unrelated))  # a new mesh without the service
    assert {update.stream for update in cache.refresh()} == {1, 2, 3}
    assert list(cache.refresh()) == []


def test_an_update_spans_all_revisions_since_the_last_complete_refresh() -> None:
    """A refresh that was broken off, or a state that was never refreshed, is part of the next one."""
    cache = SnapshotCache(Compiler(), mesh_of(SERVICE))
    for stream in (1, 2):
        cache.connect(stream, agent(f"n{stream}"))
    list(cache.refresh())
    cache.advance(put(cache.mesh, instance("u1")))
    assert next(cache.refresh()).stream == 1  # and no further
    cache.advance(put(cache.mesh, instance("u2", inbound_port=20001)))
    updates = list(cache.refresh())
    assert [(update.stream, update.after, update.view.revision) for update in updates] == [(1, 1, 3), (2, 1, 3)]


def test_new_streams_see_the_newest_state_at_once() -> None:
    cache = SnapshotCache(Compiler(), mesh_of(SERVICE))
    cache.connect(1, agent("n1"))
    cache.advance(put(cache.mesh, instance("u1")))
    late = cache.connect(2, agent("n2"))
    assert late.revision == cache.mesh.revision
    assert [update.stream for update in cache.refresh()] == [1]
    assert late.get(CLUSTER_LOAD_ASSIGNMENT, "outbound|80||user-service.default.svc.cluster.local") is not None


def test_streams_may_leave_while_the_caller_pauses() -> None:
    """`refresh` is a generator: reconcile yields to the loop between two proxies."""
    cache = SnapshotCache(Compiler(), mesh_of(SERVICE))
    for stream in (1, 2, 3):
        cache.connect(stream, agent(f"n{stream}"))
    cache.advance(put(cache.mesh, instance("u1")))
    refreshing = cache.refresh()
    assert next(refreshing).stream == 1
    cache.disconnect(2)
    cache.disconnect(2)
    assert [update.stream for update in refreshing] == [3]


def test_the_views_of_a_node() -> None:
    cache = SnapshotCache(Compiler(), mesh_of(SERVICE))
    proxy = agent("n1")
    view = cache.connect(1, proxy)
    assert cache.view_of("n1") is view
    assert cache.proxy_of("n1") is proxy
    assert (cache.view_of("n2"), cache.proxy_of("n2")) == (None, None)
    assert cache.view_for(agent("n2")).shared is view.shared  # asked for a proxy that is not connected
    cache.disconnect(1)
    assert cache.view_of("n1") is None


def test_compiling_is_asked_once_per_stream_and_state() -> None:
    counting = Counting()
    cache = SnapshotCache(counting, mesh_of(SERVICE))
    for stream in range(10):
        cache.connect(stream, agent(f"n{stream}"))
    before = counting.inner.builds.copy()
    assert counting.calls == {"scope": 10, "proxy": 10}
    cache.advance(put(cache.mesh, instance("u1", node="elsewhere")))
    list(cache.refresh())
    assert counting.calls == {"scope": 20, "proxy": 20}
    # Ten streams, one scope: what is new was built once.
    built = counting.inner.builds - before
    assert built["ClusterLoadAssignment"] == 1
    assert built["Listener"] == 0
