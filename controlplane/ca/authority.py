"""The mesh's certificate authority: roots and the leaves that they sign. No input or output.

Owns:   the profile of every certificate that the mesh makes.
Not:    who may have one (signing.py, grants.py), where the root is kept (roots.py).
Source: SPIFFE X509-SVID sections 3-5 (one URI SAN, critical SAN with an empty subject, key usages); RFC 5280.

Invariants:
  An identity leaf carries exactly one URI SAN, its SPIFFE id, and may serve and call (both extended key usages).
  No leaf outlives its root. Every leaf is valid from SKEW_S before it is made, as clocks differ; a short-lived one
  from a tenth of its life, so that half of its life is still to come.
  What a CSR asks for beside its key is never copied.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.identity.spiffe import SpiffeId

LeafPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey

SKEW_S = 60
DEFAULT_LEAF_TTL_S = 24 * 3600
ROOT_TTL_S = 10 * 365 * 24 * 3600
# Clients of the control plane check this name whatever address they dialled.
SERVER_NAME = "gossamer-controlplane"
_LOCAL_NAMES = (SERVER_NAME, "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """A root certificate; its `key` only where it signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def fingerprint(self) -> str:
        """sha256 of the DER form in hex: what a join token pins."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A leaf. `chain_pem` is leaf first, without the root; times in whole seconds since the epoch."""

    chain_pem: bytes
    not_before_s: int
    not_after_s: int


def create_root(trust_domain: str, now_s: float) -> Root:
    """A new self-signed root for a trust domain: EC P-256, ten years."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, trust_domain[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, "Gossamer mesh root"),
        ]
    )
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_at(now_s - SKEW_S))
        .not_valid_after(_at(now_s + ROOT_TTL_S))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")]), critical=False
        )
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Root(certificate=certificate, key=key)


class Authority:
    """Signs with one root; `bundle` holds every root that peers may chain to, the signing one among them."""

    def __init__(
        self,
        root: Root,
        bundle: Sequence[x509.Certificate],
        *,
        trust_domain: str,
        leaf_ttl_s: int = DEFAULT_LEAF_TTL_S,
    ) -> None:
        self.root = root
        self.trust_domain = trust_domain
        self.leaf_ttl_s = leaf_ttl_s
        self.root_pem = root.certificate.public_bytes(serialization.Encoding.PEM)
        # The signing root's first.
        self.fingerprints = tuple(item.fingerprint(hashes.SHA256()).hex() for item in bundle)
        self.bundle_pem = b"".join(item.public_bytes(serialization.Encoding.PEM) for item in bundle)
        self._root_key_id = root.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value

    def issue_identity(self, public_key: LeafPublicKey, identity: SpiffeId, now_s: float) -> IssuedCertificate:
        """A certificate that says `identity` and nothing else."""
        return self._issue(public_key, [x509.UniformResourceIdentifier(str(identity))], now_s, calls=True)

    def issue_server(self, public_key: LeafPublicKey, names: Sequence[str], now_s: float) -> IssuedCertificate:
        """A certificate for the control plane's own ports, for its local names and `names` (DNS or IP)."""
        distinct = dict.fromkeys((*_LOCAL_NAMES, *names))
        return self._issue(public_key, [_general_name(name) for name in distinct], now_s, calls=False)

    def _issue(
        self, public_key: LeafPublicKey, names: list[x509.GeneralName], now_s: float, *, calls: bool
    ) -> IssuedCertificate:
        not_before = _at(now_s - min(SKEW_S, self.leaf_ttl_s / 10))
        not_after = min(_at(now_s + self.leaf_ttl_s), self.root.certificate.not_valid_after_utc)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if calls else [])]
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(encipher=isinstance(public_key, rsa.RSAPublicKey)), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._root_key_id), critical=False
            )
            .sign(self.root.key, hashes.SHA256())
        )
        return IssuedCertificate(
            chain_pem=leaf.public_bytes(serialization.Encoding.PEM),
            not_before_s=int(not_before.timestamp()),
            not_after_s=int(not_after.timestamp()),
        )


def _at(seconds: float) -> datetime:
    # Certificates know whole seconds; rounding down keeps a leaf within what was asked for.
    return datetime.fromtimestamp(int(seconds), UTC)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool = False, encipher: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=encipher,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def remaining(certificate: IssuedCertificate, now_s: float) -> timedelta:
    """How long it is still valid; negative when it has expired."""
    return timedelta(seconds=certificate.not_after_s - now_s)
