"""Which views of the mesh's state there are: their names, paths, parameters. Pure.

Owns:   the table that the views themselves (state_views), REST's paths and the OpenAPI document share.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class View:
    """`path` below /mesh/v1/, with `{parameter}`s in it; `schema`: of the answer, or of each of its `items` when
    `listed`; `parameters`: those of the query; `paged`: an answer that is not the last has `continue`."""

    name: str
    path: str
    schema: str
    listed: bool
    parameters: tuple[str, ...]
    summary: str
    paged: bool = False

    @property
    def path_parameters(self) -> tuple[str, ...]:
        return tuple(part[1:-1] for part in self.path.split("/") if part.startswith("{"))


VIEWS: Mapping[str, View] = {
    view.name: view
    for view in (
        View("status", "status", "Status", False, (), "The mesh at a glance, and what needs attention"),
        View("nodes", "nodes", "Node", True, (), "Nodes that have joined"),
        View("node", "nodes/{node}", "Node", False, (), "One node"),
        View("services", "services", "Service", True, ("service", "namespace"), "Services and the policies for them"),
        View("service", "services/{host}", "Service", False, (), "One service, by its full host"),
        View(
            "endpoints",
            "endpoints",
            "Endpoint",
            True,
            ("service", "namespace", "node"),
            "Endpoints with their health and ejections, and why",
        ),
        View("proxies", "proxies", "Proxy", True, ("node",), "Connected proxies: synced, pending, rejected by type"),
        View("proxy", "proxies/{node}", "Proxy", True, (), "The proxies of one node"),
        View(
            "config_dump",
            "proxies/{node}/config_dump",
            "ConfigDump",
            False,
            ("type", "name"),
            "What a proxy is to have, as JSON",
        ),
        View(
            "client_status",
            "proxies/{node}/client_status",
            "ClientStatus",
            True,
            (),
            "What a proxy has of its resources by its own word, and what it was sent",
        ),
        View("certificates", "certificates", "Certificates", False, (), "Roots, identities, and what nodes may claim"),
        View("traffic", "traffic", "Traffic", True, (), "The load of the last minute, as proxies report it"),
        View(
            "circuit_breakers",
            "circuit_breakers",
            "CircuitBreaker",
            True,
            ("breaker", "node"),
            "Circuit breakers on every node: their state, since when and why",
        ),
        View("events", "events", "Event", True, (), "What happened lately, oldest first"),
        View(
            "history",
            "history",
            "Apply",
            True,
            ("object", "limit", "continue"),
            "Who changed which objects, newest first",
            paged=True,
        ),
        View("change", "history/{revision}", "Change", False, (), "What one revision changed, with its diff"),
        View(
            "revision",
            "revisions/{revision}",
            "Revision",
            False,
            ("wait",),
            "How far a change has come among the proxies",
        ),
        View("rollouts", "rollouts", "Rollout", True, (), "Staged rollouts of configuration, newest first"),
        View("rollout", "rollouts/{id}", "Rollout", False, (), "One staged rollout: how far it is, and why it ended"),
        View("replicas", "replicas", "Replica", True, (), "The replicas of the control plane"),
        View("tokens", "tokens", "Token", True, (), "Join tokens, without their secrets"),
    )
}

PARAMETERS: Mapping[str, str] = {
    "service": "short name, name.namespace, or full host",
    "namespace": "only of this namespace",
    "node": "only of this node",
    "breaker": "only this CircuitBreaker: NAME or NAMESPACE/NAME",
    "type": "CDS, EDS, LDS, RDS, VHDS or SDS",
    "name": "only the resource of this name",
    "object": "only what changed this object: KIND/NAME or KIND/NAMESPACE/NAME",
    "limit": "at most so many; default and most 1000",
    "continue": "what the last answer said, for what is older",
    "wait": "wait so long for the proxies' answers, such as 30s; at most a minute",
}
