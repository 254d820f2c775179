"""The compiler's golden cases: a folder with input.yaml and proxy.yaml, and what is compiled from them.

proxy.yaml: `node` (an xDS Node as JSON), `delta`; optionally `secrets` (it is given them), `input`, the name of the
case whose input.yaml is used, `settings` of the mesh and `jwks`, fetched keys by their URL.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import VirtualHost
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from controlplane.compiler.access_log import access_log
from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Condition, Resource
from controlplane.model.mesh_state import Changes
from controlplane.model.proxy import Proxy
from controlplane.settings import MeshSettings
from controlplane.snapshot.view import View
from mesh.xds import type_url
from tests.support.compiling import mesh_of, proxy_of

FOLDER = Path(__file__).parents[1] / "golden" / "compiler"
MESSAGES: Mapping[str, type[Message]] = {
    type_url.LISTENER: Listener,
    type_url.ROUTE_CONFIGURATION: RouteConfiguration,
    type_url.VIRTUAL_HOST: VirtualHost,
    type_url.CLUSTER: Cluster,
    type_url.CLUSTER_LOAD_ASSIGNMENT: ClusterLoadAssignment,
}
# File -> the types that it holds.
FILES: Mapping[str, tuple[str, ...]] = {
    "secrets.yaml": (type_url.SECRET,),
    "listeners.yaml": (type_url.LISTENER,),
    "routes.yaml": (type_url.ROUTE_CONFIGURATION, type_url.VIRTUAL_HOST),
    "clusters.yaml": (type_url.CLUSTER,),
    "endpoints.yaml": (type_url.CLUSTER_LOAD_ASSIGNMENT,),
}
CONDITIONS = "conditions.yaml"


@dataclass(frozen=True)
class Case:
    """One golden case, compiled when asked."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def spec(self) -> dict[str, Any]:
        return dict(yaml.safe_load((self.path / "proxy.yaml").read_text()))

    @property
    def input(self) -> str:
        owner = self.path.parent / self.spec["input"] if "input" in self.spec else self.path
        return (owner / "input.yaml").read_text()

    @cached_property
    def proxy(self) -> Proxy:
        proxy = proxy_of(self.spec["node"], delta=self.spec.get("delta", True))
        return replace(proxy, secrets=self.spec.get("secrets", False))

    @cached_property
    def compiled(self) -> tuple[View, tuple[Condition, ...]]:
        settings = MeshSettings.model_validate(self.spec.get("settings", {}))
        mesh, compiler = mesh_of(self.input, settings=settings), Compiler()
        fetched = tuple(self.spec.get("jwks", {}).items())
        mesh = mesh.with_changes(Changes(revision=mesh.revision + 1, jwks=fetched)) if fetched else mesh
        shared = compiler.compile_scope(mesh, mesh.scope_of(self.proxy))
        own = compiler.compile_proxy(mesh, self.proxy)
        return View(mesh.revision, shared, own), compiler.conditions(mesh)

    def outputs(self) -> Iterator[tuple[str, str]]:
        """(file, text) of everything that was compiled; files that would be empty are left out."""
        view, conditions = self.compiled
        for file, urls in FILES.items():
            messages = [plain(resource) for url in urls for _, resource in sorted(view.items(url))]
            if messages:
                yield file, _yaml(messages)
        if conditions:
            yield CONDITIONS, _yaml([_condition(item) for item in conditions])


def cases() -> list[Case]:
    """All cases, sorted by name."""
    found = [Case(path) for path in sorted(FOLDER.iterdir()) if path.is_dir()]
    assert found, f"no golden cases in {FOLDER}"
    return found


def message_of(resource: Resource) -> Message:
    """The message of a resource."""
    # Apart from the others: agents decode none but the roots.
    kind = Secret if resource.type_url == type_url.SECRET else MESSAGES[resource.type_url]
    return kind.FromString(resource.body)


def plain(resource: Resource) -> dict[str, Any]:
    """The message as JSON with the wire's names."""
    return _plain(message_of(resource))


def _plain(message: Message) -> dict[str, Any]:
    # Through JSON: an Any becomes an OrderedDict, which YAML does not write.
    return dict(json.loads(json.dumps(MessageToDict(message, preserving_proto_field_name=True))))


# It is the same everywhere and long: golden files only name it, compiler/test_messages.py has it.
_ACCESS_LOG = [_plain(access_log())]


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "the common one" if key == "access_log" and item == _ACCESS_LOG else _shortened(item)
            for key, item in value.items()
        }
    return [_shortened(item) for item in value] if isinstance(value, list) else value


def _condition(item: Condition) -> dict[str, str]:
    shown = {"object": str(item.ref), "type": item.type, "status": item.status, "reason": item.reason}
    return {**shown, "message": item.message} | ({"code": item.code} if item.code else {})


def _yaml(value: list[dict[str, Any]]) -> str:
    return yaml.safe_dump(_shortened(value), sort_keys=True, default_flow_style=None, width=140, allow_unicode=True)
