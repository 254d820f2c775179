"""Responses joined from bytes are what protobuf itself would write."""

from envoy.config.core.v3.base_pb2 import ControlPlane
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse
from envoy.service.discovery.v3.discovery_pb2 import Resource as WireResource
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from controlplane.compiler.types import Resource
from controlplane.discovery.encode import delta_bytes, sotw_bytes
from controlplane.discovery.response import MAX_RESPONSE_BYTES, Response, split
from mesh.xds.codec import pack_any
from mesh.xds.type_url import CLUSTER

TEXT = st.text(max_size=200)


def resource(name: str, version: str, body: bytes) -> Resource:
    return Resource(CLUSTER, name, version, body, pack_any(CLUSTER, body))


RESPONSES = st.builds(
    Response,
    type_url=st.just(CLUSTER),
    nonce=TEXT,
    version=TEXT,
    resources=st.lists(st.builds(resource, TEXT, TEXT, st.binary(max_size=300)), max_size=3).map(tuple),
    removed=st.lists(TEXT.filter(bool), max_size=3).map(tuple),
)
PLANE = ControlPlane(identifier="replica-1")


@given(RESPONSES)
def test_sotw(response: Response) -> None:
    expected = DiscoveryResponse(
        version_info=response.version,
        resources=[AnyMessage(type_url=CLUSTER, value=item.body) for item in response.resources],
        type_url=response.type_url,
        nonce=response.nonce,
        control_plane=PLANE,
    )
    assert sotw_bytes(response, PLANE.SerializeToString()) == expected.SerializeToString()


@given(RESPONSES)
def test_delta(response: Response) -> None:
    expected = DeltaDiscoveryResponse(
        system_version_info=response.version,
        resources=[
            WireResource(
                name=item.name, version=item.version, resource=AnyMessage(type_url=CLUSTER, value=item.body)
            )
            for item in response.resources
        ],
        type_url=response.type_url,
        nonce=response.nonce,
        removed_resources=response.removed,
        control_plane=PLANE,
    )  # fmt: skip
    found = DeltaDiscoveryResponse.FromString(delta_bytes(response, PLANE.SerializeToString()))
    assert found == expected


MORTAL = Resource(CLUSTER, "a", "v.30s", b"body", pack_any(CLUSTER, b"body"), (), 30.0)


def test_a_ttl_is_told_only_to_clients_that_support_it() -> None:
    """Rule 24: wrapped in SotW, in place in delta, without its body as a heartbeat."""
    plain = Response(CLUSTER, "1", "v", (MORTAL,))
    (item,) = DiscoveryResponse.FromString(sotw_bytes(plain)).resources
    assert item == AnyMessage(type_url=CLUSTER, value=b"body")
    assert not DeltaDiscoveryResponse.FromString(delta_bytes(plain)).resources[0].HasField("ttl")
    whole = WireResource(name="a", version="v.30s", resource=AnyMessage(type_url=CLUSTER, value=b"body"))
    whole.ttl.seconds = 30
    wrapped = AnyMessage()
    wrapped.Pack(whole)
    told = Response(CLUSTER, "1", "v", (MORTAL,), ttl=True)
    (item,) = DiscoveryResponse.FromString(sotw_bytes(told)).resources
    assert (item.type_url, WireResource.FromString(item.value)) == (wrapped.type_url, whole)
    assert list(DeltaDiscoveryResponse.FromString(delta_bytes(told)).resources) == [whole]
    beat = Response(CLUSTER, "1", "v", (MORTAL,), ttl=True, heartbeat=True)
    whole.ClearField("resource")
    assert list(DeltaDiscoveryResponse.FromString(delta_bytes(beat)).resources) == [whole]


def test_what_does_not_exist_is_an_error_of_its_own() -> None:
    """Rule 25."""
    response = DiscoveryResponse.FromString(sotw_bytes(Response(CLUSTER, "1", "v", (), missing=("a", "b"))))
    assert [item.resource_name.name for item in response.resource_errors] == ["a", "b"]
    assert {item.error_detail.code for item in response.resource_errors} == {5}


def test_without_a_control_plane() -> None:
    response = Response(CLUSTER, "1", "v", ())
    assert DiscoveryResponse.FromString(sotw_bytes(response)).HasField("control_plane") is False
    assert DeltaDiscoveryResponse.FromString(delta_bytes(response)).nonce == "1"


def test_responses_are_split_below_the_limit_of_grpc() -> None:
    """A larger resource stands alone; removals count by their names; nothing gives nothing."""
    half = b"x" * (MAX_RESPONSE_BYTES // 2)
    changed: dict[str, Resource | None] = {str(number): resource(str(number), "v", half) for number in range(3)}
    changed["large"] = resource("large", "v", half * 3)
    changed["gone"] = None
    assert [list(part) for part in split(changed)] == [["0"], ["1"], ["2"], ["large"], ["gone"]]
    assert list(split({})) == []
    many: dict[str, Resource | None] = {"n" * 1000 + str(number): None for number in range(2500)}
    parts = list(split(many))
    assert len(parts) == 3
    assert {name for part in parts for name in part} == many.keys()
