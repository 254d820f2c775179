"""What may not be rolled out in stages: that on which both ends of a connection must agree at the same time. Pure.

Source: decision 24 (PeerAuthentication and `tls` blocks).
"""

from collections.abc import Iterator

from controlplane.policy.destination_rule import DestinationRule
from controlplane.policy.kinds import DESTINATION_RULE, PEER_AUTHENTICATION, SECRET
from controlplane.policy.objects import PolicyObject
from controlplane.policy.traffic_policy import TrafficPolicy

_BOTH = "both ends of a connection must agree on it at once; apply it without stages"


def unstageable(candidate: PolicyObject, stored: PolicyObject | None) -> tuple[tuple[str, str], ...]:
    """(field, message) of everything in the object that a rollout refuses; also a `tls` block that it would remove."""
    if candidate.kind is PEER_AUTHENTICATION:
        return (("kind", f"found PeerAuthentication, expected another kind in a rollout: {_BOTH}"),)
    if candidate.kind is SECRET:
        return (("kind", "found Secret, expected another kind in a rollout: its content would be kept twice"),)
    if candidate.kind is not DESTINATION_RULE:
        return ()
    wanted = tuple(_tls_fields(candidate.spec_as(DestinationRule)))
    before = tuple(_tls_fields(stored.spec_as(DestinationRule))) if stored is not None else ()
    removed = [field for field in before if field not in wanted]
    found = [(field, f"found a tls block, expected none in a rollout: {_BOTH}") for field in wanted]
    return (*found, *((field, f"found no tls block where the stored object has one: {_BOTH}") for field in removed))


def _tls_fields(spec: DestinationRule) -> Iterator[str]:
    yield from _of_policy("spec.trafficPolicy", spec.traffic_policy)
    for index, subset in enumerate(spec.subsets):
        yield from _of_policy(f"spec.subsets[{index}].trafficPolicy", subset.traffic_policy)


def _of_policy(path: str, policy: TrafficPolicy | None) -> Iterator[str]:
    if policy is None:
        return
    if policy.tls is not None:
        yield f"{path}.tls"
    for index, port in enumerate(policy.port_level_settings):
        if port.tls is not None:
            yield f"{path}.portLevelSettings[{index}].tls"
