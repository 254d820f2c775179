"""Layered collections behave as plain ones, whatever base they stand on."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.layered import _REMEMBERED, LayeredMap, LayeredSet, _known, names_of, versions_of

NAMES = st.sampled_from("abcdef")
BASES = st.dictionaries(NAMES, st.sampled_from("12"))


@dataclass(frozen=True)
class Item:
    version: str


def made(versions: dict[str, str]) -> dict[str, Item]:
    return {name: Item(version) for name, version in versions.items()}


@given(st.lists(st.tuples(st.sampled_from(("add", "discard", "rebase")), NAMES, st.frozensets(NAMES))))
def test_a_set(steps: list[tuple[str, str, frozenset[str]]]) -> None:
    layered, plain = LayeredSet(), set[str]()
    for what, name, base in steps:
        if what == "rebase":
            layered.rebase(names_of(dict.fromkeys(base)))
        else:
            getattr(layered, what)(name)
            getattr(plain, what)(name)
        assert layered == plain
        assert len(layered) == len(plain)
        assert [item in layered for item in "abcdef"] == [item in plain for item in "abcdef"]


@given(st.lists(st.tuples(st.sampled_from(("put", "pop")), NAMES, st.sampled_from("12"))), BASES)
def test_a_map_on_a_base(steps: list[tuple[str, str, str]], versions: dict[str, str]) -> None:
    layered: LayeredMap[Item] = LayeredMap()
    plain = made(versions)
    layered.holds_all(made(versions), {})
    for what, name, version in steps:
        if what == "put":
            layered[name] = plain[name] = Item(version)
        else:
            assert layered.pop(name, None) == plain.pop(name, None)
        assert dict(layered.items()) == plain
        assert len(layered) == len(plain)
        assert [layered.get(item) for item in "abcdef"] == [plain.get(item) for item in "abcdef"]


@given(BASES, BASES)
def test_a_map_moves_to_what_it_was_sent(old: dict[str, str], new: dict[str, str]) -> None:
    layered: LayeredMap[Item] = LayeredMap()
    layered.rebase(made({}))
    for versions in (old, new):
        for name in [name for name in layered if name not in versions]:
            del layered[name]
        for name, item in made(versions).items():
            if layered.get(name) != item:
                layered[name] = item
        base = made(versions)
        layered.rebase(base)
        assert dict(layered.items()) == base
        assert not layered.own
        assert not layered.gone


def test_streams_that_begin_forget_nobodys_base() -> None:
    base = made({"a": "1"})
    names_of(base)
    maps: list[LayeredMap[Item]] = [LayeredMap() for _ in range(2 * _REMEMBERED)]
    for layered in maps:
        layered.rebase(base)
    assert id(base) in _known


def test_equal_names_are_one_object() -> None:
    one, other = made({"a": "1", "b": "1"}), made({"b": "2", "a": "1"})
    assert names_of(one) is names_of(other)
    assert versions_of(other) == {"a": "1", "b": "2"}
