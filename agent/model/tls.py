"""TLS as the worker enforces it. Source: envoy/extensions/transport_sockets/tls/v3/{tls,common}.proto."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """How to connect to a host.

    `identity`: which certificate to show: "caller" = that of the workload the request came from (decision 10),
    "" = none (simple TLS), else a SPIFFE id held by the agent. `trust`: "mesh" = the mesh's own roots, else PEM text,
    "system" = the machine's roots. `peer_ids`: the URI SANs of which the peer must show one; empty = any that chains.
    """

    identity: str = "caller"
    trust: str = "mesh"
    peer_ids: frozenset[str] = frozenset()
    peer_dns: frozenset[str] = frozenset()
    sni: str = ""
    alpn: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DownstreamTls:
    """How to accept. `identity`: the SPIFFE id whose certificate is shown, or `secret`: the name of the user's.

    `require_client_certificate`: mTLS; without it `ask_client_certificate` asks, and verifies what is shown.
    `trust_secret`: the user's roots instead of `trust`. One name of a client's certificate must be among `peer_ids` and
    `peer_dns`, if there are any. Versions are "1.2" and "1.3"; `ciphers` are OpenSSL's names and concern TLS 1.2 alone,
    none = OpenSSL's choice.
    """

    identity: str = ""
    secret: str = ""
    trust: str = "mesh"
    trust_secret: str = ""
    require_client_certificate: bool = True
    ask_client_certificate: bool = False
    peer_ids: frozenset[str] = frozenset()
    peer_dns: frozenset[str] = frozenset()
    alpn: tuple[str, ...] = ()
    min_version: str = "1.2"
    max_version: str = "1.3"
    ciphers: tuple[str, ...] = ()

    @property
    def secrets(self) -> tuple[str, ...]:
        """The user's secrets that it needs."""
        return tuple(name for name in (self.secret, self.trust_secret) if name)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyPair:
    """A certificate chain and its key, PEM, leaf first. Never printed."""

    identity: str
    chain_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"KeyPair(identity={self.identity!r}, key_pem=[redacted])"
