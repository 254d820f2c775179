"""The xDS v3 resource type URLs and the order in which they are pushed. Source: xDS protocol, 'Resource types'."""

_PREFIX = "type.googleapis.com/"

LISTENER = _PREFIX + "envoy.config.listener.v3.Listener"
ROUTE_CONFIGURATION = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
VIRTUAL_HOST = _PREFIX + "envoy.config.route.v3.VirtualHost"
CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
CLUSTER_LOAD_ASSIGNMENT = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
SECRET = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

# Rule 17 of the server: clusters, their endpoints, then what refers to them; secrets first of all because
# a cluster or listener that names one is not warm without it.
PUSH_ORDER: tuple[str, ...] = (
    SECRET,
    CLUSTER,
    CLUSTER_LOAD_ASSIGNMENT,
    LISTENER,
    ROUTE_CONFIGURATION,
    VIRTUAL_HOST,
)

# Types for which an empty subscription means "everything" (rule 8).
WILDCARD_TYPES = frozenset({LISTENER, CLUSTER, VIRTUAL_HOST})

# Types whose SotW answer is the full state: absence means deletion (rule 10).
FULL_STATE_TYPES = frozenset({LISTENER, CLUSTER})

SHORT_NAMES: dict[str, str] = {
    LISTENER: "LDS",
    ROUTE_CONFIGURATION: "RDS",
    VIRTUAL_HOST: "VHDS",
    CLUSTER: "CDS",
    CLUSTER_LOAD_ASSIGNMENT: "EDS",
    SECRET: "SDS",
}
