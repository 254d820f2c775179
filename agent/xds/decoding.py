"""From a resource to what the session holds: its values by table, and the resources that it names.

Owns:   Decoded of each type.
Not:    what a message means (agent.config), when it is served (warming).
"""

from agent.config.decode import Meaning, decode_whole
from agent.config.fields import Rejected
from agent.ipc.messages import ROUTE_CONFIGURATION
from agent.model.cluster import Cluster
from agent.model.listener import Listener
from agent.model.route import RouteConfiguration
from agent.xds.resources import KIND_OF, WILDCARD, Decoded
from agent.xds.warming import route_configurations_of
from mesh.xds import type_url


def decode_resource(url: str, name: str, body: bytes) -> Decoded | str:
    """What the resource brings, or why it is refused (`field path: found ..., expected ...`). Never raises."""
    found = decode_whole(url, name, body)
    if isinstance(found, Rejected):
        return str(found)
    inline = tuple((ROUTE_CONFIGURATION, routes.name, routes) for routes in found.inline)
    return Decoded(values=((KIND_OF[url], name, found.value), *inline), needs=_needs(found))


def _needs(meaning: Meaning) -> frozenset[tuple[str, str]]:
    match meaning.value:
        case Cluster(eds_name=name) if name:
            return frozenset({(type_url.CLUSTER_LOAD_ASSIGNMENT, name)})
        case RouteConfiguration(vhds=True):
            return frozenset({(type_url.VIRTUAL_HOST, WILDCARD)})
        case Listener() as listener:
            own = {routes.name for routes in meaning.inline}
            names = set(route_configurations_of(listener)) - own
            return frozenset((type_url.ROUTE_CONFIGURATION, name) for name in names)
    return frozenset()
