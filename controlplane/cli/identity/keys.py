"""Keys and certificate requests, made on this machine (decision 14).

Invariant: a key leaves this process only for the files of the client that it was made for.
"""

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NewKey:
    """A key that nobody has signed for yet, and the request (DER) that proves that we hold it."""

    spiffe_id: str
    key_pem: bytes
    csr_der: bytes

    def __repr__(self) -> str:
        return f"NewKey(spiffe_id={self.spiffe_id!r}, key_pem=[redacted])"


def make_key(spiffe_id: str) -> NewKey:
    """An EC P-256 key. The request's name is for people: the control plane decides what it signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    return NewKey(
        spiffe_id=spiffe_id,
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        csr_der=request.public_bytes(serialization.Encoding.DER),
    )
