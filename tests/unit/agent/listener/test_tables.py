"""Changes name exactly what has to be built anew, and applied in order they give what the tables hold."""

import os
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ipc.messages import CLUSTER, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION, VIRTUAL_HOST
from agent.listener.tables import Change, NonsenseError, Tables
from agent.model.cluster import Cluster, Endpoint, LoadAssignment
from agent.model.listener import Direction, Listener
from agent.model.route import RouteConfiguration, VirtualHost


def eds(name: str, endpoints: str) -> Cluster:
    return Cluster(name=name, eds_name=endpoints)


def hosts(name: str, *addresses: str) -> LoadAssignment:
    return LoadAssignment(cluster=name, endpoints=tuple(Endpoint(address=address, port=80) for address in addresses))


def virtual_host(name: str) -> VirtualHost:
    return VirtualHost(name=name, domains=(name,), routes=())


def listener(name: str, port: int = 1) -> Listener:
    return Listener(name=name, address="127.0.0.1", port=port, direction=Direction.INBOUND, filter_chains=())


def test_a_cluster_is_built_with_its_endpoints() -> None:
    tables = Tables()
    tables.put(LOAD_ASSIGNMENT, "e", hosts("e", "10.0.0.1"))
    tables.put(CLUSTER, "c", eds("c", "e"))
    assert tables.take(1).clusters == {"c": (eds("c", "e"), hosts("e", "10.0.0.1"))}
    assert tables.take(2) == Change([2]), "nothing has changed since"


def test_endpoints_touch_the_clusters_that_name_them() -> None:
    tables = Tables()
    for name, endpoints in (("a", "e"), ("b", "e"), ("c", "other")):
        tables.put(CLUSTER, name, eds(name, endpoints))
    tables.take(1)
    tables.put(LOAD_ASSIGNMENT, "e", hosts("e", "10.0.0.1"))
    assert tables.take(2).clusters.keys() == {"a", "b"}
    tables.put(CLUSTER, "a", eds("a", "other"))
    tables.take(3)
    tables.remove(LOAD_ASSIGNMENT, "e")
    assert tables.take(4).clusters == {"b": (eds("b", "e"), None)}


def test_static_clusters_have_their_own() -> None:
    tables = Tables()
    value = Cluster(name="s", static=hosts("s", "127.0.0.1"))
    tables.put(CLUSTER, "s", value)
    assert tables.take(1).clusters == {"s": (value, value.static)}
    tables.put(LOAD_ASSIGNMENT, "", hosts(""))
    assert tables.take(2).clusters == {}


def test_a_virtual_host_touches_its_route_configuration() -> None:
    tables = Tables()
    config = RouteConfiguration(name="r", vhds=True)
    tables.put(VIRTUAL_HOST, "r/a/with/slashes", virtual_host("a"))
    tables.put(ROUTE_CONFIGURATION, "r", config)
    tables.put(ROUTE_CONFIGURATION, "other", RouteConfiguration(name="other"))
    assert tables.take(1).routes["r"] == (config, (virtual_host("a"),))
    tables.put(VIRTUAL_HOST, "r/b", virtual_host("b"))
    assert tables.take(2).routes == {"r": (config, (virtual_host("a"), virtual_host("b")))}
    tables.remove(VIRTUAL_HOST, "r/a/with/slashes")
    assert tables.take(3).routes == {"r": (config, (virtual_host("b"),))}
    tables.remove(ROUTE_CONFIGURATION, "r")
    assert tables.take(4).routes == {"r": None}


def test_later_changes_are_merged_and_the_last_word_counts() -> None:
    tables = Tables()
    tables.put(CLUSTER, "a", eds("a", "e"))
    tables.put(LISTENER, "l", listener("l"))
    first = tables.take(1)
    tables.remove(CLUSTER, "a")
    tables.put(LISTENER, "l", listener("l", 2))
    first.follow(tables.take(2))
    assert first == Change([1, 2], clusters={"a": None}, listeners={"l": listener("l", 2)})


def test_sockets_travel_with_the_commit_and_none_is_lost() -> None:
    tables = Tables()
    with socket.socket() as one, socket.socket() as two, socket.socket() as three:
        tables.add_socket("l", os.dup(one.fileno()))
        tables.add_socket("l", os.dup(two.fileno()))
        first = tables.take(1)
        assert list(first.sockets) == ["l"]
        replaced = first.sockets["l"]
        tables.add_socket("l", os.dup(three.fileno()))
        first.follow(tables.take(2))
        assert replaced.fileno() == -1, "the one that was never used is closed"
        first.sockets["l"].close()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("weather", "x", listener("x")),
        (CLUSTER, "x", listener("x")),
        (LISTENER, "x", eds("x", "e")),
        (VIRTUAL_HOST, "no-slash", virtual_host("x")),
    ],
)
def test_nonsense_is_refused(kind: str, name: str, value: Any) -> None:
    with pytest.raises(NonsenseError):
        Tables().put(kind, name, value)
    if kind in ("weather", VIRTUAL_HOST):
        with pytest.raises(NonsenseError):
            Tables().remove(kind, name)


_names = st.sampled_from("ab")
_values = {
    CLUSTER: st.builds(lambda endpoints: eds("x", endpoints), _names),
    LOAD_ASSIGNMENT: st.builds(lambda address: hosts("x", address), _names),
    ROUTE_CONFIGURATION: st.builds(lambda server: RouteConfiguration(name="x", vhds=server == "a"), _names),
    VIRTUAL_HOST: st.builds(virtual_host, _names),
    LISTENER: st.builds(lambda port: listener("x", port), st.integers(1, 3)),
}
_put = st.sampled_from(sorted(_values)).flatmap(
    lambda kind: st.tuples(st.just(kind), _names, st.one_of(st.none(), _values[kind]))
)
_STEPS = st.lists(st.one_of(_put, st.just(None)), max_size=40)  # None = take


@settings(deadline=None)  # the machine may be busy
@given(_STEPS)
def test_changes_add_up_to_the_tables(steps: list[Any]) -> None:
    """A dumb model holds everything and builds all of it; the changes, one after the other, give the same."""
    tables = Tables()
    held: dict[str, dict[str, Any]] = {kind: {} for kind in _values}
    built: dict[str, dict[str, Any]] = {"clusters": {}, "routes": {}, "listeners": {}}
    for step in [*steps, None]:
        if step is None:
            change = tables.take(1)
            for kind, found in built.items():
                for name, value in getattr(change, kind).items():
                    found[name] = value
            continue
        kind, name, value = step
        name = f"{name}/h" if kind == VIRTUAL_HOST else name
        if value is None:
            tables.remove(kind, name)
            held[kind].pop(name, None)
        else:
            tables.put(kind, name, value)
            held[kind][name] = value
    expected = {
        "clusters": {name: (one, held[LOAD_ASSIGNMENT].get(one.eds_name)) for name, one in held[CLUSTER].items()},
        "routes": {
            name: (config, tuple(host for own, host in held[VIRTUAL_HOST].items() if own == f"{name}/h"))
            for name, config in held[ROUTE_CONFIGURATION].items()
        },
        "listeners": held[LISTENER],
    }
    assert {kind: {k: v for k, v in found.items() if v is not None} for kind, found in built.items()} == expected
