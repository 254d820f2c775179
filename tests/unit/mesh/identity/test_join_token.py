"""The join token: its form, and the pinned root."""

import hashlib

import pytest

from mesh.errors import ErrorCode, MeshError
from mesh.identity import join_token

ROOT = hashlib.sha256(b"root").hexdigest()
TEXT = f"0123456789abcdef.s3cr-et_.{ROOT}"


def test_the_three_parts_are_read_and_the_secret_does_not_print() -> None:
    held = join_token.parse(f"  {TEXT}\n", "t")
    assert (held.id, held.secret.reveal(), held.root_sha256) == ("0123456789abcdef", "s3cr-et_", ROOT)
    assert "s3cr-et_" not in repr(held)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "a.b",
        "a.b.c",
        f"a.b.{ROOT[:-1]}",
        f"a.b.{ROOT.upper()}",
        f"a.b.{'g' * 64}",
        f"a.b.{ROOT}.c",
        f"a..{ROOT}",
        f"a.b c.{ROOT}",
        "\u00e4",
    ],
)
def test_what_is_no_token_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(MeshError) as caught:
        join_token.parse(text, "--token")
    assert caught.value.code is ErrorCode.SETTINGS
    assert str(caught.value) == "--token: found something else than a join token (meshctl token create)"


def test_the_pinned_root_is_found_wherever_it_stands_in_the_chain() -> None:
    held = join_token.parse(TEXT, "t")
    for chain in ([b"root"], [b"leaf", b"root"], [b"x", b"root", b"y"]):
        assert join_token.pinned(chain, held, "cp") == b"root"


@pytest.mark.parametrize("chain", [[], [b"leaf"], [b"leaf", b"other root"]])
def test_a_chain_without_the_pinned_root_is_refused(chain: list[bytes]) -> None:
    with pytest.raises(MeshError, match="the secret was not sent") as caught:
        join_token.pinned(chain, join_token.parse(TEXT, "t"), "cp:1")
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    assert caught.value.subject == "cp:1"
