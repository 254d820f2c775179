"""The key file and what is encrypted under it."""

import stat
from pathlib import Path

import pytest

from controlplane.ca import sealing
from mesh.errors import ErrorCode, MeshError


def test_the_file_is_made_once_and_private(tmp_path: Path) -> None:
    first = sealing.load_or_create(tmp_path / "key")
    again = sealing.load_or_create(tmp_path / "key")
    assert first.key == again.key
    assert len(first.key) == 32
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert first.key.hex() not in repr(first)


def test_what_is_sealed_opens_only_for_its_purpose(tmp_path: Path) -> None:
    key = sealing.load_or_create(tmp_path / "key")
    sealed = key.seal(b"secret", purpose="a")
    assert key.unseal(sealed, purpose="a") == b"secret"
    assert sealed != key.seal(b"secret", purpose="a"), "a nonce is never used twice"
    for wrong in (
        lambda: key.unseal(sealed, purpose="b"),
        lambda: key.unseal(sealed[:-4] + "AAA=", purpose="a"),
        lambda: key.unseal("", purpose="a"),
        lambda: sealing.load_or_create(tmp_path / "other").unseal(sealed, purpose="a"),
    ):
        with pytest.raises(MeshError) as failure:
            wrong()
        assert failure.value.code is ErrorCode.UNREADABLE


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [(b"", 0o600, "0 bytes"), (b"!!!", 0o600, "base64"), (b"AAAA\n", 0o600, "3 bytes"), (b"", 0o644, "chmod 600")],
)
def test_an_unusable_file_is_named(tmp_path: Path, content: bytes, mode: int, words: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(MeshError) as failure:
        sealing.load_or_create(path)
    assert failure.value.code is ErrorCode.SETTINGS
    assert words in str(failure.value)
    assert str(path) in str(failure.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="cannot create it"):
        sealing.load_or_create(tmp_path / "none" / "key")
