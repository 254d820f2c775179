"""Resources as JSON, for tests of the agent's decoder: small valid ones, changed where a test wants it."""

from typing import Any

from google.protobuf.json_format import ParseDict

from agent.config.decode import Meaning, decode_whole
from agent.config.fields import Rejected
from mesh.xds import type_url
from tests.support.golden import MESSAGES

Json = dict[str, Any]
PREFIX = "type.googleapis.com/"
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
ROUTER = {
    "name": "router",
    "typed_config": {"@type": f"{PREFIX}envoy.extensions.filters.http.router.v3.Router"},
}
ADS = {"ads": {}, "resource_api_version": "V3"}
MESH_ROOTS = {"ca_certificate_provider_instance": {"instance_name": "mesh", "certificate_name": "roots"}}
SOME_ID = "spiffe://cluster.local/ns/default/sa/a"


def typed(name: str, **fields: Any) -> Json:
    """An Any of message `name` (without envoy.extensions)."""
    return {"@type": f"{PREFIX}envoy.extensions.{name}", **fields}


def certificate(name: str, instance: str = "mesh") -> Json:
    return {"instance_name": instance, "certificate_name": name}


def body_of(url: str, fields: Json) -> bytes:
    """The serialised message."""
    return ParseDict(fields, MESSAGES[url]()).SerializeToString()


def meaning(url: str, fields: Json, name: str | None = None) -> Meaning | Rejected:
    """What is decoded; the resource's name is the message's own unless it is given."""
    own = fields.get("cluster_name", fields.get("name", "")) if name is None else name
    return decode_whole(url, own, body_of(url, fields))


def value(url: str, fields: Json, name: str | None = None) -> Any:
    """The value of a resource that is good."""
    found = meaning(url, fields, name)
    assert isinstance(found, Meaning), str(found)
    return found.value


def refusal(url: str, fields: Json, name: str | None = None) -> str:
    """Why a resource is refused."""
    found = meaning(url, fields, name)
    assert isinstance(found, Rejected), found
    return str(found)


# --- small resources


def cluster(**fields: Any) -> Json:
    """An EDS cluster, or a static one when `type` says so."""
    eds = {"type": "EDS", "eds_cluster_config": {"eds_config": ADS}}
    return {"name": "c", **(eds if fields.get("type", "EDS") == "EDS" else {}), **fields}


def http_cluster(options: Json) -> Json:
    """A cluster with options of HTTP."""
    written = {"explicit_http_config": {"http_protocol_options": {}}, **options}
    return cluster(typed_extension_protocol_options={HTTP_OPTIONS: typed(HTTP_OPTIONS[17:], **written)})


def address(host: str = "10.0.0.1", port: int = 80, **fields: Any) -> Json:
    return {"socket_address": {"address": host, "port_value": port, **fields}}


def lb_endpoint(host: str = "10.0.0.1", port: int = 80, **fields: Any) -> Json:
    return {"endpoint": {"address": address(host, port)}, **fields}


def assignment(*endpoints: Json, **fields: Any) -> Json:
    """One locality."""
    return {"cluster_name": "c", "endpoints": [{"lb_endpoints": list(endpoints)}], **fields}


def route(action: Json | None = None, match: Json | None = None, **fields: Any) -> Json:
    """`action`: fields of the RouteAction."""
    action = {"cluster": "c"} if action is None else action
    return {"match": match or {"prefix": "/"}, "route": action, **fields}


def host(*routes: Json, **fields: Any) -> Json:
    return {"name": "r/h", "domains": ["*"], "routes": list(routes) or [route()], **fields}


def configuration(*hosts: Json, **fields: Any) -> Json:
    return {"name": "r", "virtual_hosts": list(hosts), **fields}


def manager(**fields: Any) -> Json:
    """The network filter of a connection manager that asks for its routes."""
    rds = {} if "route_config" in fields else {"rds": {"config_source": ADS, "route_config_name": "r"}}
    written = {"stat_prefix": "s", "http_filters": [ROUTER], **rds, **fields}
    name = "filters.network.http_connection_manager.v3.HttpConnectionManager"
    return {"name": "http", "typed_config": typed(name, **written)}


def tcp(**fields: Any) -> Json:
    """The network filter of a TCP proxy."""
    written = {"stat_prefix": "s", "cluster": "c", **fields}
    return {"name": "tcp", "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", **written)}


def listener(*chains: Json, **fields: Any) -> Json:
    """By default one chain with a TCP proxy."""
    return {"name": "l", "address": address(), "filter_chains": list(chains) or [{"filters": [tcp()]}], **fields}


def http_listener(**fields: Any) -> Json:
    """One chain with a connection manager of these fields."""
    return listener({"filters": [manager(**fields)]})


def upstream_socket(common: Json | None = None, **fields: Any) -> Json:
    """mTLS towards a host of the mesh; `common` replaces fields of the CommonTlsContext, None removes one."""
    written = {
        "tls_certificate_provider_instance": certificate("caller"),
        "validation_context": MESH_ROOTS,
        **(common or {}),
    }
    context = {key: item for key, item in written.items() if item is not None}
    name = "transport_sockets.tls.v3.UpstreamTlsContext"
    return {"name": "tls", "typed_config": typed(name, common_tls_context=context, **fields)}


def downstream_socket(common: Json | None = None, **fields: Any) -> Json:
    """mTLS from clients of the mesh; as above."""
    written = {
        "tls_certificate_provider_instance": certificate(SOME_ID),
        "validation_context": MESH_ROOTS,
        **(common or {}),
    }
    context = {key: item for key, item in written.items() if item is not None}
    name = "transport_sockets.tls.v3.DownstreamTlsContext"
    return {
        "name": "tls",
        "typed_config": typed(name, **{"require_client_certificate": True, "common_tls_context": context, **fields}),
    }


# --- their values, and why they are refused


def cluster_value(**fields: Any) -> Any:
    return value(type_url.CLUSTER, cluster(**fields))


def cluster_refusal(**fields: Any) -> str:
    return refusal(type_url.CLUSTER, cluster(**fields))


def host_value(*routes: Json, **fields: Any) -> Any:
    return value(type_url.VIRTUAL_HOST, host(*routes, **fields))


def host_refusal(*routes: Json, **fields: Any) -> str:
    return refusal(type_url.VIRTUAL_HOST, host(*routes, **fields))


def action_value(**action: Any) -> Any:
    """The Forward of the only route."""
    return host_value(route({"cluster": "c", **action})).routes[0].action


def action_refusal(**action: Any) -> str:
    """Relative to the RouteAction."""
    return host_refusal(route({"cluster": "c", **action})).removeprefix("routes[0].route.")


def match_value(**match: Any) -> Any:
    """The match of the only route."""
    return host_value(route(match={"prefix": "/", **match})).routes[0].match


def match_refusal(**match: Any) -> str:
    """Relative to the RouteMatch."""
    return host_refusal(route(match={"prefix": "/", **match})).removeprefix("routes[0].match.")


def manager_value(**fields: Any) -> Any:
    """The connection manager of the only filter chain."""
    return value(type_url.LISTENER, http_listener(**fields)).filter_chains[0].network


def manager_refusal(**fields: Any) -> str:
    """Relative to the HttpConnectionManager."""
    return refusal(type_url.LISTENER, http_listener(**fields)).removeprefix("filter_chains[0].filters[0].typed_config.")
