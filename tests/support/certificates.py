"""Keys and CSRs for tests, as an agent makes them."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from controlplane.ca.signing import CertificateRequest

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def key_pem(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def csr(key: PrivateKey | None = None, *, names: tuple[str, ...] = ()) -> bytes:
    """A CSR in DER; `names` are URI names that it asks for (and must not get)."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names]), critical=False
        )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def request(spiffe_id: str, key: PrivateKey | None = None) -> CertificateRequest:
    return CertificateRequest(spiffe_id=spiffe_id, csr_der=csr(key))


def made_pair(kind: str, *, until: int = 2120) -> tuple[str, str]:
    """(certificate that signs itself, its key) in PEM, valid until that year. `kind`: P-224, P-256, RSA-1024, ..."""
    family, _, size = kind.partition("-")
    curves = {"224": ec.SECP224R1, "256": ec.SECP256R1, "384": ec.SECP384R1}
    key = rsa.generate_private_key(65537, int(size)) if family == "RSA" else ec.generate_private_key(curves[size]())
    return self_signed(key, until=until).decode(), key_pem(key).decode()


def self_signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *, until: int = 2120) -> bytes:
    """A certificate in PEM that signs itself, valid from 2020."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(until, 1, 1, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
