"""The state-of-the-world protocol of the ADS session. Sans-io.

Owns:   the form of DiscoveryRequest, reading DiscoveryResponse, versions and nonces per type, removal by absence.
Source: xds_protocol.rst; control-plane.md 5, rules 2-4, 7-10, 24, 25, 27.

    request                 version_info            response_nonce      names
    first of a type         last accepted, if all   none                all that are wanted; none = the wildcard
                            that is wanted is held
    ACK                     the response's          the response's      all
    NACK                    last accepted           the response's      all, with error_detail
    other names             last accepted           the newest          all

Invariants: a Listener or Cluster that a response leaves out is gone; other types are only let go by asking no more. A
        response in which some resource has no readable name takes nothing away. There are no virtual hosts by name: a
        RouteConfiguration that says vhds is refused.
Differs: Envoy refuses a response with one bad resource as a whole for some types; here the good ones are used (27).
"""

from collections.abc import Iterable

from envoy.service.discovery.v3.discovery_pb2 import DiscoveryRequest, DiscoveryResponse, Resource
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.status_pb2 import Status

from agent.xds.resources import WILDCARD, Decoded
from agent.xds.session import AdsSession, Arrived, Outcome, Request, TypeState, covers, server_of
from mesh.xds import type_url
from mesh.xds.nack import error_detail

_WRAPPER = "type.googleapis.com/envoy.service.discovery.v3.Resource"
_BY_NAME = (type_url.VIRTUAL_HOST, WILDCARD)


class SotwSession(AdsSession):
    """StreamAggregatedResources."""

    method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
    _tell_versions = True

    def received(self, data: bytes, now: float) -> Outcome:
        """Types that were not asked for are refused as a whole."""
        response = DiscoveryResponse.FromString(data)
        url = response.type_url
        state = self.types.get(url)
        if state is None or state.subscribed is None:
            refused = {WILDCARD: "found a type that was not asked for"}
            answers = self._answers(url, refused, _strange(response), now)
            return Outcome(requests=tuple(answers), type_url=url, refused=refused)
        self.connected_to = server_of(response, self.connected_to)
        state.complete = True
        self._forget_answers(url)
        self._nonces[url] = response.nonce
        resources = [_arrived(packed, response.version_info) for packed in response.resources]
        found, changed = self._apply(url, state, resources, now)
        if url in type_url.FULL_STATE_TYPES:
            changed = self._take_away(state, resources) or changed
        changed = self._note_errors(state, response.resource_errors) or changed
        if not found:
            state.version = response.version_info
        else:
            self._open[url] = error_detail(found)
        followed = [request for request in self._follow(now) if request.type_url != url]
        answers = self._answers(url, found, None, now)
        return Outcome(requests=(*answers, *followed), changed=changed, type_url=url, refused=found)

    def _answer(self, url: str) -> Request:
        return self._request(url)

    def _opened(self, *, resume: bool) -> None:
        self._nonces: dict[str, str] = {}
        self._open: dict[str, Status] = {}  # refusals that are not told yet
        self._tell_versions = resume

    def _wanted(self, url: str) -> set[str]:
        wanted = super()._wanted(url)
        return wanted if url != type_url.VIRTUAL_HOST else wanted & {WILDCARD}

    def _subscription(self, url: str, state: TypeState, before: set[str] | None, wanted: set[str]) -> Request | None:
        if url == type_url.VIRTUAL_HOST:
            return None  # known from the disk, of a time with the other protocol
        if before is None:
            whole = not state.refused and all(name in state.held for name in wanted - {WILDCARD})
            usable = not any(self._usable(item.decoded) for item in state.held.values())
            if not (self._tell_versions and whole and usable):
                state.version = ""
        return self._request(url)

    def _request(self, url: str) -> DiscoveryRequest:
        """All that is to be said about the type now. It answers the newest response too."""
        state = self.types[url]
        request = DiscoveryRequest(
            type_url=url,
            resource_names=sorted((state.subscribed or set()) - {WILDCARD}),
            version_info=state.version,
            response_nonce=self._nonces.get(url, ""),
        )
        told = self._open.pop(url, None)
        if told is not None:
            self._forget_answers(url)
            request.error_detail.CopyFrom(told)
        return request

    def _forget_answers(self, url: str) -> None:
        """What waits to be answered is answered otherwise: only the newest response of a type needs it."""
        self._open.pop(url, None)
        self._later = [item for item in self._later if item[1] != url]

    def _decoded(self, url: str, name: str, body: bytes) -> Decoded | str:
        decoded = super()._decoded(url, name, body)
        if isinstance(decoded, Decoded) and _BY_NAME in decoded.needs:
            return "vhds: found it set, expected it unset: virtual hosts by name need the delta protocol"
        return decoded

    def _take_away(self, state: TypeState, resources: Iterable[Arrived]) -> bool:
        """What a response of a full-state type leaves out is gone. Was anything held of it?"""
        names = {item.name for item in resources}
        if "" in names or WILDCARD not in (state.subscribed or set()):
            return False
        missing = [name for name in (*state.held, *state.refused) if not covers(names, name)]
        return any([self._release(state, name) for name in missing])


def _arrived(packed: AnyMessage, version: str) -> Arrived:
    if packed.type_url != _WRAPPER:
        return Arrived(name=_name_in(packed.value), version=version, type_url=packed.type_url, body=packed.value)
    try:
        wrapped = Resource.FromString(packed.value)
    except DecodeError:
        return Arrived(name="", version=version, type_url=packed.type_url, body=packed.value)
    has_body = wrapped.HasField("resource")
    return Arrived(
        name=wrapped.name or _name_in(wrapped.resource.value),
        version=wrapped.version or version,
        type_url=wrapped.resource.type_url,
        body=wrapped.resource.value if has_body else None,
        ttl_s=wrapped.ttl.ToNanoseconds() / 1e9 if wrapped.HasField("ttl") else 0.0,
    )


def _name_in(body: bytes) -> str:
    """The name that a message holds: in every type that is asked for it is field 1, a string, as in StringValue."""
    try:
        return StringValue.FromString(body).value
    except DecodeError:
        return ""


def _strange(response: DiscoveryResponse) -> DiscoveryRequest:
    return DiscoveryRequest(
        type_url=response.type_url,
        response_nonce=response.nonce,
        error_detail=error_detail({WILDCARD: "found a type that was not asked for"}),
    )
