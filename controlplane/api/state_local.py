"""What this replica knows by itself, as lists of JSON values: services, endpoints, objects, proxies. Pure.

Owns:   the filters of each list.
Not:    the shapes (state_json), asking other replicas (state_views).
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from controlplane.api import state_json
from controlplane.api.state_json import Json
from controlplane.api.status import is_problem
from controlplane.compiler.types import Condition
from controlplane.model.mesh_state import MeshState
from controlplane.model.services import Service
from controlplane.model.views import ServiceView, short_names
from controlplane.settings import MeshSettings
from controlplane.snapshot.view import View
from mesh.identity.spiffe import workload_id
from mesh.xds.type_url import PUSH_ORDER, SHORT_NAMES

_WORST_FIRST = ("rejected", "pending", "synced")
_MAX_PROBLEMS = 1000


def services(mesh: MeshState, *, service: str = "", namespace: str = "") -> list[Json]:
    """The services, sorted by host."""
    ejected = state_json.ejections_by_endpoint(mesh)
    return [
        state_json.service_json(view, found, ejected.get(found.host, {}))
        for view, found in _selected(mesh, service, namespace)
    ]


def endpoints(mesh: MeshState, *, service: str = "", namespace: str = "", node: str = "") -> list[Json]:
    """The endpoints, sorted by service and address. An endpoint of two services stands twice."""
    ejected = state_json.ejections_by_endpoint(mesh)
    found: list[Json] = []
    for view, own in _selected(mesh, service, namespace):
        ejections = ejected.get(own.host, {})
        for key, (endpoint, ports) in sorted(state_json.endpoints_of(view).items()):
            if node in ("", endpoint.workload.node):
                trust_domain = mesh.settings.trust_domain
                found.append(
                    state_json.endpoint_json(own.host, endpoint, ports, ejections.get(key, ()), trust_domain)
                )  # fmt: skip
    return found


def _selected(mesh: MeshState, service: str, namespace: str) -> Iterable[tuple[ServiceView, Service]]:
    for host, view in sorted(mesh.views.items()):
        found = view.service
        if found is None or namespace not in ("", found.namespace):
            continue
        if not service or service in (host, found.name) or service in short_names(host, mesh.settings):
            yield view, found


def endpoint_totals(mesh: MeshState) -> dict[str, int]:
    """Over all services: an instance that belongs to two of them counts twice."""
    ejected = state_json.ejections_by_endpoint(mesh)
    total: Counter[str] = Counter(dict.fromkeys(("total", "healthy", "unhealthy", "ejected"), 0))
    for view, found in _selected(mesh, "", ""):
        total.update(state_json.count_endpoints(state_json.endpoints_of(view), ejected.get(found.host, {})))
    return dict(total)


def identities(mesh: MeshState) -> list[Json]:
    """Whose certificates the agents' workloads carry, and which instances share one."""
    found: dict[str, list[str]] = {}
    for item in mesh.instances():
        identity = workload_id(mesh.settings.trust_domain, item.namespace, item.service_account)
        found.setdefault(str(identity), []).append(f"{item.node}/{item.id}")
    return [{"identity": identity, "instances": sorted(own)} for identity, own in sorted(found.items())]


def object_counts(mesh: MeshState) -> dict[str, int]:
    """How many objects there are of each kind; with its group where the kind's name alone means another."""
    return dict(sorted(Counter(ref.kind_word for ref in mesh.objects).items()))


def problems(conditions: Iterable[Condition]) -> list[Json]:
    """The conditions that need attention, by object; bounded."""
    found = sorted(item for item in conditions if is_problem({"type": item.type, "status": item.status}))
    return [state_json.condition_json(item) for item in found[:_MAX_PROBLEMS]]


def sync_by_node(proxies: Iterable[Json]) -> dict[str, str]:
    """The worst state of each connected node's proxies."""
    found: dict[str, set[str]] = {}
    for item in proxies:
        found.setdefault(item["node"], set()).add(item["sync"])
    return {node: next(word for word in _WORST_FIRST if word in states) for node, states in found.items()}


def config_dump(node: str, view: View, replica: str, *, type_: str = "", name: str = "") -> Json:
    """Everything that the node's proxy is to have, by type; `type_` and `name` choose from it."""
    resources: dict[str, list[Json]] = {}
    for url in PUSH_ORDER:
        short = SHORT_NAMES[url]
        if type_.upper() in ("", short):
            found = sorted(view.items(url), key=lambda item: item[0])
            resources[short] = [state_json.resource_json(item) for own, item in found if name in ("", own)]
    return {"node": node, "replica": replica, "revision": view.revision, "resources": resources}


def is_known_type(type_: str) -> bool:
    """Whether it is a short name such as CDS, in any case."""
    return type_.upper() in SHORT_NAMES.values()


def merged_traffic(parts: Iterable[Mapping[str, object]]) -> list[Json]:
    """The sums of several replicas' lists, by cluster and locality."""
    sums: dict[tuple[str, str], Json] = {}
    for part in parts:
        key = (str(part["cluster"]), str(part["locality"]))
        known = sums.get(key)
        sums[key] = dict(part) if known is None else _added(known, dict(part))
    return [item for _, item in sorted(sums.items())]


def _added(one: Json, other: Json) -> Json:
    requests = one["requests_per_s"] + other["requests_per_s"]
    shares = one["success_ratio"] * one["requests_per_s"] + other["success_ratio"] * other["requests_per_s"]
    return {
        **one,
        "reporters": one["reporters"] + other["reporters"],
        "requests_per_s": round(requests, 3),
        "errors_per_s": round(one["errors_per_s"] + other["errors_per_s"], 3),
        "success_ratio": round(shares / requests, 4) if requests else min(one["success_ratio"], other["success_ratio"]),
        "in_progress": one["in_progress"] + other["in_progress"],
    }


def chosen_breakers(rows: Iterable[Json], *, breaker: str = "", node: str = "") -> list[Json]:
    """Those of one policy, by its name with or without namespace, and of one node; by name, caller and node."""
    found = (
        row
        for row in rows
        if breaker in ("", row["name"], f"{row['namespace']}/{row['name']}") and node in ("", row["node"])
    )
    return sorted(found, key=lambda row: (row["namespace"], row["name"], row["caller"], row["node"]))


def merged_revision(parts: Iterable[Json]) -> Json:
    """How far a revision has come among all replicas' proxies; a node that is on two of them counts once."""
    known = list(parts)
    rejected = {item["node"]: item for part in known for item in part["rejected"]}
    pending = {node for part in known for node in part["pending"]} - rejected.keys()
    acked = {node for part in known for node in part["acked"]} - pending - rejected.keys()
    return {
        "revision": known[0]["revision"],
        "published": all(part["published"] for part in known),
        "settled": all(part["settled"] for part in known),
        "acked": sorted(acked),
        "pending": sorted(pending),
        "waits_for": [item for part in known for item in part["waits_for"] if item["node"] in pending],
        "rejected": [rejected[node] for node in sorted(rejected)],
    }


def settings_json(settings: MeshSettings) -> Json:
    """The mesh-wide facts."""
    return settings.model_dump()
