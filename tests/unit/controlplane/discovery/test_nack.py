"""Which resources a NACK means, by our agent's typed list and by the words of other clients."""

from google.rpc.status_pb2 import Status

from controlplane.discovery.nack import named_in
from mesh.xds.nack import error_detail

A = "outbound|80||a.default.svc.cluster.local"
A_V1 = "outbound|80|v1|a.default.svc.cluster.local"
LONGER = "outbound|80||a.default.svc.cluster.local.x"
KNOWN = (A, A_V1, LONGER, "l_0.0.0.0_15001", "outbound.default/a:80")


def test_the_agents_list_is_taken_as_it_is() -> None:
    assert named_in(error_detail({A: "no such balancer", A_V1: "also not"}), KNOWN) == {
        A: "no such balancer",
        A_V1: "also not",
    }
    # What the response did not carry cannot have been refused with it.
    assert named_in(error_detail({"other": "no"}), KNOWN) == {}


def test_names_in_envoys_words() -> None:
    """As real Envoys write them (tests/conformance holds Envoy 1.40 to it)."""
    text = f"Error adding/updating cluster(s) {A}: cluster: bad regex, {A_V1}: no"
    assert named_in(Status(message=text), KNOWN).keys() == {A, A_V1}
    text = "Error adding/updating listener(s) l_0.0.0.0_15001: error adding listener '0.0.0.0_15001': no"
    assert named_in(Status(message=text), KNOWN).keys() == {"l_0.0.0.0_15001"}
    assert named_in(Status(message="Only unique values for domains: outbound.default/a:80"), KNOWN).keys() == {
        "outbound.default/a:80"
    }


def test_a_name_is_a_whole_word() -> None:
    assert named_in(Status(message=f"cluster {LONGER}: no"), KNOWN).keys() == {LONGER}
    assert named_in(Status(message="something is wrong"), KNOWN) == {}
    assert named_in(Status(message=""), ("", "a")) == {}
    assert named_in(Status(message=f"{A}."), KNOWN).keys() == {A}  # the end of a sentence


def test_reasons_are_bounded() -> None:
    (reason,) = named_in(Status(message=f"{A}: {'x' * 5000}"), KNOWN).values()
    assert len(reason) == 1024
