"""Normalised paths: what Envoy makes of them with normalize_path, and what we refuse beside that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.filters.paths import needs_work, normalized


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"/a/b", b"/a/b"),
        (b"/a/../b", b"/b"),
        (b"/a/./b/.", b"/a/b/"),
        (b"/a/b/..", b"/a/"),
        (b"/..", b"/"),
        (b"/../../a", b"/a"),
        (b"/a/%2e%2E/b", b"/b"),
        (b"/%7Euser/%41", b"/~user/A"),
        (b"/a%2fb", b"/a%2fb"),
        (b"/a/%2e%2e%2fb", b"/a/..%2fb"),  # an encoded slash separates nothing
        (b"/%252e%252e/a", b"/%252e%252e/a"),  # decoded once
        (b"/a/%zz", b"/a/%zz"),
        (b"/a?x=/../b&y=%2e", b"/a?x=/../b&y=%2e"),
        (b"/a/..?x", b"/?x"),
        (b"/...", b"/..."),
        (b"/a//b", b"/a//b"),
        # As Envoy 1.40 answered.
        (b"/sep//a/./b/../c/%7Eu%2f%2e%2e%41%zz", b"/sep//a/c/~u%2f..A%zz"),
        (b"/%2%65%2%65/x", b"/%252e%252e/x"),
        (b"/%%32e%%32e/x", b"/%252e%252e/x"),
        (b"/%2%65%2%65/../x", b"/x"),
        (b"/%%36%35", b"/%2565"),
        (b"/%2%35", b"/%2525"),
        (b"/%%41B", b"/%25AB"),
        (b"/%%41%42", b"/%25AB"),
        (b"/%%%41B", b"/%%25AB"),
        (b"/%a%41", b"/%25aA"),
        (b"/%%41x", b"/%Ax"),
        (b"/%zz%41", b"/%zzA"),
        (b"/a%%2e/x", b"/a%./x"),
    ],
)
def test_normalized(target: bytes, expected: bytes) -> None:
    assert normalized(target, False) == expected
    assert needs_work(target, False) or target == expected


@pytest.mark.parametrize("target", [b"/a%00", b"/a\\b", b"/a\\..\\b", b"/%00/../a"])
def test_refused(target: bytes) -> None:
    assert needs_work(target, False)
    assert normalized(target, False) is None


def test_slashes_are_merged_when_asked() -> None:
    assert normalized(b"//a///b//?x=//", True) == b"/a/b/?x=//"
    assert needs_work(b"/a//b", True)
    assert not needs_work(b"/a//b", False)


PIECES = st.sampled_from(
    [b"/", b".", b"..", b"a", b"%2e", b"%2E", b"%2f", b"%41", b"%", b"%zz", b"%6", b"%65", b"%32", b"2", b"?", b"~"]
)


@given(st.lists(PIECES, max_size=12).map(lambda parts: b"/" + b"".join(parts)), st.booleans())
def test_once_is_enough_and_no_dot_segment_is_left(target: bytes, merge: bool) -> None:
    """Normalising twice changes nothing more, and no target that needs no work would change."""
    once = normalized(target, merge)
    assert once is not None
    assert once[:1] == b"/"
    assert normalized(once, merge) == once
    segments = once.partition(b"?")[0].split(b"/")
    assert b"." not in segments
    assert b".." not in segments
    if not needs_work(target, merge):
        assert once == target
