"""The delta (incremental) protocol of the ADS session. Sans-io.

Owns:   the form of DeltaDiscoveryRequest, reading DeltaDiscoveryResponse, removals.
Source: xds_protocol.rst "incremental xDS"; control-plane.md 5, rules 5, 8, 12-15, 24, 25.
Invariants: every response is answered, each by its own nonce. A first request that names nothing is the wildcard in the
        form that every server knows (rule 8).
"""

from collections.abc import Mapping

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource

from agent.xds.resources import WILDCARD
from agent.xds.session import AdsSession, Arrived, Outcome, Request, TypeState, covers, server_of
from mesh.xds.nack import error_detail

_ANOTHER_VERSION = "unknown"  # of what is held: the server then sends it again, and says what is gone
_GONE = "the server says that it does not exist"


class DeltaSession(AdsSession):
    """DeltaAggregatedResources."""

    method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
    _tell_versions = True

    def received(self, data: bytes, now: float) -> Outcome:
        """Types that were not asked for are refused as a whole."""
        response = DeltaDiscoveryResponse.FromString(data)
        url = response.type_url
        state = self.types.get(url)
        if state is None or state.subscribed is None:
            refused = {WILDCARD: "found a type that was not asked for"}
            answers = self._answers(url, refused, _answer(response, refused), now)
            return Outcome(requests=tuple(answers), type_url=url, refused=refused)
        self.connected_to = server_of(response, self.connected_to)
        state.complete, state.version = True, response.system_version_info
        found, changed = self._apply(url, state, map(_arrived, response.resources), now)
        for name in response.removed_resources:
            changed = self._note_absence(state, name, _GONE) or changed
        changed = self._note_errors(state, response.resource_errors) or changed
        answers = self._answers(url, found, _answer(response, found), now)
        return Outcome(requests=(*answers, *self._follow(now)), changed=changed, type_url=url, refused=found)

    def _opened(self, *, resume: bool) -> None:
        self._tell_versions = resume

    def _subscription(self, url: str, state: TypeState, before: set[str] | None, wanted: set[str]) -> Request | None:
        if before is None:
            versions = {
                name: item.version if self._tell_versions and not self._usable(item.decoded) else _ANOTHER_VERSION
                for name, item in state.held.items()
                if covers(wanted, name)
            }
            return DeltaDiscoveryRequest(
                type_url=url,
                resource_names_subscribe=sorted(wanted - {WILDCARD}),
                initial_resource_versions=versions,
            )
        return DeltaDiscoveryRequest(
            type_url=url,
            resource_names_subscribe=sorted(wanted - before),
            resource_names_unsubscribe=sorted(before - wanted),
        )


def _arrived(resource: Resource) -> Arrived:
    return Arrived(
        name=resource.name,
        version=resource.version,
        type_url=resource.resource.type_url,
        body=resource.resource.value if resource.HasField("resource") else None,
        ttl_s=resource.ttl.ToNanoseconds() / 1e9 if resource.HasField("ttl") else 0.0,
    )


def _answer(response: DeltaDiscoveryResponse, refused: Mapping[str, str]) -> DeltaDiscoveryRequest:
    request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
    if refused:
        request.error_detail.CopyFrom(error_detail(refused))
    return request
