"""The frames between two configurations bring a worker from the one to the other, and are no more than needed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.ipc.messages import CLUSTER, KINDS, LISTENER, LOAD_ASSIGNMENT, ROUTE_CONFIGURATION, VIRTUAL_HOST, Put
from agent.model.cluster import Cluster, LoadAssignment
from agent.model.listener import Direction, Listener
from agent.model.route import RouteConfiguration, VirtualHost
from agent.supervisor.changes import changes

_MAKE = {
    CLUSTER: lambda name: Cluster(name=name),
    LOAD_ASSIGNMENT: lambda name: LoadAssignment(cluster=name, endpoints=()),
    ROUTE_CONFIGURATION: lambda name: RouteConfiguration(name=name),
    VIRTUAL_HOST: lambda name: VirtualHost(name=name, domains=("*",), routes=()),
    LISTENER: lambda name: Listener(
        name=name, address="127.0.0.1", port=1, direction=Direction.INBOUND, filter_chains=()
    ),
}
# Two objects of one name that are equal and not the same: what is another object is sent.
_POOL = {kind: {name: [make(name), make(name)] for name in "abc"} for kind, make in _MAKE.items()}
_table = {
    kind: st.dictionaries(st.sampled_from("abc"), st.integers(0, 1), max_size=3).map(
        lambda picks, kind=kind: {name: _POOL[kind][name][pick] for name, pick in picks.items()}
    )
    for kind in KINDS
}
TABLES = st.fixed_dictionaries(_table)


@settings(deadline=None)  # the machine may be busy
@given(TABLES, TABLES)
def test_the_frames_bring_before_to_after(before: Any, after: Any) -> None:
    state = {kind: dict(values) for kind, values in before.items()}
    frames = list(changes(before, after))
    for frame in frames:
        if isinstance(frame, Put):
            assert state[frame.kind].get(frame.name) is not frame.value, "what is there is not sent"
            state[frame.kind][frame.name] = frame.value
        else:
            del state[frame.kind][frame.name]
    assert all(state[kind][name] is value for kind in KINDS for name, value in after[kind].items())
    assert {kind: state[kind].keys() for kind in KINDS} == {kind: after[kind].keys() for kind in KINDS}


@settings(deadline=None)  # the machine may be busy
@given(TABLES)
def test_nothing_changed_makes_no_frame(tables: Any) -> None:
    assert list(changes(tables, {kind: dict(values) for kind, values in tables.items()})) == []


def test_order() -> None:
    """What is named comes before what names it, and goes after it."""
    empty: Any = {kind: {} for kind in KINDS}
    full: Any = {kind: {"a": make("a")} for kind, make in _MAKE.items()}
    order = [LOAD_ASSIGNMENT, CLUSTER, ROUTE_CONFIGURATION, VIRTUAL_HOST, LISTENER]
    assert [frame.kind for frame in changes(empty, full)] == order
    assert [frame.kind for frame in changes(full, empty)] == order[::-1]
