"""gRPC channels to the control plane.

Owns:   credentials and options of channels: mTLS with the node's identity, server TLS with the pinned root; to a server
        that is not ours plaintext or TLS from files.
Not:    what is called on them.
Invariant: every channel to our control plane checks the server against the mesh's roots and its name; keepalive finds a
        silent peer.
"""

from pathlib import Path

import grpc

from agent.identity.vault import Identity
from agent.settings import SERVER_NAME, SYSTEM_ROOTS, ControlPlaneSettings
from mesh.errors import ErrorCode, MeshError

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_KEEPALIVE: tuple[tuple[str, int | str], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Channels of one process with equal arguments share connections; a renewed certificate must open a new one.
    ("grpc.use_local_subchannel_pool", 1),
)


def mtls(address: str, server_name: str, identity: Identity, trust_pem: bytes) -> grpc.aio.Channel:
    """A channel that shows the node's certificate."""
    credentials = grpc.ssl_channel_credentials(trust_pem, identity.key_pem, identity.chain_pem)
    return grpc.aio.secure_channel(address, credentials, options=_options(server_name))


def server_tls(address: str, server_name: str, trust_pem: bytes) -> grpc.aio.Channel:
    """A channel for the first contact: only the server proves who it is."""
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trust_pem), options=_options(server_name))


def foreign(settings: ControlPlaneSettings) -> grpc.aio.Channel:
    """A channel to a server that is not ours. The files are read each time: they may be renewed. Raises SETTINGS."""
    if not settings.tls_ca:
        return grpc.aio.insecure_channel(settings.address, options=_KEEPALIVE)
    roots = _read(settings.tls_ca, "tls_ca") if settings.tls_ca != SYSTEM_ROOTS else None
    key = _read(settings.tls_key, "tls_key") if settings.tls_key else None
    chain = _read(settings.tls_cert, "tls_cert") if settings.tls_cert else None
    named = settings.server_name != SERVER_NAME
    options = _options(settings.server_name) if named else _KEEPALIVE
    return grpc.aio.secure_channel(settings.address, grpc.ssl_channel_credentials(roots, key, chain), options=options)


def _read(path: str, key: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise MeshError(
            ErrorCode.SETTINGS, f"cannot read {path}: {error.strerror}", subject=f"control_plane.{key}"
        ) from error


def _options(server_name: str) -> tuple[tuple[str, int | str], ...]:
    return (*_KEEPALIVE, ("grpc.ssl_target_name_override", server_name))
