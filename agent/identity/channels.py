"""gRPC channels to the control plane.

Owns:   credentials and options of channels: mTLS with the node's identity, server TLS with the pinned root.
Not:    what is called on them.
Invariant: every channel checks the server against the mesh's roots and its name; keepalive finds a silent peer.
"""

import grpc

from agent.identity.vault import Identity

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


def _options(server_name: str) -> tuple[tuple[str, int | str], ...]:
    return (*_KEEPALIVE, ("grpc.ssl_target_name_override", server_name))
