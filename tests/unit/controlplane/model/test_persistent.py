"""Persistent maps against plain ones."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.model.persistent import PersistentIndex, PersistentMap

KEYS = st.integers(0, 600)
STEPS = st.lists(st.tuples(st.dictionaries(KEYS, st.integers(0, 3), max_size=5), st.lists(KEYS, max_size=5)))


@given(STEPS)
def test_is_a_dict(steps: list[tuple[dict[int, int], list[int]]]) -> None:
    """The same as a dict, versions before stay as they were, and the difference is exact."""
    model: dict[int, int] = {}
    current: PersistentMap[int, int] = PersistentMap()
    for puts, deletes in steps:
        before, before_model = current, dict(model)
        current = current.updated(puts, deletes)
        model = {key: value for key, value in {**model, **puts}.items() if key in puts or key not in deletes}
        assert dict(current) == model
        assert len(current) == len(model)
        assert dict(before) == before_model
        changed = {key for key in model.keys() | before_model.keys() if model.get(key) != before_model.get(key)}
        assert current.changed_since(before) == changed
        assert (current is before) == (model == before_model)


def test_shares_what_is_not_touched() -> None:
    full = PersistentMap[int, int]().updated({number: number for number in range(10_000)})
    changed = full.updated({1: -1})
    assert sum(old is not new for old, new in zip(full._shards, changed._shards, strict=True)) == 1


@given(st.lists(st.tuples(st.booleans(), KEYS, st.integers(0, 3)), max_size=20))
def test_index_is_a_dict_of_sets(steps: list[tuple[bool, int, int]]) -> None:
    model: dict[int, set[int]] = {}
    index: PersistentIndex[int, int] = PersistentIndex()
    for add, key, value in steps:
        index = index.updated([(key, value)] if add else [], [] if add else [(key, value)])
        (model.setdefault(key, set()).add if add else model.get(key, set()).discard)(value)
        assert {own: set(index[own]) for own in index} == {own: values for own, values in model.items() if values}
