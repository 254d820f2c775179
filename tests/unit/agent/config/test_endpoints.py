"""ClusterLoadAssignments."""

from typing import Any

import pytest

from agent.model.cluster import Endpoint, LoadAssignment
from mesh.vocabulary import HealthStatus, Locality
from mesh.xds import type_url
from tests.support.decoding import address, assignment, lb_endpoint, refusal, value

BEYOND = "expected it unset: the agent does not enforce it"
MOST = 2**32 - 1


def read(made: dict[str, Any]) -> LoadAssignment:
    found: LoadAssignment = value(type_url.CLUSTER_LOAD_ASSIGNMENT, made)
    return found


def test_defaults() -> None:
    assert read(assignment(lb_endpoint())) == LoadAssignment(
        cluster="c", endpoints=(Endpoint(address="10.0.0.1", port=80),), overprovisioning_factor=140
    )


def test_no_endpoints_are_known_too() -> None:
    assert read({"cluster_name": "c"}).endpoints == ()


def test_everything() -> None:
    endpoint = lb_endpoint(
        "fe80:0:0::1",
        health_status="DRAINING",
        load_balancing_weight=3,
        metadata={
            "filter_metadata": {
                "envoy.transport_socket_match": {"b": "2", "a": "1"},
                "envoy.lb": {"canary": True, "hash_key": "k", "other": [1]},
            }
        },
    )
    endpoint["endpoint"]["hostname"] = "h"
    group = {
        "locality": {"region": "r", "zone": "z", "sub_zone": "s"},
        "lb_endpoints": [endpoint],
        "load_balancing_weight": 7,
        "priority": 2,
    }
    found = read({"cluster_name": "c", "endpoints": [group], "policy": {"overprovisioning_factor": 100}})
    assert found == LoadAssignment(
        cluster="c",
        endpoints=(
            Endpoint(
                address="fe80::1",
                port=80,
                health=HealthStatus.DRAINING,
                weight=3,
                locality=Locality("r", "z", "s"),
                locality_weight=7,
                priority=2,
                transport=(("a", "1"), ("b", "2")),
                hostname="h",
                canary=True,
                hash_key="k",
            ),
        ),
        overprovisioning_factor=100,
    )


@pytest.mark.parametrize("status", list(HealthStatus))
def test_health(status: HealthStatus) -> None:
    assert read(assignment(lb_endpoint(health_status=str(status)))).endpoints[0].health is status


def test_the_first_of_one_address_counts() -> None:
    found = read(assignment(lb_endpoint("::1", load_balancing_weight=2), lb_endpoint("0:0::1"), lb_endpoint("::2")))
    assert [(one.key, one.weight) for one in found.endpoints] == [("[::1]:80", 2), ("[::2]:80", 1)]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            assignment(lb_endpoint(), lb_endpoint("a.example.com")),
            "endpoints[0].lb_endpoints[1].endpoint.address.socket_address.address: found 'a.example.com', "
            "expected an IP address",
        ),
        (
            assignment(lb_endpoint(port=0)),
            "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: found 0, expected 1 to 65535",
        ),
        (
            assignment({"endpoint": {}}),
            "endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: found 0, expected 1 to 65535",
        ),
        (
            assignment({"endpoint_name": "x"}),
            f"endpoints[0].lb_endpoints[0].endpoint_name: found 'x', {BEYOND}",
        ),
        (
            assignment({"endpoint": {"address": {"pipe": {"path": "/p"}}}}),
            f"endpoints[0].lb_endpoints[0].endpoint.address.pipe: found a value, {BEYOND}",
        ),
        (
            assignment({"endpoint": {"address": address(), "additional_addresses": [{"address": address()}]}}),
            f"endpoints[0].lb_endpoints[0].endpoint.additional_addresses: found an entry, {BEYOND}",
        ),
        (
            assignment(lb_endpoint(load_balancing_weight=0)),
            "endpoints[0].lb_endpoints[0].load_balancing_weight: found 0, expected at least 1",
        ),
        (
            assignment(lb_endpoint(load_balancing_weight=MOST), lb_endpoint("10.0.0.2")),
            f"endpoints[0].lb_endpoints: found a sum of weights of {MOST + 1}, expected at most {MOST}",
        ),
        (
            assignment(lb_endpoint(health_status=99)),
            "endpoints[0].lb_endpoints[0].health_status: found 99, expected a HealthStatus",
        ),
        (
            assignment(lb_endpoint(metadata={"filter_metadata": {"envoy.transport_socket_match": {"a": 1}}})),
            'endpoints[0].lb_endpoints[0].metadata.filter_metadata["envoy.transport_socket_match"]["a"]: '
            "found 'number_value', expected a string",
        ),
        (
            {"cluster_name": "c", "endpoints": [{"priority": 129}]},
            "endpoints[0].priority: found 129, expected at most 128",
        ),
        (
            {"cluster_name": "c", "endpoints": [{"load_balancing_weight": MOST}, {"load_balancing_weight": 1}]},
            f"endpoints[1].load_balancing_weight: found a sum of weights of {MOST + 1}, expected at most {MOST}",
        ),
        (
            assignment(policy={"drop_overloads": [{"category": "c", "drop_percentage": {"numerator": 1}}]}),
            f"policy.drop_overloads: found an entry, {BEYOND}",
        ),
        (assignment(policy={"endpoint_stale_after": "5s"}), f"policy.endpoint_stale_after: found a value, {BEYOND}"),
        (
            assignment(policy={"weighted_priority_health": True}),
            f"policy.weighted_priority_health: found True, {BEYOND}",
        ),
        (
            assignment(policy={"overprovisioning_factor": 0}),
            "policy.overprovisioning_factor: found 0, expected more than 0",
        ),
        (
            {"cluster_name": "c", "endpoints": [{"leds_cluster_locality_config": {"leds_collection_name": "x"}}]},
            f"endpoints[0].leds_cluster_locality_config: found a value, {BEYOND}",
        ),
    ],
    ids=lambda value: str(value)[:80],
)  # fmt: skip
def test_refused(made: dict[str, Any], expected: str) -> None:
    text = refusal(type_url.CLUSTER_LOAD_ASSIGNMENT, made)
    assert text == expected


def test_weights_of_different_priorities_are_not_summed() -> None:
    groups = [{"load_balancing_weight": MOST}, {"load_balancing_weight": MOST, "priority": 1}]
    assert read({"cluster_name": "c", "endpoints": groups}).endpoints == ()
