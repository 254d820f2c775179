"""The fuzz targets without a fuzzer: every seed, and seeds that were changed a little. `make fuzz` goes further."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS
from tests.support.depth import examples


@functools.cache
def seeds(target: Target) -> list[bytes]:
    return target.seeds()


@st.composite
def changed(draw: st.DrawFn, target: Target) -> bytes:
    """A seed with some of its bytes replaced by others, by pieces, or by a part of another seed."""
    known = st.sampled_from(seeds(target))
    data = bytearray(draw(known))
    for _ in range(draw(st.integers(0, 4))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        other = draw(known)
        start = draw(st.integers(0, len(other)))
        new = draw(st.one_of(st.binary(max_size=4), st.sampled_from(target.pieces), st.just(other[start : start + 60])))
        data[at : at + size] = new
    return bytes(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_seeds_hold(target: Target) -> None:
    for seed in seeds(target):
        target.check(seed)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_changed_seeds_hold(target: Target) -> None:
    @settings(max_examples=examples(150))
    @given(changed(target))
    def check(data: bytes) -> None:
        target.check(data)

    check()
