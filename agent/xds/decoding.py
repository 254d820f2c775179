"""From a resource to what the session holds: its values by table, and the resources that it names.

Owns:   Decoded of each type; what a server that is not ours may ask for.
Not:    what a message means (agent.config), when it is served (warming).
"""

from agent.config.decode import Meaning, decode_whole
from agent.config.fields import Rejected
from agent.config.secrets import secret
from agent.ipc.messages import ROUTE_CONFIGURATION
from agent.model.cluster import Cluster
from agent.model.listener import Listener
from agent.model.route import RouteConfiguration
from agent.model.tls import DownstreamTls, KeyPair, UpstreamTls
from agent.xds.resources import KIND_OF, WILDCARD, Decoded
from agent.xds.warming import route_configurations_of, secrets_of
from mesh.xds import type_url

MESH_TRUST = UpstreamTls().trust
WITHOUT_IDENTITY = (
    "found TLS with the mesh's certificates, expected plaintext, or TLS towards others with roots in the message: "
    "this agent has joined no mesh"
)


def decode_resource(url: str, name: str, body: bytes) -> Decoded | str:
    """What the resource brings, or why it is refused (`field path: found ..., expected ...`). Never raises."""
    if url == type_url.SECRET:
        return _secret(secret(name, body))
    found = decode_whole(url, name, body)
    if isinstance(found, Rejected):
        return str(found)
    inline = tuple((ROUTE_CONFIGURATION, routes.name, routes) for routes in found.inline)
    return Decoded(values=((KIND_OF[url], name, found.value), *inline), needs=_needs(found))


def _secret(found: bytes | KeyPair | Rejected) -> Decoded | str:
    match found:
        case Rejected():
            return str(found)
        case KeyPair():
            return Decoded(values=(), pair=found)
    return Decoded(values=(), trust_pem=found)


def decode_foreign(url: str, name: str, body: bytes) -> Decoded | str:
    """The same, for an agent without an identity: what needs one is refused."""
    decoded = decode_resource(url, name, body)
    if isinstance(decoded, str) or not any(_needs_identity(value) for _, _, value in decoded.values):
        return decoded
    return WITHOUT_IDENTITY


def _needs_identity(value: object) -> bool:
    match value:
        case Cluster(tls=tls, transport_sockets=sockets):
            return any(_is_of_the_mesh(one) for one in (tls, *(socket.tls for socket in sockets)))
        case Listener(identity=identity, filter_chains=chains):
            return bool(identity) or any(_is_of_the_mesh(chain.tls) for chain in chains)
    return False


def _is_of_the_mesh(tls: UpstreamTls | DownstreamTls | None) -> bool:
    if tls is None:
        return False
    if isinstance(tls, DownstreamTls) and not (tls.require_client_certificate or tls.ask_client_certificate):
        return bool(tls.identity)
    by_secret = isinstance(tls, DownstreamTls) and bool(tls.trust_secret)
    return bool(tls.identity) or (tls.trust == MESH_TRUST and not by_secret)


def _needs(meaning: Meaning) -> frozenset[tuple[str, str]]:
    match meaning.value:
        case Cluster(eds_name=name) if name:
            return frozenset({(type_url.CLUSTER_LOAD_ASSIGNMENT, name)})
        case RouteConfiguration(vhds=True):
            return frozenset({(type_url.VIRTUAL_HOST, WILDCARD)})
        case Listener() as listener:
            own = {routes.name for routes in meaning.inline}
            names = set(route_configurations_of(listener)) - own
            routes = ((type_url.ROUTE_CONFIGURATION, name) for name in names)
            return frozenset((*routes, *((type_url.SECRET, name) for name in secrets_of(listener))))
    return frozenset()
