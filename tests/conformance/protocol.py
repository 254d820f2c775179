"""One mesh for the protocol suite, and a client of either protocol whose answers read alike.

The suite (test_protocol_*.py) talks to the real server over real streams; each case is named after a rule of
control-plane.md section 5. That nothing is answered is shown without waiting: one ordered queue a stream, so the next
response is the one to a later question.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.service.discovery.v3.discovery_pb2 import Resource
from google.rpc.status_pb2 import Status

from controlplane.model.mesh_state import Changes, MeshState
from controlplane.policy.kinds import SERVICE as SERVICE_KIND
from mesh.vocabulary import ObjectRef
from mesh.xds import type_url
from tests.support.ads import Ads, RawStream, node
from tests.support.compiling import fold, instance, mesh_of, put

CDS, EDS, LDS = type_url.CLUSTER, type_url.CLUSTER_LOAD_ASSIGNMENT, type_url.LISTENER
RDS, VHDS = type_url.ROUTE_CONFIGURATION, type_url.VIRTUAL_HOST
ROUTES = "outbound.default"
MESSAGES: Mapping[str, Any] = {
    CDS: Cluster, EDS: ClusterLoadAssignment, LDS: Listener, RDS: RouteConfiguration, VHDS: VirtualHost,
}  # fmt: skip

_WRAPPER = "envoy.service.discovery.v3.Resource"


def cluster(name: str, subset: str = "") -> str:
    return f"outbound|80|{subset}|{name}.default.svc.cluster.local"


A, B, C = cluster("a"), cluster("b"), cluster("c")


def service(name: str) -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 3001}}]}}
"""


def rule(name: str, connections: int = 1000, *, subsets: Iterable[str] = ()) -> str:
    """A DestinationRule that changes the cluster of `name` and nothing of its endpoints."""
    pool = f"{{connectionPool: {{tcp: {{maxConnections: {connections}}}}}}}"
    parts = ", ".join(f"{{name: {own}, labels: {{app: {name}}}}}" for own in subsets)
    return f"""\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec: {{host: {name}, trafficPolicy: {pool}, subsets: [{parts}]}}
"""


