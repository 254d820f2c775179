"""From YAML to a MeshState and a Proxy, as tests of the model and the compiler need them.

A text holds manifests, and documents of kind Instance and Node whose other fields are those of controlplane.registry.
Objects without creationTimestamp are as old as their place says: the first is the oldest.
"""

import json
from typing import Any

from envoy.config.core.v3.base_pb2 import Node as XdsNode
from google.protobuf.json_format import ParseDict

from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.proxy import Proxy, proxy_from_node
from controlplane.policy.admission import Admitted, admit
from controlplane.policy.manifests import load_documents
from controlplane.policy.objects import PolicyObject
from controlplane.registry.codec import decode_instance, decode_node
from controlplane.registry.instances import Instance, Node
from controlplane.settings import MeshSettings

SETTINGS = MeshSettings.model_validate({})


def parse(text: str) -> tuple[list[PolicyObject], list[Instance], list[Node]]:
    """The objects, instances and nodes of a text."""
    objects: list[PolicyObject] = []
    instances: list[Instance] = []
    nodes: list[Node] = []
    for number, document in enumerate(load_documents(text, source="test")):
        value = dict(document.value)
        kind = value.get("kind")
        if kind in ("Instance", "Node"):
            fields = json.dumps({key: item for key, item in value.items() if key != "kind"}).encode()
            if kind == "Instance":
                instances.append(decode_instance(fields))
            else:
                nodes.append(decode_node(fields))
        else:
            objects.append(policy_object(value, number))
    return objects, instances, nodes


def policy_object(manifest: dict[str, Any], age: int = 0) -> PolicyObject:
    """An admitted object, stamped; the higher `age`, the younger."""
    admitted = admit(manifest)
    assert isinstance(admitted, Admitted), admitted
    metadata = manifest.get("metadata", {})
    return admitted.object.stamped(
        uid=f"uid-{metadata.get('name')}",
        creation_timestamp=metadata.get("creationTimestamp", f"2026-01-01T00:{age // 60:02}:{age % 60:02}Z"),
        generation=metadata.get("generation", 1),
    )


def mesh_of(*texts: str, settings: MeshSettings = SETTINGS) -> MeshState:
    """The state of all texts, each folded after the other."""
    mesh = MeshState.empty(settings)
    for text in texts:
        mesh = fold(mesh, text)
    return mesh


def fold(mesh: MeshState, text: str) -> MeshState:
    """The next state: everything in `text` is put."""
    objects, instances, nodes = parse(text)
    changes = Changes(
        revision=mesh.revision + 1, objects=tuple(objects), instances=tuple(instances), nodes=tuple(nodes)
    )  # fmt: skip
    return mesh.with_changes(changes)


def proxy_of(node: dict[str, Any], *, delta: bool = True) -> Proxy:
    """From an xDS node as JSON."""
    return proxy_from_node(ParseDict(node, XdsNode()), delta=delta)


def agent(name: str = "node-1", namespace: str = "default", locality: str = "", **metadata: Any) -> Proxy:
    """One of our agents."""
    region, zone, sub_zone = (*locality.split("/"), "", "", "")[:3]
    return proxy_of(
        {
            "id": name,
            "userAgentName": "gossamer-agent",
            "locality": {"region": region, "zone": zone, "subZone": sub_zone},
            "metadata": {"NAMESPACE": namespace, "ADDRESS": "10.0.0.1", **metadata},
        }
    )


def instance(
    name: str, *, node: str = "node-1", service: str = "user-service", port: int = 3001, inbound_port: int = 20000,
    address: str = "10.0.0.1", **fields: Any,
) -> Instance:  # fmt: skip
    """An instance behind an agent; `version` in `fields` sets that label, other fields replace defaults."""
    labels = {"app": service}
    if "version" in fields:
        labels["version"] = fields.pop("version")
    stored = {
        "id": name, "node": node, "namespace": "default", "service": service, "service_account": service,
        "labels": labels, "address": address,
        "ports": [{"name": "http", "port": port, "protocol": "HTTP", "inbound_port": inbound_port}],
    }  # fmt: skip
    return decode_instance(json.dumps({**stored, **fields}).encode())


def put(mesh: MeshState, *instances: Instance) -> MeshState:
    """The next state, with these instances."""
    return mesh.with_changes(Changes(revision=mesh.revision + 1, instances=instances))
