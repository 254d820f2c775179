"""What is asked for on the command line."""

from collections.abc import Callable
from typing import Any

import pytest

from controlplane.cli.splits.wanted import Mirror, Wanted, headers_of, mirror_of, weights_of
from mesh.errors import ErrorCode, MeshError


def test_weights() -> None:
    assert weights_of(["v1=80", "v2=20%"]) == {"v1": 80, "v2": 20}
    assert weights_of(["green=100", "blue=0"]) == {"green": 100, "blue": 0}
    assert weights_of([]) == {}


def test_mirrors_and_headers() -> None:
    assert mirror_of("v2") == Mirror("v2", 100.0)
    assert mirror_of("v2=0.5%") == Mirror("v2", 0.5)
    assert headers_of(["X-User=ann=b", "x-b=2"]) == {"x-user": "ann=b", "x-b": "2"}


@pytest.mark.parametrize(
    ("read", "given", "words"),
    [
        (weights_of, ["v1=80"], "found a sum of 80, expected percents that add up to 100"),
        (weights_of, ["v1=80", "v2=30"], "a sum of 110"),
        (weights_of, ["v1"], "found v1, expected a subset and its percent"),
        (weights_of, ["v1=x"], "expected a subset and its percent"),
        (weights_of, ["v1=-1", "v2=101"], "found v1=-1"),
        (weights_of, ["v1=12.5", "v2=87.5"], "found v1=12.5"),
        (weights_of, ["v1=50", "v1=50"], "found v1 twice"),
        (weights_of, ["=100"], "expected a DNS label"),
        (weights_of, ["v_1=100"], "expected a DNS label"),
        (mirror_of, "v2=0", "above 0"),
        (mirror_of, "v2=101", "up to 100"),
        (mirror_of, "v2=", "SUBSET=PERCENT"),
        (mirror_of, "=5", "expected a DNS label"),
        (mirror_of, "v2=nan", "SUBSET=PERCENT"),
        (headers_of, ["x-user"], "expected NAME=VALUE"),
        (headers_of, ["x-user="], "expected NAME=VALUE"),
        (headers_of, ["=a"], "expected NAME=VALUE"),
        (headers_of, ["a=1", "A=2"], "found A twice"),
    ],
)
def test_what_is_refused(read: Callable[[Any], Any], given: Any, words: str) -> None:
    with pytest.raises(MeshError) as refused:
        read(given)
    assert words in str(refused.value)
    assert refused.value.code is ErrorCode.SETTINGS


def test_which_subsets_it_uses() -> None:
    wanted = Wanted(weights={"v1": 100, "v2": 0}, mirror=Mirror("v3"))
    assert wanted.used == ("v1", "v3")
    assert wanted.named == ("v1", "v2", "v3")
    assert not wanted.nothing
    assert Wanted(headers={"a": "b"}).nothing
