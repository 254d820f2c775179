"""Ports that the agent chooses, once and for good (decisions 9 and 10)."""

import json
import socket
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.workloads import ports
from agent.workloads.ports import PortBook
from mesh.errors import ErrorCode, MeshError


def book(low: int = 20000, high: int = 20003, chosen: dict[str, int] | None = None) -> PortBook:
    return PortBook("inbound", low, high, chosen)


def anything(_: int) -> bool:
    return True


def test_the_first_free_port_is_chosen_and_kept() -> None:
    made = book()
    assert made.choose("a", live=[], usable=anything) == 20000
    assert made.choose("b", live=[], usable=anything) == 20001
    assert made.choose("a", live=[], usable=lambda _: False) == 20000


def test_a_port_in_use_is_passed_over() -> None:
    assert book().choose("a", live=[], usable=lambda port: port != 20000) == 20001


def test_choices_outside_the_range_or_doubled_are_not_kept() -> None:
    made = book(chosen={"a": 20001, "b": 19999, "c": 20004, "d": 20002, "e": 20002})
    assert made.chosen == {"a": 20001}
    assert made.choose("d", live=[], usable=anything) == 20000


def test_the_oldest_choice_of_a_key_that_is_gone_is_given_away() -> None:
    made = book()
    for key in "abcd":
        made.choose(key, live=[], usable=anything)
    assert made.choose("e", live=["a", "c"], usable=anything) == 20001
    assert made.chosen == {"a": 20000, "c": 20002, "d": 20003, "e": 20001}
    with pytest.raises(MeshError, match="no free inbound port from 20000 to 20003") as caught:
        made.choose("f", live=["a", "c", "d", "e"], usable=anything)
    assert caught.value.code is ErrorCode.CONFLICT
    assert "inbound_port_range" in caught.value.hint


def test_a_port_of_the_users_choice_is_taken_unless_it_is_anothers() -> None:
    made = PortBook("outbound", 15100, 65535)
    assert made.pin("a", 15105)
    assert made.pin("a", 15105)
    assert not made.pin("b", 15105)
    assert made.pin("a", 15106)
    assert made.pin("b", 15105)


@given(
    st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh"))), max_size=30),
    st.sets(st.integers(20000, 20003)),
)
def test_two_keys_never_share_a_port_and_live_keys_keep_theirs(
    asked: list[tuple[str, set[str]]], busy: set[int]
) -> None:
    made = book()
    for key, live in asked:
        before = dict(made.chosen)
        try:
            port = made.choose(key, live=live | {key}, usable=lambda port: port not in busy)
        except MeshError:
            port = 20000
        assert 20000 <= port <= 20003
        assert len(set(made.chosen.values())) == len(made.chosen)
        assert all(made.chosen[other] == before[other] for other in live if other in before)


def test_choices_outlive_the_process(tmp_path: Path) -> None:
    inbound, outbound = book(chosen={"a:3001": 20002}), PortBook("outbound", 15100, 65535, {"a": 15100})
    ports.save(tmp_path, (inbound, outbound))
    assert ports.load(tmp_path) == ({"inbound": {"a:3001": 20002}, "outbound": {"a": 15100}}, "")
    assert stat.S_IMODE((tmp_path / ports.FILE).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [ports.FILE]


def test_no_file_is_no_problem(tmp_path: Path) -> None:
    assert ports.load(tmp_path) == ({}, "")


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "\x00", '{"schema": 2}', '{"schema": 1}', '{"schema": 1, "inbound": 7, "outbound": {}}'),
        json.dumps({"schema": 1, "inbound": {"a": "x"}, "outbound": {}}),
    ],
)
def test_a_damaged_file_is_reported_and_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / ports.FILE).write_text(text)
    found, problem = ports.load(tmp_path)
    assert found == {}
    assert str(tmp_path / ports.FILE) in problem


def test_a_port_on_which_somebody_listens_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.in_use("127.0.0.1", port)
    assert not ports.in_use("127.0.0.1", port)
    assert not ports.in_use("192.0.2.1", port), "not an address of this machine: binding will say so"
