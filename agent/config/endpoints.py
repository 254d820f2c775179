"""ClusterLoadAssignments: the endpoints of a cluster.

Source: envoy/config/endpoint/v3; data-plane.md 1.2. Of two endpoints with one address the first counts, as in Envoy.

Not refused, since it cannot make a difference here: other metadata of `envoy.lb` (clusters with subsets are
refused), health_check_config (clusters with active checks are refused), proximity.
"""

from collections.abc import Iterator

from envoy.config.endpoint.v3.endpoint_components_pb2 import LbEndpoint, LocalityLbEndpoints
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment

from agent.config.addresses import ip_and_port
from agent.config.fields import Refused, enum_name, item, only, value_or, within
from agent.config.metadata import string_pairs
from agent.model.cluster import Endpoint, LoadAssignment
from mesh.vocabulary import HealthStatus, Locality
from mesh.xds.workload_name import KEY, METADATA

_MATCH = "envoy.transport_socket_match"
_LB = "envoy.lb"
_CANARY = "canary"
_HASH_KEY = "hash_key"
_MAX_WEIGHT = 2**32 - 1
_GROUP = frozenset({"locality", "metadata", "lb_endpoints", "load_balancing_weight", "priority", "proximity"})
_LB_ENDPOINT = frozenset({"endpoint", "health_status", "metadata", "load_balancing_weight"})
_ENDPOINT = frozenset({"address", "health_check_config", "hostname"})
_POLICY = frozenset({"overprovisioning_factor"})


def load_assignment(message: ClusterLoadAssignment, path: str, cluster: str) -> LoadAssignment:
    """The endpoints, in the order of the message; `cluster` is whose they are."""
    only(message, path, frozenset({"cluster_name", "endpoints", "policy"}))
    only(message.policy, within(path, "policy"), _POLICY)
    _check_locality_weights(message, path)
    found: dict[str, Endpoint] = {}
    for index, group in enumerate(message.endpoints):
        for endpoint in _group(group, item(path, "endpoints", index)):
            found.setdefault(endpoint.key, endpoint)
    return LoadAssignment(
        cluster=cluster,
        endpoints=tuple(found.values()),
        overprovisioning_factor=value_or(message.policy, "overprovisioning_factor", 140),
    )


def _group(message: LocalityLbEndpoints, path: str) -> Iterator[Endpoint]:
    only(message, path, _GROUP)
    place = message.locality
    locality = Locality(place.region, place.zone, place.sub_zone)
    weight = value_or(message, "load_balancing_weight", 0)
    total = sum(value_or(one, "load_balancing_weight", 1) for one in message.lb_endpoints)
    if total > _MAX_WEIGHT:
        raise Refused(
            within(path, "lb_endpoints"), f"found a sum of weights of {total}, expected at most {_MAX_WEIGHT}"
        )
    for index, one in enumerate(message.lb_endpoints):
        yield _endpoint(one, item(path, "lb_endpoints", index), locality, weight, message.priority)


def _endpoint(message: LbEndpoint, path: str, locality: Locality, locality_weight: int, priority: int) -> Endpoint:
    only(message, path, _LB_ENDPOINT)
    own = within(path, "endpoint")
    only(message.endpoint, own, _ENDPOINT)
    address, port = ip_and_port(message.endpoint.address, within(own, "address"))
    return Endpoint(
        address=address,
        port=port,
        health=_health(message, path),
        weight=value_or(message, "load_balancing_weight", 1),
        locality=locality,
        locality_weight=locality_weight,
        priority=priority,
        transport=_transport(message, path),
        hostname=message.endpoint.hostname,
        canary=_canary(message),
        hash_key=_hash_key(message),
        workload=_workload(message),
    )


def _health(message: LbEndpoint, path: str) -> HealthStatus:
    return HealthStatus[enum_name(message, "health_status", path)]


def _transport(message: LbEndpoint, path: str) -> tuple[tuple[str, str], ...]:
    found = message.metadata.filter_metadata
    if _MATCH not in found:
        return ()
    return string_pairs(found[_MATCH], within(path, f'metadata.filter_metadata["{_MATCH}"]'))


def _canary(message: LbEndpoint) -> bool:
    found = message.metadata.filter_metadata
    return _LB in found and _CANARY in found[_LB].fields and found[_LB].fields[_CANARY].bool_value


def _hash_key(message: LbEndpoint) -> str:
    found = message.metadata.filter_metadata
    return found[_LB].fields[_HASH_KEY].string_value if _LB in found and _HASH_KEY in found[_LB].fields else ""


def _workload(message: LbEndpoint) -> str:
    found = message.metadata.filter_metadata
    return found[METADATA].fields[KEY].string_value if METADATA in found and KEY in found[METADATA].fields else ""


def _check_locality_weights(message: ClusterLoadAssignment, path: str) -> None:
    """Per priority, as in Envoy."""
    totals: dict[int, int] = {}
    for index, group in enumerate(message.endpoints):
        total = totals.get(group.priority, 0) + value_or(group, "load_balancing_weight", 0)
        totals[group.priority] = total
        if total > _MAX_WEIGHT:
            own = within(item(path, "endpoints", index), "load_balancing_weight")
            raise Refused(own, f"found a sum of weights of {total}, expected at most {_MAX_WEIGHT}")
