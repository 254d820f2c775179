"""Whom a gRPC peer's certificate names. A pure function of what gRPC tells about the connection."""

from collections.abc import Iterable, Mapping

from mesh.errors import ErrorCode, MeshError
from mesh.identity.spiffe import SpiffeId

AuthContext = Mapping[str, Iterable[bytes]]  # grpc.aio.ServicerContext.auth_context()


def peer_identity(auth_context: AuthContext) -> SpiffeId | None:
    """The peer's SPIFFE id; None without a certificate, or with one that has not exactly one URI name."""
    names = [name.decode(errors="replace") for name in auth_context.get("x509_subject_alternative_name", ())]
    uris = [name for name in names if "://" in name]
    if len(uris) != 1:
        return None
    try:
        return SpiffeId.parse(uris[0])
    except ValueError:
        return None


def require_node(auth_context: AuthContext, trust_domain: str) -> str:
    """The name of the node whose certificate the peer showed. Raises UNAUTHENTICATED, PERMISSION_DENIED."""
    identity = peer_identity(auth_context)
    if identity is None:
        raise MeshError(
            ErrorCode.UNAUTHENTICATED, "found no client certificate with one SPIFFE id", hint="use the mTLS port"
        )
    if identity.trust_domain != trust_domain or identity.node is None:
        raise MeshError(
            ErrorCode.PERMISSION_DENIED,
            f"found {identity}, expected a node's identity spiffe://{trust_domain}/node/NAME",
            subject="client certificate",
        )
    return identity.node
