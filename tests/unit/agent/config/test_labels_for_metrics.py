"""What the metadata of listeners, endpoints and clusters says for metrics."""

import pytest

from mesh.xds import type_url
from tests.support.decoding import Json, assignment, cluster_value, lb_endpoint, listener, tcp, value


def metadata(**own: object) -> Json:
    return {"metadata": {"filter_metadata": own}}


@pytest.mark.parametrize(
    ("fields", "workload"),
    [
        ({}, None),
        (metadata(other={"workload": "w"}), None),
        (metadata(gossamer={}), None),
        (metadata(gossamer={"workload": ""}), ""),
        (metadata(gossamer={"workload": "w;n;s"}), "w;n;s"),
    ],
)
def test_a_listener_says_whose_traffic_it_is(fields: Json, workload: str | None) -> None:
    assert value(type_url.LISTENER, listener({"filters": [tcp()]}, **fields)).workload == workload


def test_an_endpoint_says_who_stands_behind_it() -> None:
    named = {**lb_endpoint(port=1), **metadata(gossamer={"workload": "w;n;s"})}
    made = value(type_url.CLUSTER_LOAD_ASSIGNMENT, assignment(named, lb_endpoint(port=2)))
    assert [endpoint.workload for endpoint in made.endpoints] == ["w;n;s", ""]


@pytest.mark.parametrize(
    ("fields", "service"),
    [
        ({}, None),
        (metadata(istio={}), None),
        (metadata(istio={"services": []}), None),
        (
            metadata(istio={"services": [{"host": "a.ns.svc", "name": "a", "namespace": "ns"}, {"host": "b"}]}),
            ("a.ns.svc", "a", "ns"),
        ),
        (metadata(istio={"services": [{"host": "b"}]}), ("b", "", "")),
    ],
)
def test_a_cluster_says_of_which_service_it_is(fields: Json, service: tuple[str, str, str] | None) -> None:
    assert cluster_value(**fields).service == service
