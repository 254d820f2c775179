"""Which CSRs and identities are signed, and for whom."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from controlplane.ca.authority import Authority, create_root
from controlplane.ca.grants import NodeGrant, require_workload
from controlplane.ca.signing import MAX_REQUESTS, CertificateRequest, check_requests, public_key_of, sign_all
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import SpiffeId
from tests.support.certificates import csr, request

TD = "cluster.local"
GRANT = NodeGrant(node="node-1", namespaces=("shop", "default"), service_accounts=("orders", "users"))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(ec.generate_private_key(ec.SECP256R1()), id="P-256"),
        pytest.param(ec.generate_private_key(ec.SECP384R1()), id="P-384"),
        pytest.param(rsa.generate_private_key(65537, 2048), id="RSA-2048"),
        pytest.param(ed25519.Ed25519PrivateKey.generate(), id="Ed25519"),
    ],
)
def test_good_keys_are_accepted(key: ec.EllipticCurvePrivateKey) -> None:
    assert public_key_of(csr(key), "requests[0]") == key.public_key()


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA of 1024 bits"),
        (ec.generate_private_key(ec.SECP521R1()), "EC secp521r1"),
        (ec.generate_private_key(ec.SECP256K1()), "EC secp256k1"),
    ],
)
def test_other_keys_are_refused_with_what_was_found(key: ec.EllipticCurvePrivateKey, found: str) -> None:
    with pytest.raises(MeshError) as failure:
        public_key_of(csr(key), "requests[3]")
    assert failure.value.code is ErrorCode.INVALID
    assert failure.value.subject == "requests[3].csr_der"
    assert found in failure.value.message


def test_a_csr_that_was_changed_is_refused() -> None:
    """Every byte: whatever was flipped, no certificate comes of it for a key that did not sign."""
    good = csr()
    key = public_key_of(good, "")
    for position in range(0, len(good), 3):
        bad = bytearray(good)
        bad[position] ^= 0x41
        with pytest.raises(MeshError) as failure:
            public_key_of(bytes(bad), "")
        assert failure.value.code is ErrorCode.INVALID
    assert public_key_of(good, "") == key


@pytest.mark.parametrize(
    "junk", [b"", b"\0", b"-----BEGIN CERTIFICATE REQUEST-----", bytes(20_000), b"\x30\x82\xff\xff"]
)
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(MeshError) as failure:
        public_key_of(junk, "requests[0]")
    assert failure.value.code is ErrorCode.INVALID


def test_the_names_in_the_csr_are_ignored() -> None:
    root = create_root(TD, 1_790_000_000)
    authority = Authority(root, [root.certificate], trust_domain=TD)
    asked = CertificateRequest(
        spiffe_id=f"spiffe://{TD}/node/node-1", csr_der=csr(names=(f"spiffe://{TD}/node/admin", "https://evil.example"))
    )
    (signed,) = sign_all(authority, check_requests([asked], GRANT, TD), 1_790_000_000)
    leaf = x509.load_pem_x509_certificate(signed.certificate.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [f"spiffe://{TD}/node/node-1"]


@pytest.mark.parametrize(
    "identity",
    [f"spiffe://{TD}/node/node-1", f"spiffe://{TD}/ns/shop/sa/orders", f"spiffe://{TD}/ns/default/sa/users"],
)
def test_what_the_grant_allows(identity: str) -> None:
    (checked,) = check_requests([request(identity)], GRANT, TD)
    assert checked.identity == SpiffeId.parse(identity)


@pytest.mark.parametrize(
    "identity",
    [
        f"spiffe://{TD}/node/node-2",
        f"spiffe://{TD}/node/node-1/x",
        f"spiffe://{TD}/ns/bank/sa/orders",
        f"spiffe://{TD}/ns/shop/sa/admin",
        f"spiffe://{TD}/ns/shop/sa/orders/x",
        f"spiffe://{TD}",
        f"spiffe://{TD}/",
        "spiffe://other.domain/node/node-1",
        "spiffe://other.domain/ns/shop/sa/orders",
        f"spiffe://{TD}/ns/*/sa/*",
    ],
)
def test_what_the_grant_does_not_allow(identity: str) -> None:
    with pytest.raises(MeshError) as failure:
        check_requests([request(f"spiffe://{TD}/node/node-1"), request(identity)], GRANT, TD)
    assert failure.value.code in (ErrorCode.PERMISSION_DENIED, ErrorCode.INVALID)
    assert failure.value.subject == "requests[1].spiffe_id"


def test_a_star_allows_any_workload_but_no_other_node() -> None:
    grant = NodeGrant(node="node-1", namespaces=("*",), service_accounts=("*",))
    assert grant.permits(SpiffeId.parse(f"spiffe://{TD}/ns/any/sa/any"), TD)
    assert not grant.permits(SpiffeId.parse(f"spiffe://{TD}/node/node-2"), TD)


@pytest.mark.parametrize("count", [0, MAX_REQUESTS + 1])
def test_the_number_of_requests_is_bounded(count: int) -> None:
    one = request(f"spiffe://{TD}/node/node-1")
    with pytest.raises(MeshError, match=f"found {count} certificate requests"):
        check_requests([one] * count, GRANT, TD)


def test_registration_is_held_to_the_grant() -> None:
    require_workload(GRANT, "node-1", "shop", "orders")
    for grant in (GRANT, None):
        with pytest.raises(MeshError) as failure:
            require_workload(grant, "node-1", "bank", "orders")
        assert failure.value.code is ErrorCode.PERMISSION_DENIED
        assert "namespace bank" in failure.value.message
