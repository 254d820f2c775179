"""The stored form of instances, nodes and ejections."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.registry.codec import (
    decode_ejection,
    decode_instance,
    decode_node,
    encode_ejection,
    encode_instance,
    encode_node,
)
from controlplane.registry.instances import Ejection, Instance, InstancePort, Node
from mesh.vocabulary import HealthStatus, Locality

TEXT = st.text(max_size=8)
NUMBER = st.integers(0, 2**40)
LOCALITY = st.builds(Locality, *[st.sampled_from(["a", "b"])] * 3)
PORT = st.builds(InstancePort, name=TEXT, port=NUMBER, protocol=TEXT, inbound_port=NUMBER)
INSTANCE = st.builds(
    Instance, id=TEXT, node=TEXT, namespace=TEXT, service=TEXT, service_account=TEXT, address=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=2), ports=st.lists(PORT, max_size=2).map(tuple), locality=LOCALITY,
    weight=NUMBER, outbound_port=NUMBER, app_address=TEXT, health=st.sampled_from(HealthStatus), health_reason=TEXT,
    health_since_ms=NUMBER, bypass_possible=st.booleans(), agent=st.booleans(),
)  # fmt: skip


@given(INSTANCE)
def test_instance_round_trip(instance: Instance) -> None:
    assert decode_instance(encode_instance(instance)) == instance


@given(st.builds(Node, name=TEXT, address=TEXT, locality=LOCALITY, version=TEXT, outbound_port=NUMBER))
def test_node_round_trip(node: Node) -> None:
    assert decode_node(encode_node(node)) == node


@given(st.builds(Ejection, cluster=TEXT, endpoint=TEXT, node=TEXT, times=NUMBER, enforced=st.booleans()))
def test_ejection_round_trip(ejection: Ejection) -> None:
    assert decode_ejection(encode_ejection(ejection)) == ejection


def test_canonical() -> None:
    """Equal values are equal bytes, and defaults are left out."""
    one = Node(name="n", address="a", locality=Locality("r", "z"))
    assert encode_node(one) == b'{"address":"a","locality":"r/z","name":"n"}'


def test_unknown_field_is_ignored() -> None:
    """A newer replica may write more."""
    assert decode_node(b'{"address":"a","name":"n","colour":"red"}') == Node(name="n", address="a")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "found a list, expected an object"),
        (b"{", "Expecting property name"),
        (b'{"name":"n"}', "found no address in Node"),
        (b'{"name":1,"address":"a"}', "found name of type int in Node, expected str"),
        (b'{"name":"n","address":"a","outbound_port":true}', "found outbound_port of type bool in Node"),
        (b'{"name":"n","address":"a","locality":"a/b/c/d"}', "expected region/zone/subzone"),
    ],
)
def test_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_node(data)


@pytest.mark.parametrize(
    "data",
    [b'{"labels":{"a":1}}', b'{"labels":[]}', b'{"ports":{}}', b'{"ports":[1]}', b'{"health":"FINE"}'],
)
def test_refused_instance(data: bytes) -> None:
    full = encode_instance(
        Instance(id="i", node="n", namespace="d", service="s", service_account="s", labels={}, address="a", ports=())
    )
    with pytest.raises(ValueError, match=r"found|FINE"):
        decode_instance(full[:-1] + b"," + data[1:])
