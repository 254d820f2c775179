"""The three kinds of patch, on values. Source of the tables: RFC 7386 appendix A, RFC 6902 appendix A."""

from typing import Any

import pytest

from controlplane.api.patch import JSON, MERGE, STRATEGIC, apply_patch, json_patch, merge_patch
from mesh.errors import ErrorCode, MeshError


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
        ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
        ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
        ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
        ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
        (
            {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {}},
            [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
            {"foo": {"bar": "baz"}, "qux": {"thud": "fred"}},
        ),
        ({"a": {"b": [1]}}, [{"op": "copy", "from": "/a/b", "path": "/c"}], {"a": {"b": [1]}, "c": [1]}),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"a/b": 1}, [{"op": "replace", "path": "/a~1b", "value": 2}], {"a/b": 2}),
    ],
)
def test_json_patch(target: Any, patch: Any, result: Any) -> None:
    before = repr(target)
    assert json_patch(target, patch) == result
    assert repr(target) == before, "the target stays as it was"


@pytest.mark.parametrize(
    ("patch", "code"),
    [
        ([{"op": "test", "path": "/a", "value": 2}], ErrorCode.INVALID),
        ([{"op": "add", "path": "/x/y", "value": 1}], ErrorCode.INVALID),
        ([{"op": "remove", "path": "/x"}], ErrorCode.INVALID),
        ([{"op": "remove", "path": "/list/01"}], ErrorCode.INVALID),
        ([{"op": "add", "path": "/list/9", "value": 1}], ErrorCode.INVALID),
        ([{"op": "add", "path": "a", "value": 1}], ErrorCode.INVALID),
        ([{"op": "add", "path": "/b"}], ErrorCode.INVALID),
        ([{"op": "grow", "path": "/a"}], ErrorCode.UNREADABLE),
        ([{"path": "/a"}], ErrorCode.UNREADABLE),
        ({"op": "remove"}, ErrorCode.UNREADABLE),
        ([{"op": "remove", "path": "/a"}] * 1001, ErrorCode.UNREADABLE),
        ([{"op": "replace", "path": "", "value": 3}], ErrorCode.UNREADABLE),
    ],
)
def test_json_patches_that_cannot_be_applied(patch: Any, code: ErrorCode) -> None:
    with pytest.raises(MeshError) as failure:
        apply_patch(JSON, {"a": 1, "list": [1]}, patch)
    assert failure.value.code is code


def ports(*pairs: tuple[int, str]) -> dict[str, Any]:
    return {"spec": {"ports": [{"port": port, "name": name} for port, name in pairs]}}


@pytest.mark.parametrize(
    ("patch", "result"),
    [
        (ports((81, "ops")), ports((80, "http"), (81, "ops"))),
        ({"spec": {"ports": [{"port": 80, "$patch": "delete"}]}}, ports((81, "admin"))),
        ({"spec": {"ports": [{"port": 82, "name": "x"}]}}, ports((80, "http"), (81, "admin"), (82, "x"))),
        (
            {"spec": {"$setElementOrder/ports": [{"port": 81}, {"port": 80}]}},
            ports((81, "admin"), (80, "http")),
        ),
        ({"spec": {"$patch": "replace", "ports": []}}, {"spec": {"ports": []}}),
        ({"spec": None}, {}),
    ],
)
def test_strategic_merge_joins_ports_by_their_number(patch: Any, result: Any) -> None:
    assert apply_patch(STRATEGIC, ports((80, "http"), (81, "admin")), patch) == result


def test_strategic_merge_of_plain_lists() -> None:
    target = {"spec": {"externalIPs": ["a", "b", "c"]}}
    patch = {"spec": {"$deleteFromPrimitiveList/externalIPs": ["b"]}}
    assert apply_patch(STRATEGIC, target, patch) == {"spec": {"externalIPs": ["a", "c"]}}
    assert apply_patch(STRATEGIC, target, {"spec": {"externalIPs": ["z"]}}) == {"spec": {"externalIPs": ["z"]}}


@pytest.mark.parametrize("media", [MERGE, STRATEGIC])
def test_a_patch_that_is_no_object(media: str) -> None:
    with pytest.raises(MeshError) as failure:
        apply_patch(media, {}, [1])
    assert failure.value.code is ErrorCode.UNREADABLE


def test_a_port_without_its_number() -> None:
    with pytest.raises(MeshError) as failure:
        apply_patch(STRATEGIC, ports((80, "http")), {"spec": {"ports": [{"name": "x"}]}})
    assert "merge key 'port'" in failure.value.message
