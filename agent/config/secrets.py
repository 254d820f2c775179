"""Secrets: the mesh's roots, and nothing else (decision 15: keys never come by xDS).

Source: envoy.extensions.transport_sockets.tls.v3.Secret; controlplane/compiler/secrets.py.
"""

from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret

from agent.config import rules
from agent.config.fields import Refused, Rejected, beyond, only, parsed, refuse
from agent.config.transport_sockets import pem


def trust_bundle(name: str, body: bytes) -> bytes | Rejected:
    """The certificates in PEM of secret `name`."""
    try:
        message = parsed(body, Secret, "")
        rules.check(message)
        if message.name != name:
            raise refuse("name", message.name, f"the resource's name, {name!r}")
        if message.WhichOneof("type") != "validation_context":
            raise beyond(str(message.WhichOneof("type") or "type"), "a value", "validation_context")
        only(message.validation_context, "validation_context", frozenset({"trusted_ca"}))
        return pem(message.validation_context.trusted_ca, "validation_context.trusted_ca").encode()
    except Refused as refusal:
        return Rejected(name=name, path=refusal.path, reason=refusal.reason)
