"""A short-lived child that makes keys and certificate requests: `python -P -m agent.identity.keymaker`.

Owns:   key generation (EC P-256) and PKCS#10, the only use of `cryptography` in the agent.
Not:    what is done with them. The parent (agent.identity.keys) writes a JSON list of SPIFFE ids to standard input and
        reads a JSON list of {"spiffe_id", "key_pem", "csr_der" (base64)} from standard output, in the same order.
Invariant: a key is written nowhere but to that pipe.
"""

import base64
import json
import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

MAX_KEYS = 64


def make(spiffe_id: str) -> dict[str, str]:
    """One key and its request. The request's name is for people: the control plane decides what it signs."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    der = request.public_bytes(serialization.Encoding.DER)
    return {"spiffe_id": spiffe_id, "key_pem": pem.decode(), "csr_der": base64.b64encode(der).decode()}


def main() -> int:
    """Serve the one request. Exit code 64 when it is not one."""
    asked = json.loads(sys.stdin.buffer.read(MAX_KEYS * 4096))
    if not isinstance(asked, list) or not 0 < len(asked) <= MAX_KEYS:
        return 64
    json.dump([make(str(spiffe_id)) for spiffe_id in asked], sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
