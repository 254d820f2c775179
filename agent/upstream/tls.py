"""TLS contexts of this worker, for both directions, and who the peer is.

Owns:   SSLContexts built from the identities that the supervisor sent, cached until it sends new ones; the check of a
        peer's SPIFFE id.
Not:    when to connect or accept; certificates' life (the supervisor's identity package).
Invariants: every context verifies the chain (CERT_REQUIRED) unless the listener does not ask for client certificates;
        host names are not checked, SANs are, by `peer_allowed`, before a connection's first byte is used; keys reach
        OpenSSL through anonymous memory, never a file; new identities apply to every later connection.
"""

import os
import ssl
from typing import Any

from agent.model.tls import DownstreamTls, KeyPair, UpstreamTls

CALLER = "caller"
MESH = "mesh"
SYSTEM = "system"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(Exception):
    """A context cannot be made: the identity is not held here, or its PEM is unusable."""


def _load_key_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.key_pem.rstrip() + b"\n" + pair.chain_pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except (ssl.SSLError, OSError) as error:
        raise TlsError(f"the certificate of {pair.identity} cannot be used: {error}") from error
    finally:
        os.close(descriptor)


class TlsContexts:
    """All contexts of one worker."""

    def __init__(self) -> None:
        self._pairs: dict[str, KeyPair] = {}
        self._trust_pem = b""
        self._roots: dict[str, bytes] = {}
        self._cache: dict[tuple[Any, ...], ssl.SSLContext] = {}

    def replace(
        self, pairs: tuple[KeyPair, ...], trust_pem: bytes, roots: tuple[tuple[str, bytes], ...] = ()
    ) -> None:  # fmt: skip
        """Use these from the next connection on. `roots`: the user's, by the name of their secret."""
        self._pairs = {pair.identity: pair for pair in pairs}
        self._trust_pem = trust_pem
        self._roots = dict(roots)
        self._cache.clear()

    def client(self, tls: UpstreamTls, caller: str) -> ssl.SSLContext:
        """The context to connect with; `caller` is the workload that the request came from. Raises TlsError."""
        identity = caller if tls.identity == CALLER else tls.identity
        key = ("client", identity, tls.trust, tls.alpn)
        context = self._cache.get(key)
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            self._fill(context, identity, tls.trust, tls.alpn)
            self._cache[key] = context
        return context

    def server(self, tls: DownstreamTls) -> ssl.SSLContext:
        """The context to accept with. Raises TlsError."""
        key = ("server", tls)
        context = self._cache.get(key)
        if context is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.verify_mode = _client_check(tls)
            context.num_tickets = 1
            self._fill(context, tls.secret or tls.identity, tls.trust, tls.alpn, tls.trust_secret)
            _restrict(context, tls)
            self._cache[key] = context
        return context

    def _fill(
        self, context: ssl.SSLContext, identity: str, trust: str, alpn: tuple[str, ...], trust_secret: str = ""
    ) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if alpn:
            context.set_alpn_protocols(list(alpn))
        if identity:
            pair = self._pairs.get(identity)
            if pair is None:
                raise TlsError(f"no certificate for {identity} is held here")
            _load_key_pair(context, pair)
        if context.verify_mode is not ssl.CERT_NONE:
            self._load_trust(context, trust, trust_secret)

    def _load_trust(self, context: ssl.SSLContext, trust: str, secret: str) -> None:
        if trust == SYSTEM and not secret:
            context.load_default_certs()
            return
        pem = trust
        if secret:
            pem = self._roots.get(secret, b"").decode("ascii", "replace")
        elif trust == MESH:
            pem = self._trust_pem.decode("ascii", "replace")
        if not pem.strip():
            raise TlsError(f"no trust roots {secret} are held here" if secret else "no trust roots are held here")
        try:
            context.load_verify_locations(cadata=pem)
        except ssl.SSLError as error:
            raise TlsError(f"the trust roots cannot be used: {error}") from error


def _client_check(tls: DownstreamTls) -> ssl.VerifyMode:
    if tls.require_client_certificate:
        return ssl.CERT_REQUIRED
    return ssl.CERT_OPTIONAL if tls.ask_client_certificate else ssl.CERT_NONE


def _restrict(context: ssl.SSLContext, tls: DownstreamTls) -> None:
    """Versions and ciphers. Raises TlsError."""
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    if tls.ciphers:
        try:
            context.set_ciphers(":".join(tls.ciphers))
        except ssl.SSLError as error:
            raise TlsError(f"the ciphers {', '.join(tls.ciphers)} cannot be used: {error}") from error


def peer_names(transport: Any) -> tuple[frozenset[str], frozenset[str]]:
    """(URI SANs, DNS SANs) of the peer's verified certificate; empty when it showed none."""
    tls_object = transport.get_extra_info("ssl_object")
    certificate = tls_object.getpeercert() if tls_object is not None else None
    names = certificate.get("subjectAltName", ()) if certificate else ()
    return (
        frozenset(value for kind, value in names if kind == "URI"),
        frozenset(value for kind, value in names if kind == "DNS"),
    )


def peer_id(uris: frozenset[str]) -> str:
    """The peer's SPIFFE id; "" unless it shows exactly one (SPIFFE X509-SVID section 2: one URI SAN)."""
    if len(uris) != 1:
        return ""
    (uri,) = uris
    return uri if uri.startswith("spiffe://") else ""


def peer_allowed(
    uris: frozenset[str], names: frozenset[str], ids: frozenset[str], dns: frozenset[str] = frozenset()
) -> bool:
    """Whether the peer shows one of the names that are expected; with none expected, any that chains may come."""
    if not ids and not dns:
        return True
    return not (ids.isdisjoint(uris) and dns.isdisjoint(names))
