"""The profile of the mesh's certificates, read back as a peer reads them."""

import hashlib
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from controlplane.ca.authority import SKEW_S, Authority, Root, create_root
from mesh.identity.spiffe import workload_id

NOW = float(int(time.time()))
WORKLOAD = workload_id("cluster.local", "shop", "orders")


@pytest.fixture(scope="module")
def authority() -> Authority:
    root = create_root("cluster.local", NOW)
    return Authority(root, [root.certificate], trust_domain="cluster.local")


def leaf_of(authority: Authority, **options: object) -> x509.Certificate:
    key = options.get("key") or ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_identity(key.public_key(), WORKLOAD, NOW)  # type: ignore[attr-defined]
    return x509.load_pem_x509_certificate(issued.chain_pem)


def test_an_identity_says_one_uri_and_nothing_else(authority: Authority) -> None:
    """Source: SPIFFE X509-SVID section 2."""
    leaf = leaf_of(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(names.value) == [x509.UniformResourceIdentifier("spiffe://cluster.local/ns/shop/sa/orders")]
    assert names.critical, "RFC 5280 4.2.1.6: critical when the subject is empty"
    assert leaf.subject == x509.Name([])


def test_an_identity_may_serve_and_call_but_not_sign(authority: Authority) -> None:
    """Source: SPIFFE X509-SVID section 4."""
    extensions = leaf_of(authority).extensions
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    usage = extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.crl_sign
    purposes = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert purposes == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}


def test_an_identity_is_backdated_and_lives_a_day(authority: Authority) -> None:
    leaf = leaf_of(authority)
    now = datetime.fromtimestamp(NOW, UTC)
    assert leaf.not_valid_before_utc == now - timedelta(seconds=SKEW_S)
    assert leaf.not_valid_after_utc == now + timedelta(hours=24)


def test_a_short_lived_identity_is_backdated_by_a_tenth_of_its_life() -> None:
    root = create_root("cluster.local", NOW)
    leaf = leaf_of(Authority(root, [root.certificate], trust_domain="cluster.local", leaf_ttl_s=100))
    now = datetime.fromtimestamp(NOW, UTC)
    assert leaf.not_valid_before_utc == now - timedelta(seconds=10)
    assert leaf.not_valid_after_utc == now + timedelta(seconds=100)


def test_no_leaf_outlives_its_root() -> None:
    root = create_root("cluster.local", NOW)
    authority = Authority(root, [root.certificate], trust_domain="cluster.local", leaf_ttl_s=20 * 365 * 86400)
    assert leaf_of(authority).not_valid_after_utc == root.certificate.not_valid_after_utc


def test_serial_numbers_differ(authority: Authority) -> None:
    assert len({leaf_of(authority).serial_number for _ in range(20)}) == 20


def test_an_rsa_leaf_may_encipher_keys(authority: Authority) -> None:
    leaf = leaf_of(authority, key=rsa.generate_private_key(65537, 2048))
    assert leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment


def test_a_strict_verifier_accepts_the_chain(authority: Authority) -> None:
    """cryptography's verifier holds the Web PKI's profile: key ids, criticality, path length."""
    verifier = PolicyBuilder().store(Store([authority.root.certificate])).time(datetime.fromtimestamp(NOW, UTC))
    verified = verifier.build_client_verifier().verify(leaf_of(authority), [])
    assert verified.subjects == [x509.UniformResourceIdentifier(str(WORKLOAD))]

    key = ec.generate_private_key(ec.SECP256R1())
    server = authority.issue_server(key.public_key(), ("mesh.example", "10.0.0.7"), NOW)
    leaf = x509.load_pem_x509_certificate(server.chain_pem)
    for name in ("gossamer-controlplane", "localhost", "mesh.example"):
        verifier.build_server_verifier(x509.DNSName(name)).verify(leaf, [])
    addresses = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.IPAddress
    )
    assert {str(address) for address in addresses} == {"127.0.0.1", "::1", "10.0.0.7"}


def test_a_leaf_cannot_sign_another(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_identity(key.public_key(), WORKLOAD, NOW)
    leaf = x509.load_pem_x509_certificate(issued.chain_pem)
    rogue = Authority(Root(certificate=leaf, key=key), [leaf], trust_domain="cluster.local")
    forged = leaf_of(rogue)
    verifier = PolicyBuilder().store(Store([authority.root.certificate])).time(datetime.fromtimestamp(NOW, UTC))
    with pytest.raises(VerificationError):
        verifier.build_client_verifier().verify(forged, [leaf])


def test_the_root_is_a_root_of_its_trust_domain(authority: Authority) -> None:
    root = authority.root.certificate
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://cluster.local")]
    assert root.not_valid_after_utc - root.not_valid_before_utc > timedelta(days=3649)
    der = root.public_bytes(serialization.Encoding.DER)
    assert authority.root.fingerprint == hashlib.sha256(der).hexdigest()
