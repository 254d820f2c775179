"""Names of xDS resources: written and read in one place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.xds import names
from mesh.xds.names import ClusterKey

hosts = st.text("abc019.-*", min_size=1, max_size=40)
subsets = st.text("abc019.-", max_size=20)
ports = st.integers(1, 65535)


@given(st.sampled_from(["outbound", "inbound"]), ports, subsets, hosts)
def test_every_cluster_name_is_read_back(direction: str, port: int, subset: str, host: str) -> None:
    key = ClusterKey(direction, port, subset, host)
    assert ClusterKey.parse(str(key)) == key


@given(hosts, ports, subsets)
def test_outbound_clusters_are_named_as_istio_names_them(host: str, port: int, subset: str) -> None:
    name = names.outbound_cluster(host, port, subset)
    assert name == f"outbound|{port}|{subset}|{host}"
    assert ClusterKey.parse(name) == ClusterKey("outbound", port, subset, host)


@given(ports)
def test_inbound_clusters_have_neither_subset_nor_host(port: int) -> None:
    assert ClusterKey.parse(names.inbound_cluster(port)) == ClusterKey("inbound", port, "", "")


@given(st.text(max_size=60))
def test_any_text_is_a_cluster_name_or_none(text: str) -> None:
    for name in (text, f"outbound|{text}", f"outbound|80|{text}"):
        found = ClusterKey.parse(name)
        assert found is None or ClusterKey.parse(str(found)) == found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "static",
        "outbound|80|v1",
        "outbound|80|v1|a|b",
        "sideways|80||a",
        "outbound|||a",
        "outbound|-1||a",
        "outbound|8_0||a",
        "outbound|\u0668\u0660||a",
        "outbound|" + "9" * 5000 + "||a",
    ],
)
def test_other_names_are_not_ours(name: str) -> None:
    assert ClusterKey.parse(name) is None


@given(st.text("abc019._-", min_size=1, max_size=20), st.text(min_size=1, max_size=40))
def test_every_virtual_host_resource_is_read_back(route_configuration: str, virtual_host: str) -> None:
    name = names.virtual_host_resource(route_configuration, virtual_host)
    assert names.split_virtual_host_resource(name) == (route_configuration, virtual_host)


def test_a_virtual_host_resource_without_its_route_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="expected <route configuration>/<virtual host>"):
        names.split_virtual_host_resource("lonely")


def test_listeners_are_named_by_direction_address_and_port() -> None:
    assert names.outbound_listener("127.0.0.1", 15001) == "outbound_127.0.0.1_15001"
    assert names.inbound_listener("::1", 20000) == "inbound_::1_20000"
