"""Secrets: the mesh's roots, and for the listeners of a gateway the user's certificates and roots.

Source: envoy.extensions.transport_sockets.tls.v3.Secret; controlplane/compiler/secrets.py; decision 15: keys that the
        mesh made never come by xDS.
Not:    whether a certificate and its key fit together (agent.identity.user_secrets).
"""

from envoy.config.core.v3.base_pb2 import DataSource
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from agent.config import rules
from agent.config.fields import Refused, Rejected, beyond, only, parsed, refuse
from agent.config.transport_sockets import pem
from agent.model.tls import KeyPair
from mesh.xds.names import TRUST_SECRET


def secret(name: str, body: bytes) -> bytes | KeyPair | Rejected:
    """What secret `name` holds: roots in PEM, or the user's certificate with its key."""
    try:
        message = parsed(body, Secret, "")
        rules.check(message)
        if message.name != name:
            raise refuse("name", message.name, f"the resource's name, {name!r}")
        match message.WhichOneof("type"):
            case "validation_context":
                return _roots(message)
            case "tls_certificate" if name != TRUST_SECRET:
                return _pair(message)
            case other:
                expected = "validation_context" if name == TRUST_SECRET else "validation_context or tls_certificate"
                raise beyond(str(other or "type"), "a value", expected)
    except Refused as refusal:
        return Rejected(name=name, path=refusal.path, reason=refusal.reason)


def _roots(message: Secret) -> bytes:
    only(message.validation_context, "validation_context", frozenset({"trusted_ca"}))
    return pem(message.validation_context.trusted_ca, "validation_context.trusted_ca").encode()


def _pair(message: Secret) -> KeyPair:
    own = message.tls_certificate
    only(own, "tls_certificate", frozenset({"certificate_chain", "private_key"}))
    return KeyPair(
        identity=message.name,
        chain_pem=pem(own.certificate_chain, "tls_certificate.certificate_chain").encode(),
        key_pem=_private(own.private_key, "tls_certificate.private_key"),
    )


def _private(message: DataSource, path: str) -> bytes:
    """A key; no message shows it."""
    if message.WhichOneof("specifier") not in ("inline_string", "inline_bytes"):
        raise beyond(path, message.WhichOneof("specifier") or "nothing", "inline_string or inline_bytes")
    data = message.inline_string.encode() or message.inline_bytes
    if b"PRIVATE KEY-----" not in data:
        raise Refused(path, "found something else (not shown), expected a private key in PEM")
    return data
