"""The token file, and who the author of a request is."""

import hashlib

import pytest

from controlplane.api.auth import ANONYMOUS, Authenticator, check_host, parse_token_file
from mesh.errors import ErrorCode, MeshError

DIGEST = hashlib.sha256(b"s3cret").hexdigest()


def test_the_token_file() -> None:
    text = f"# people\nann:{DIGEST}\n\n  bob : {'a' * 64}\n"
    assert parse_token_file(text, source="f") == {DIGEST: "ann", "a" * 64: "bob"}
    assert parse_token_file(f"ann:{DIGEST.upper()}", source="f") == {DIGEST: "ann"}


@pytest.mark.parametrize("line", ["s3cret", "ann:s3cret", f":{DIGEST}", f"ann:{DIGEST}0", f"ann:{'g' * 64}"])
def test_a_bad_line_is_named_but_not_shown(line: str) -> None:
    with pytest.raises(MeshError) as failure:
        parse_token_file(f"ann:{DIGEST}\n{line}\n", source="tokens")
    assert (failure.value.code, failure.value.subject) == (ErrorCode.SETTINGS, "tokens:2")
    assert "s3cret" not in str(failure.value)


def test_a_file_without_tokens() -> None:
    with pytest.raises(MeshError) as failure:
        parse_token_file("# nobody\n", source="tokens")
    assert failure.value.code is ErrorCode.SETTINGS


def test_authors() -> None:
    assert Authenticator(None).author("") == ANONYMOUS
    known = Authenticator({DIGEST: "ann"})
    assert known.author("Bearer s3cret") == known.author("bearer  s3cret ") == "ann"
    for header in ("", "Bearer", "Bearer ", "Basic s3cret", "s3cret", f"Bearer {DIGEST}"):
        with pytest.raises(MeshError) as failure:
            known.author(header)
        assert failure.value.code is ErrorCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "127.0.0.1:1", "127.8.0.1", "[::1]:1", "LOCALHOST.", ""]
)
def test_names_of_this_machine(host: str) -> None:
    check_host(host, f"http://{host}" if host else "", bound_to_loopback=True)


@pytest.mark.parametrize(
    ("host", "origin", "loopback"),
    [
        ("evil.example", "", True),
        ("localhost.evil.example", "", True),
        ("10.0.0.1", "", True),
        ("localhost", "http://evil.example", True),
        ("localhost:1", "http://localhost:2", True),
        ("mesh.example", "http://evil.example", False),
        ("mesh.example", "null", False),
    ],
)
def test_other_sites(host: str, origin: str, loopback: bool) -> None:
    with pytest.raises(MeshError) as failure:
        check_host(host, origin, bound_to_loopback=loopback)
    assert failure.value.code is ErrorCode.PERMISSION_DENIED


def test_beyond_loopback_any_name_is_ours() -> None:
    check_host("mesh.example:8080", "https://mesh.example:8080", bound_to_loopback=False)
