"""How an etcd is named, and its TLS files."""

from pathlib import Path

import pytest

from controlplane.store.etcd.options import EtcdOptions, target, targets, tls_material
from mesh.errors import ErrorCode, MeshError
from mesh.secret import Secret


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("127.0.0.1:2379", "ipv4:127.0.0.1:2379"),
        ("127.0.0.1", "ipv4:127.0.0.1:2379"),
        ("http://10.0.0.1:1234/", "ipv4:10.0.0.1:1234"),
        ("https://etcd.example:2379", "dns:///etcd.example:2379"),
        ("etcd-0", "dns:///etcd-0:2379"),
        ("[::1]:2379", "ipv6:[::1]:2379"),
        ("[2001:db8::1]", "ipv6:[2001:db8::1]:2379"),
    ],
)
def test_an_endpoint_is_a_target(endpoint: str, expected: str) -> None:
    assert target(endpoint) == expected


@pytest.mark.parametrize("endpoint", ["", ":2379", "host:", "host:port", "host:0", "host:65536", "http://", "[::1]x"])
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(MeshError, match="expected host:port") as caught:
        target(endpoint)
    assert caught.value.code is ErrorCode.SETTINGS


def test_there_must_be_one() -> None:
    with pytest.raises(MeshError, match="found no etcd endpoint"):
        targets(EtcdOptions(endpoints=()))


def test_tls_is_used_when_something_says_so(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_bytes(name.encode())
    assert tls_material(EtcdOptions(endpoints=("a:1",))) is None
    material = tls_material(EtcdOptions(endpoints=("https://a:1",)))
    assert material is not None
    assert (material.roots, material.key, material.chain) == (None, None, None)
    material = tls_material(
        EtcdOptions(endpoints=("a:1",), ca_file=tmp_path / "ca", cert_file=tmp_path / "cert", key_file=tmp_path / "key")
    )
    assert material is not None
    assert (material.roots, material.key, material.chain) == (b"ca", b"key", b"cert")


def test_half_a_key_pair_or_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="expected both or none"):
        tls_material(EtcdOptions(endpoints=("a:1",), cert_file=tmp_path / "cert"))
    with pytest.raises(MeshError) as caught:
        tls_material(EtcdOptions(endpoints=("a:1",), ca_file=tmp_path / "none"))
    assert caught.value.subject == "--etcd-ca"
    assert str(tmp_path / "none") in str(caught.value)


def test_the_password_does_not_print() -> None:
    assert "hunter2" not in repr(EtcdOptions(endpoints=("a:1",), user="u", password=Secret("hunter2")))
