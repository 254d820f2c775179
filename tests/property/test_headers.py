"""Header fields under every operation against a list of (name, value)."""

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec.head import Headers
from tests.support.depth import examples

NAMES = st.sampled_from([b"a", b"A", b"b", b"Cookie", b"x-long"])
VALUES = st.sampled_from([b"", b"v", b"w", b"v, w", b"v; w", b"a: v"])
NAME_SETS = st.frozensets(st.sampled_from([b"a", b"b", b"cookie", b"x-long", b"other"]))
OPERATIONS = st.one_of(
    st.tuples(st.just("append"), NAMES, VALUES),
    st.tuples(st.just("set"), NAMES, VALUES),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("remove_all"), NAME_SETS),
)


@settings(max_examples=examples(400))
@given(st.lists(OPERATIONS, max_size=12))
def test_lines_and_index_say_the_same_as_a_list_of_fields(operations: list[tuple[object, ...]]) -> None:
    headers, fields = Headers(), list[tuple[bytes, bytes]]()
    for operation in operations:
        match operation:
            case ("append", bytes(name), bytes(value)):
                headers.append(name, value)
                fields.append((name, value))
            case ("set", bytes(name), bytes(value)):
                headers.set(name, value)
                fields = [*without(fields, {name.lower()}), (name, value)]
            case ("remove", bytes(name)):
                headers.remove(name.lower())
                fields = without(fields, {name.lower()})
            case ("remove_all", frozenset() as names):
                headers.remove_all(names)
                fields = without(fields, names)
    assert headers.lines == [name + b": " + value for name, value in fields]
    assert headers.index == joined(fields)


def without(fields: list[tuple[bytes, bytes]], names: frozenset[bytes] | set[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in fields if name.lower() not in names]


def joined(fields: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        found.setdefault(name.lower(), []).append(value)
    return {name: (b"; " if name == b"cookie" else b", ").join(values) for name, values in found.items()}
