"""From a message to a Resource, and small values that many messages hold.

Owns:   serialising once, sources.
"""

from collections.abc import Iterable

from envoy.config.core.v3.address_pb2 import Address, SocketAddress
from envoy.config.core.v3.config_source_pb2 import AggregatedConfigSource, ApiVersion, ConfigSource
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from controlplane.compiler.types import Resource, Source
from controlplane.policy.objects import PolicyObject
from mesh.xds.codec import pack_any, serialize, version_of
from mesh.xds.type_url import CLUSTER, LISTENER, VIRTUAL_HOST

ADS = ConfigSource(ads=AggregatedConfigSource(), resource_api_version=ApiVersion.V3)


# A route configuration is of all services together, and endpoints without their cluster mean nothing.
_MAY_EXPIRE = frozenset({LISTENER, CLUSTER, VIRTUAL_HOST})


def make_resource(type_url: str, name: str, message: Message, sources: tuple[Source, ...] = ()) -> Resource:
    """Serialise `message`. It lives as long as the shortest-lived of its sources."""
    body = serialize(message)
    ttl_s = min((source.ttl_s for source in sources if source.ttl_s), default=0.0) if type_url in _MAY_EXPIRE else 0.0
    version = version_of(body) + (f".{ttl_s:g}s" if ttl_s else "")
    return Resource(type_url, name, version, body, pack_any(type_url, body), sources, ttl_s)


def sources_of(objects: Iterable[PolicyObject | None]) -> tuple[Source, ...]:
    """The objects at their generations, without duplicates, sorted."""
    parts = (part for item in objects if item is not None for part in item.stored)
    found = {Source(part.ref, part.metadata.generation, part.ttl_s) for part in parts}
    return tuple(sorted(found, key=lambda source: (source.ref, source.generation)))


def packed(message: Message) -> AnyMessage:
    """The message in an Any, deterministic."""
    packed_message = AnyMessage()
    packed_message.Pack(message, deterministic=True)
    return packed_message


def duration(seconds: float) -> Duration:
    """Seconds as the wire has them."""
    nanos = round(seconds * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def socket_address(address: str, port: int) -> Address:
    """An IP address, or a name where the message allows one."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))
