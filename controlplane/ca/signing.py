"""From certificate requests to certificates: is the CSR sound, may the node have this identity, then sign.

Owns:   which keys are accepted, the limits of one request, the check against the grant.
Not:    the certificate's form (authority.py), tokens (tokens.py).
Source: design: the CSR proves possession of the key; its own names are ignored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from controlplane.ca.authority import Authority, IssuedCertificate, LeafPublicKey
from controlplane.ca.grants import NodeGrant
from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import SpiffeId

MAX_REQUESTS = 64
_MAX_CSR_BYTES = 16 << 10
_MIN_RSA_BITS, _MAX_RSA_BITS = 2048, 8192
_WEAK_HASHES = (hashes.SHA1, hashes.MD5)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRequest:
    """Which identity the certificate shall say, and the CSR (DER) that brings its key."""

    spiffe_id: str
    csr_der: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """A request whose key and identity are good for the node."""

    identity: SpiffeId
    public_key: LeafPublicKey


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedIdentity:
    """One signed certificate and the identity it says."""

    identity: SpiffeId
    certificate: IssuedCertificate


def check_requests(
    requests: Sequence[CertificateRequest], grant: NodeGrant, trust_domain: str
) -> tuple[CheckedRequest, ...]:
    """Check everything that the node asks for. Raises INVALID or PERMISSION_DENIED naming the request."""
    if not 0 < len(requests) <= MAX_REQUESTS:
        raise _invalid("requests", f"found {len(requests)} certificate requests, expected 1 to {MAX_REQUESTS}")
    checked = []
    for index, request in enumerate(requests):
        field = f"requests[{index}]"
        identity = _parse_identity(request.spiffe_id, field)
        if not grant.permits(identity, trust_domain):
            raise MeshError(
                ErrorCode.PERMISSION_DENIED,
                f"node {grant.node} may not have identity {identity}",
                subject=f"{field}.spiffe_id",
                hint="its join token does not allow this namespace or service account",
            )
        checked.append(CheckedRequest(identity=identity, public_key=public_key_of(request.csr_der, field)))
    return tuple(checked)


def sign_all(authority: Authority, requests: Sequence[CheckedRequest], now_s: float) -> tuple[SignedIdentity, ...]:
    """Sign checked requests, in their order."""
    return tuple(
        SignedIdentity(
            identity=request.identity,
            certificate=authority.issue_identity(request.public_key, request.identity, now_s),
        )
        for request in requests
    )


def public_key_of(csr_der: bytes, field: str) -> LeafPublicKey:
    """The key of a CSR whose signature proves that its sender holds it. Raises INVALID."""
    if len(csr_der) > _MAX_CSR_BYTES:
        raise _invalid(f"{field}.csr_der", f"found {len(csr_der)} bytes, expected at most {_MAX_CSR_BYTES}")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
        weak = isinstance(csr.signature_hash_algorithm, _WEAK_HASHES)
        sound = not weak and csr.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise _invalid(f"{field}.csr_der", "found bytes that are no PKCS#10 request in DER") from error
    if not sound:
        raise _invalid(f"{field}.csr_der", "the request's signature is not one by its key with SHA-256 or better")
    return _accepted_key(key, field)


def _accepted_key(key: object, field: str) -> LeafPublicKey:
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()):
            return key
        case rsa.RSAPublicKey(key_size=bits) if _MIN_RSA_BITS <= bits <= _MAX_RSA_BITS:
            return key
        case ed25519.Ed25519PublicKey():
            return key
    raise _invalid(
        f"{field}.csr_der",
        f"found {_described(key)}, expected a key of type EC P-256 or P-384, "
        f"RSA of {_MIN_RSA_BITS} to {_MAX_RSA_BITS} bits, or Ed25519",
    )


def _described(key: object) -> str:
    match key:
        case ec.EllipticCurvePublicKey(curve=curve):
            return f"EC {curve.name}"
        case rsa.RSAPublicKey(key_size=bits):
            return f"RSA of {bits} bits"
    return type(key).__name__.removesuffix("PublicKey")


def _parse_identity(text: str, field: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except ValueError as error:
        raise _invalid(f"{field}.spiffe_id", str(error)) from error


def _invalid(subject: str, message: str) -> MeshError:
    return MeshError(ErrorCode.INVALID, message, subject=subject)
