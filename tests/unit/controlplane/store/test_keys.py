"""Keys of the store, and limits of one transaction."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.settings import Settings
from controlplane.store import keys
from controlplane.store.etcd.watch import prefix_end
from controlplane.store.keys import ObjectKey
from controlplane.store.limits import TxnLimits, check_transaction, limits_of, size_bytes
from controlplane.store.protocol import Delete, ModRevisionIs, Put
from mesh.errors import ErrorCode, MeshError

names = st.text("abc019.-", min_size=1, max_size=12)


@given(
    st.one_of(st.just(""), names.filter(lambda name: name != "core")),
    names,
    st.one_of(st.just(""), names),
    names,
    names,
)
def test_every_object_key_is_read_back(group: str, plural: str, namespace: str, name: str, replica: str) -> None:
    key = ObjectKey(group, plural, namespace, name)
    assert ObjectKey.parse(key.object_key()) == key
    assert ObjectKey.parse(key.status_key(replica)) == key
    assert key.object_key().startswith(keys.objects_prefix(group, plural, namespace))
    assert key.object_key().startswith(keys.objects_prefix(group, plural))
    assert key.status_key(replica).startswith(key.status_prefix())


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/gossamer/v1/node/a",
        "/gossamer/v1/obj/",
        "/gossamer/v1/obj/a/b/c",
        "/gossamer/v1/obj/a//c/d",
        "/gossamer/v1/obj/a/b/c/",
        "/gossamer/v1/obj/a/b/c/d/e",
        "/gossamer/v1/status/a/b/c/d",
        "/gossamer/v1/status/a/b/c/d/e/f",
        "/elsewhere/obj/a/b/c/d",
    ],
)
def test_other_keys_are_no_objects(key: str) -> None:
    assert ObjectKey.find(key) is None
    with pytest.raises(ValueError, match="expected one below"):
        ObjectKey.parse(key)


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_a_range_holds_exactly_the_keys_with_its_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    inside = key >= prefix and (end == b"\0" or key < end)
    assert inside == key.startswith(prefix)


@given(st.lists(st.tuples(names, st.binary(max_size=40)), max_size=10, unique_by=lambda item: item[0]))
def test_the_size_is_an_upper_bound_that_grows_with_the_values(items: list[tuple[str, bytes]]) -> None:
    ops = [Put(key, value) for key, value in items]
    assert size_bytes([], ops) >= sum(len(key) + len(value) for key, value in items)
    checks = [ModRevisionIs(key, 1) for key, _ in items]
    assert size_bytes(checks, ops) >= size_bytes([], ops)


def test_limits_as_etcd_was_started() -> None:
    assert limits_of(0, 0) == TxnLimits()
    assert limits_of(500, 0) == TxnLimits(max_ops=500)
    assert limits_of(0, 8_388_608).max_bytes == 8_388_608 - 65_536


def test_the_flags_that_a_refusal_names_are_there() -> None:
    with pytest.raises(MeshError) as caught:
        check_transaction([], [Put("a", b""), Put("b", b"")], TxnLimits(max_ops=1))
    flags = re.findall(r"--(etcd-[a-z-]+)", caught.value.hint)
    assert len(flags) == 2
    assert {flag.replace("-", "_") for flag in flags} <= set(Settings.model_fields)


def test_each_limit_by_itself() -> None:
    limits = TxnLimits(max_ops=3, max_bytes=1000)
    check_transaction([ModRevisionIs("a", 0)] * 3, [Put("a", b""), Delete("b"), Put("c", b"")], limits)
    for checks, ops in (
        ([], [Delete(str(number)) for number in range(4)]),
        ([ModRevisionIs("a", 0)] * 4, []),
        ([], [Put("a", b"x" * 1000)]),
    ):
        with pytest.raises(MeshError) as caught:
            check_transaction(checks, ops, limits)
        assert caught.value.code is ErrorCode.TOO_LARGE
        assert "at most 3 operations" in str(caught.value)
        assert "1000 bytes" in str(caught.value)
    assert limits.batch_ops == 1
