"""Small xDS resources by a short word, as an agent is sent them.

SPEC: name=content>named, where `named` depends on the type: cds: the endpoints' name; lds: RouteConfigurations; rds and
vhds: clusters. `content` is the version too; with ! at its end the agent refuses the resource, with * at its end a
RouteConfiguration has virtual hosts by name.
"""

from typing import Any

from agent.xds.decoding import decode_resource
from agent.xds.resources import Decoded, Held
from mesh.xds.type_url import SHORT_NAMES
from tests.support import decoding

URLS = {short.lower(): url for url, short in SHORT_NAMES.items()}


def fields_of(short: str, spec: str) -> tuple[str, str, dict[str, Any]]:
    """(name, content, the message as JSON)."""
    head, _, named = spec.partition(">")
    name, _, content = head.partition("=")
    targets = named.split(",") if named else []
    made = {"cds": _cluster, "eds": _assignment, "lds": _listener, "rds": _routes, "vhds": _host}[short](
        name, content, targets
    )
    return name, content, made


def body_of(short: str, spec: str) -> bytes:
    """The serialised message."""
    return decoding.body_of(URLS[short], fields_of(short, spec)[2])


def held(short: str, spec: str) -> Held:
    """The resource, accepted."""
    name, content, _ = fields_of(short, spec)
    body = body_of(short, spec)
    decoded = decode_resource(URLS[short], name, body)
    assert isinstance(decoded, Decoded), decoded
    return Held(type_url=URLS[short], name=name, version=content, body=body, decoded=decoded)


def value(short: str, spec: str) -> Any:
    """What the resource means."""
    return held(short, spec).decoded.values[0][2]


def _cluster(name: str, content: str, targets: list[str]) -> dict[str, Any]:
    made = decoding.cluster(name=name, alt_stat_name=content)
    if targets == ["static"]:
        made = decoding.cluster(name=name, alt_stat_name=content, type="STATIC")
    elif targets:
        made["eds_cluster_config"] = {"eds_config": decoding.ADS, "service_name": targets[0]}
    return made | ({"lb_policy": "CLUSTER_PROVIDED"} if content.endswith("!") else {})


def _assignment(name: str, content: str, targets: list[str]) -> dict[str, Any]:
    endpoint = decoding.lb_endpoint(port=0 if content.endswith("!") else 80)
    endpoint["endpoint"]["hostname"] = content
    return {**decoding.assignment(endpoint), "cluster_name": name}


def _listener(name: str, content: str, targets: list[str]) -> dict[str, Any]:
    chains = [
        {
            "name": content,
            "filters": [decoding.manager(rds={"config_source": decoding.ADS, "route_config_name": target})],
            **({"filter_chain_match": {"transport_protocol": "raw_buffer"}} if index else {}),
        }
        for index, target in enumerate(targets)
    ]
    bad = {"bind_to_port": False} if content.endswith("!") else {}
    return decoding.listener(*chains, name=name, stat_prefix=content, **bad)


def _routes(name: str, content: str, targets: list[str]) -> dict[str, Any]:
    by_name = {"vhds": {"config_source": decoding.ADS}} if content.endswith("*") else {}
    bad = {"vhost_header": "x"} if content.endswith("!") else {}
    hosts = [_host("own", content.rstrip("!"), targets)] if targets else []
    return {"name": name, "virtual_hosts": hosts, **by_name, **bad}


def _host(name: str, content: str, targets: list[str]) -> dict[str, Any]:
    routes = [decoding.route({"cluster": target}, name=content) for target in targets]
    routes = routes or [{"name": content, "match": {"prefix": "/"}, "direct_response": {"status": 200}}]
    return decoding.host(*routes, name=name, **({"require_tls": "EXTERNAL_ONLY"} if content.endswith("!") else {}))
