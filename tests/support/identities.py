"""SPIFFE identities of a small certificate authority, for tests of TLS."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from agent.model.tls import KeyPair
from tests.support.certificates import key_pem


class TestAuthority:
    """One root, valid for a day around now."""

    __test__ = False

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self._root = (
            self._builder(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def trust_pem(self) -> bytes:
        return self._root.public_bytes(Encoding.PEM)

    def issue(self, spiffe_id: str, *hosts: str) -> KeyPair:
        """A leaf with one URI name, and a DNS name for each of `hosts`."""
        key = ec.generate_private_key(ec.SECP256R1())
        dns = [x509.DNSName(host) for host in hosts]
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id), *dns])
        leaf = (
            self._builder(x509.Name([]), key)
            .add_extension(names, critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return KeyPair(identity=spiffe_id, chain_pem=leaf.public_bytes(Encoding.PEM), key_pem=key_pem(key))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=12))
            .not_valid_after(now + timedelta(hours=12))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