def route(host: str, target: str, subset: str = "") -> str:
    """A VirtualService that sends what is for `host` to `target`."""
    where = f"{{host: {target}, subset: {subset}}}" if subset else f"{{host: {target}}}"
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {host}}}
spec: {{hosts: [{host}], http: [{{route: [{{destination: {where}}}]}}]}}
"""


def mesh(*names: str) -> MeshState:
    """Services of these names with an instance each."""
    found = mesh_of(*(service(name) for name in names))
    return put(
        found,
        *(instance(f"{name}-1", node="far", service=name, address=f"10.0.1.{i + 1}") for i, name in enumerate(names)),
    )


class Plane(Ads):
    """The server, and what happens to its mesh."""

    def apply(self, *texts: str) -> None:
        """All at once, as one batch."""
        self.publish(fold(self.cache.mesh, "---\n".join(texts)))

    def scale(self, name: str, number: int) -> None:
        """One more endpoint."""
        more = instance(f"{name}-{number}", node="far", service=name, address=f"10.0.2.{number}")
        self.publish(put(self.cache.mesh, more))

    def remove(self, *names: str) -> None:
        """Services, with their instances."""
        mesh = self.cache.mesh
        gone = tuple(ObjectRef(SERVICE_KIND.group, SERVICE_KIND.kind, "default", name) for name in names)
        left = tuple(
            (item.namespace, item.node, item.id) for item in mesh.instances() if item.service in names
        )  # fmt: skip
        changes = Changes(revision=mesh.revision + 1, deleted_objects=gone, deleted_instances=left)
        self.publish(mesh.with_changes(changes))


@dataclass(frozen=True)
class Answer:
    """A response of either protocol. `resources`: name -> message; `versions`: only delta has one for each."""

    url: str
    nonce: str
    version: str
    resources: Mapping[str, Any]
    versions: Mapping[str, str]
    removed: frozenset[str]
    raw: Any

    @property
    def names(self) -> set[str]:
        return set(self.resources)


class Client:
    """Subscribes by name or to everything, acknowledges when told to."""

    def __init__(self, stream: RawStream) -> None:
        self.stream = stream
        self.delta = stream.delta
        self.names: dict[str, set[str]] = {}
        self.nonces: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.asked = 0

    async def want(
        self, url: str, *names: str, have: Mapping[str, str] | None = None, nonce: str | None = None
    ) -> None:
        """Subscribe to these names (none: everything) from now on. `nonce` overrides the newest."""
        before = self.names.get(url)
        self.names[url] = set(names)
        known = self.nonces.get(url, "") if nonce is None else nonce
        if not self.delta:
            await self.stream.send(type_url=url, resource_names=sorted(names), response_nonce=known)
            return
        added, gone = set(names) - (before or set()), (before or set()) - set(names)
        await self.stream.send(
            type_url=url,
            resource_names_subscribe=sorted(added),
            resource_names_unsubscribe=sorted(gone),
            initial_resource_versions=dict(have or {}),
            response_nonce="" if nonce is None else nonce,
        )

    async def receive(self) -> Answer:
        raw = await self.stream.receive()
        answer = read(raw, delta=self.delta)
        self.nonces[answer.url] = answer.nonce
        return answer

    async def ack(self, answer: Answer, error: str = "") -> None:
        """Acknowledge it, or refuse it."""
        fields: dict[str, Any] = {"type_url": answer.url, "response_nonce": answer.nonce}
        if error:
            fields["error_detail"] = Status(code=3, message=error)
        else:
            self.versions[answer.url] = answer.version
        if not self.delta:
            fields["resource_names"] = sorted(self.names.get(answer.url, ()))
            fields["version_info"] = self.versions.get(answer.url, "")
        await self.stream.send(**fields)

    async def take(self) -> Answer:
        answer = await self.receive()
        await self.ack(answer)
        return answer

    async def get(self, url: str, *names: str) -> Answer:
        """Subscribe, and the acknowledged answer to it."""
        await self.want(url, *names)
        answer = await self.take()
        assert answer.url == url
        return answer

    async def settle(self) -> None:
        """What an Envoy does at its start: it wants the endpoints of all clusters that have some elsewhere."""
        clusters = await self.get(CDS)
        await self.get(EDS, *(name for name, item in clusters.resources.items() if item.type == Cluster.EDS))
        await self.get(LDS)
        await self.get(RDS, ROUTES)
        if self.delta:
            await self.get(VHDS)

    async def drain(self) -> list[Answer]:
        """Acknowledge all that is on its way: up to the answer to a new question."""
        self.asked += 1
        marker = f"nobody-{self.asked}"
        if self.delta:
            await self.stream.send(type_url=EDS, resource_names_subscribe=[marker])
        else:
            # In its own request, so that a response under way cannot make it stale for good.
            self.names.setdefault(EDS, set()).add(marker)
            nonce = self.nonces.get(EDS, "")
            await self.stream.send(type_url=EDS, resource_names=sorted(self.names[EDS]), response_nonce=nonce)
        found = [await self.take()]
        while marker not in found[-1].names:
            found.append(await self.take())
        return [answer for answer in found if answer.names != {marker}]

    async def assert_quiet(self) -> None:
        """Nothing is on its way."""
        found = [(answer.url, sorted(answer.names)) for answer in await self.drain()]
        assert not found, f"unasked: {found}"


def read(raw: Any, *, delta: bool) -> Answer:
    url = raw.type_url
    if delta:
        return Answer(
            url=url,
            nonce=raw.nonce,
            version=raw.system_version_info,
            resources={item.name: MESSAGES[url].FromString(item.resource.value) for item in raw.resources},
            versions={item.name: item.version for item in raw.resources},
            removed=frozenset(raw.removed_resources),
            raw=raw,
        )
    found = [MESSAGES[url].FromString(_unwrapped(item)) for item in raw.resources]
    names = [item.cluster_name if url == EDS else item.name for item in found]
    assert len(names) == len(set(names)), f"a name twice: {names}"
    return Answer(
        url=url,
        nonce=raw.nonce,
        version=raw.version_info,
        resources=dict(zip(names, found, strict=True)),
        versions={},
        removed=frozenset(),
        raw=raw,
    )


def ttls(answer: Answer) -> dict[str, float]:
    """Name -> TTL in seconds, of those resources that have one."""
    wrapped = [item for item in answer.raw.resources if isinstance(item, Resource)]
    wrapped += [
        Resource.FromString(item.value)
        for item in answer.raw.resources
        if not isinstance(item, Resource) and item.type_url.endswith(_WRAPPER)
    ]
    return {item.name: item.ttl.ToNanoseconds() / 1e9 for item in wrapped if item.HasField("ttl")}


def _unwrapped(item: Any) -> bytes:
    if item.type_url.endswith(_WRAPPER):
        return bytes(Resource.FromString(item.value).resource.value)
    return bytes(item.value)


def client(plane: Plane, *, delta: bool, name: str = "node-1", features: Iterable[str] = ()) -> Client:
    """One on a connection of its own: an Envoy by SotW, an agent by delta."""
    agent = "gossamer-agent" if delta else "envoy"
    return Client(plane.stream(node(name, agent, features=features), delta=delta))
