"""Label and field selectors, as Kubernetes writes them."""

import pytest

from controlplane.api.selectors import parse_selector
from mesh.errors import ErrorCode, MeshError

OBJECT = {"metadata": {"name": "a", "namespace": "shop", "labels": {"app": "x", "mesh/tier": "web", "empty": ""}}}


@pytest.mark.parametrize(
    ("labels", "selected"),
    [
        ("", True),
        ("app=x", True),
        ("app==x", True),
        ("app = x , mesh/tier = web", True),
        ("app=y", False),
        ("app!=y", True),
        ("missing!=y", True),
        ("app in (x,y)", True),
        ("app in (y, z)", False),
        ("app notin (y)", True),
        ("missing notin (y)", True),
        ("app", True),
        ("!app", False),
        ("!missing", True),
        ("missing", False),
        ("empty=", True),
        ("app in (x,y),mesh/tier in (web),!missing", True),
    ],
)
def test_labels(labels: str, selected: bool) -> None:
    assert parse_selector(labels).selects(OBJECT) is selected


@pytest.mark.parametrize(
    ("fields", "selected"),
    [
        ("metadata.name=a", True),
        ("metadata.name!=a", False),
        ("metadata.namespace=shop,metadata.name=a", True),
        ("metadata.namespace=other", False),
    ],
)
def test_fields(fields: str, selected: bool) -> None:
    assert parse_selector("", fields).selects(OBJECT) is selected


@pytest.mark.parametrize(
    ("labels", "fields", "word"),
    [
        ("a=b=c", "", "a=b=c"),
        ("a in x", "", "labelSelector"),
        ("a in (x", "", "labelSelector"),
        ("=x", "", "labelSelector"),
        ("", "spec.host=a", "spec.host=a"),
        ("", "metadata.name", "fieldSelector"),
    ],
)
def test_what_is_none_is_quoted(labels: str, fields: str, word: str) -> None:
    with pytest.raises(MeshError) as failure:
        parse_selector(labels, fields)
    assert failure.value.code is ErrorCode.UNREADABLE
    assert word in str(failure.value)
