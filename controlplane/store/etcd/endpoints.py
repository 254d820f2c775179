"""The channels to an etcd cluster, one per endpoint, and which of them is used now.

Owns:   failover: a channel that is not ready, or whose call failed, makes way for the next endpoint.
Not:    repeating calls (client.py).
Source: gRPC connectivity states; etcd refuses pings more often than every 5 s (--grpc-keepalive-min-time).
"""

import asyncio
import time

import grpc

from controlplane.store.etcd.options import EtcdOptions, targets, tls_material

# A page of 500 keys of the largest size that the embedded etcd takes never comes near this.
_MAX_MESSAGE_BYTES = 64 << 20
_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # A dead peer is noticed in 15 s even when nothing is sent; below 5 s etcd would answer with GOAWAY.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without these gRPC waits up to two minutes before it tries an endpoint again.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # this one is the limit of one connection attempt
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),  # a transaction must never be sent twice
)
_LOOK_S = 0.02
_FAILED = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class Endpoints:
    """Channels of one cluster. All calls of a client go to the same member as long as it answers."""

    def __init__(self, options: EtcdOptions) -> None:
        self.names = options.endpoints
        self._channels = [self._channel(options, target) for target in targets(options)]
        self._current = 0

    @staticmethod
    def _channel(options: EtcdOptions, target: str) -> grpc.aio.Channel:
        tls = tls_material(options)
        if tls is None:
            return grpc.aio.insecure_channel(target, options=_CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(tls.roots, tls.key, tls.chain)
        return grpc.aio.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)

    def __len__(self) -> int:
        return len(self._channels)

    def turn_from(self, channel: grpc.aio.Channel) -> None:
        """A call on `channel` failed: use the next endpoint from now on."""
        if self._channels[self._current] is channel:
            self._current = (self._current + 1) % len(self._channels)

    def turn(self) -> None:
        """A stream failed: use the next endpoint from now on."""
        self._current = (self._current + 1) % len(self._channels)

    async def ready(self, timeout_s: float) -> grpc.aio.Channel | None:
        """A connected channel, or None when no endpoint could be connected within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            # One that has failed is passed over at once; one that is still connecting is waited for.
            for _ in self._channels:
                channel = self._channels[self._current]
                state = channel.get_state(try_to_connect=True)
                if state is grpc.ChannelConnectivity.READY:
                    return channel
                if state not in _FAILED:
                    break
                self.turn_from(channel)
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        await asyncio.gather(*(channel.close(None) for channel in self._channels))
