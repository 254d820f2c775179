"""The user's certificates are tried before a worker gets them."""

import base64

import pytest

from agent.identity.user_secrets import why_not
from agent.model.tls import KeyPair
from tests.support.identities import TestAuthority

AUTHORITY = TestAuthority()
FIRST, SECOND = (AUTHORITY.issue(f"spiffe://td/{name}") for name in ("first", "second"))


def pem(label: str, data: bytes) -> bytes:
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label.encode(), base64.b64encode(data), label.encode())


def test_what_can_be_used() -> None:
    assert why_not(FIRST, b"") == ""
    assert why_not(None, AUTHORITY.trust_pem) == ""
    assert why_not(None, b"") == ""


@pytest.mark.parametrize(
    ("chain", "key"),
    [
        (FIRST.chain_pem, SECOND.key_pem),
        (pem("CERTIFICATE", b"0hunter2"), FIRST.key_pem),
        (FIRST.chain_pem, pem("PRIVATE KEY", b"0hunter2")),
        (FIRST.chain_pem, pem("ENCRYPTED PRIVATE KEY", b"0hunter2")),
    ],
    ids=["another key", "no certificate", "no key", "under a password"],
)
def test_a_pair_that_cannot_be_used(chain: bytes, key: bytes) -> None:
    found = why_not(KeyPair(identity="kubernetes://a", chain_pem=chain, key_pem=key), b"")
    assert found.startswith("found what OpenSSL does not load (")
    assert found.endswith("expected a certificate that fits its key")
    assert "hunter2" not in found


def test_roots_that_cannot_be_used() -> None:
    assert why_not(None, pem("CERTIFICATE", b"0x")).endswith("expected certificates")
