"""Bytes and versions that are the same on every replica."""

from envoy.config.core.v3.base_pb2 import Metadata
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from mesh.xds import codec, type_url

scalars = st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=10))
objects = st.dictionaries(st.text(max_size=10), scalars, max_size=8)


def _metadata(items: dict[str, object]) -> Metadata:
    struct = Struct()
    struct.update(items)
    return Metadata(filter_metadata={f"f{key}": struct for key in items} | {"envoy.lb": struct})


@given(objects, st.randoms(use_true_random=False))
def test_equal_messages_give_equal_bytes_whatever_the_order_of_their_maps(
    items: dict[str, object], random: object
) -> None:
    shuffled = list(items.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = codec.serialize(_metadata(items)), codec.serialize(_metadata(dict(shuffled)))
    assert one == other
    assert codec.version_of(one) == codec.version_of(other)
    assert codec.serialize(Metadata.FromString(one)) == one


@given(st.binary(max_size=200), st.sampled_from(type_url.PUSH_ORDER))
def test_what_is_packed_is_unpacked(body: bytes, url: str) -> None:
    packed = AnyMessage.FromString(codec.pack_any(url, body))
    assert (packed.type_url, packed.value) == (url, body)


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_a_version_is_a_content_hash(one: bytes, other: bytes) -> None:
    assert (codec.version_of(one) == codec.version_of(other)) == (one == other)
    assert len(codec.version_of(one)) == 16
    assert int(codec.version_of(one), 16) >= 0


def test_a_packed_resource_is_what_a_client_unpacks() -> None:
    resource = ClusterLoadAssignment(cluster_name="outbound|80||a")
    packed = AnyMessage.FromString(codec.pack_any(type_url.CLUSTER_LOAD_ASSIGNMENT, codec.serialize(resource)))
    back = ClusterLoadAssignment()
    assert packed.Unpack(back)
    assert back == resource
