"""Join and Renew over real gRPC with TLS on loopback, as an agent does it: pin the root, join, renew by certificate."""

import asyncio
import hashlib
import logging
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from controlplane.api.identity_service import IdentityService
from controlplane.ca.failure_limit import BURST
from controlplane.ca.grants import revoke_node
from controlplane.ca.server_identity import ServerIdentity
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.store.memory import MemoryStore
from mesh.api.v1 import identity_pb2, identity_pb2_grpc
from mesh.clock import SystemClock
from tests.support.certificates import csr, key_pem

TD = "cluster.local"
NAME = (("grpc.ssl_target_name_override", "gossamer-controlplane"),)


@dataclass
class ShiftedClock:
    """The real time plus what a test adds: certificates are checked by TLS against the real time."""

    shift_s: float = 0.0
    _real: SystemClock = field(default_factory=SystemClock)

    def monotonic(self) -> float:
        return self._real.monotonic() + self.shift_s

    def wall(self) -> float:
        return self._real.wall() + self.shift_s


@dataclass
class Ports:
    """A control plane's two gRPC ports with only the Identity service on them."""

    ca: CertificateAuthority
    store: MemoryStore
    clock: ShiftedClock
    identity: ServerIdentity
    tls: str
    mtls: str

    async def token(self, **limits: object) -> tuple[str, str]:
        minted = await self.ca.tokens.create(**{"node": "node-1", **limits})  # type: ignore[arg-type]
        token_id, secret, fingerprint = minted.text.reveal().split(".")
        assert fingerprint == self.ca.root_fingerprint
        return token_id, secret

    async def join(self, request: identity_pb2.JoinRequest) -> identity_pb2.SignResponse:
        credentials = grpc.ssl_channel_credentials(self.ca.trust_bundle_pem)
        async with grpc.aio.secure_channel(self.tls, credentials, options=NAME) as channel:
            return await identity_pb2_grpc.IdentityStub(channel).Join(request, timeout=5)

    async def renew(
        self, key: bytes | None, chain: bytes | None, *requests: identity_pb2.CertificateRequest, port: str = ""
    ) -> identity_pb2.SignResponse:
        credentials = grpc.ssl_channel_credentials(self.ca.trust_bundle_pem, key, chain)
        async with grpc.aio.secure_channel(port or self.mtls, credentials, options=NAME) as channel:
            call = identity_pb2_grpc.IdentityStub(channel).Renew
            return await call(identity_pb2.RenewRequest(requests=requests), timeout=5)


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[Ports]:
    store, clock = MemoryStore(), ShiftedClock()
    ca = await open_authority(store, state_dir=tmp_path, trust_domain=TD, clock=clock)
    identity = ca.server_identity()
    server = grpc.aio.server()
    identity_pb2_grpc.add_IdentityServicer_to_server(IdentityService(ca, clock=clock), server)
    tls = server.add_secure_port("127.0.0.1:0", identity.tls_credentials())
    mtls = server.add_secure_port("127.0.0.1:0", identity.mtls_credentials())
    await server.start()
    yield Ports(ca, store, clock, identity, f"127.0.0.1:{tls}", f"127.0.0.1:{mtls}")
    await server.stop(None)


def wanted(path: str, key: ec.EllipticCurvePrivateKey | None = None) -> identity_pb2.CertificateRequest:
    return identity_pb2.CertificateRequest(spiffe_id=f"spiffe://{TD}/{path}", csr_der=csr(key))


async def presented_chain(address: str) -> list[bytes]:
    """What an agent that trusts nothing yet is shown, in DER, leaf first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    host, port = address.rsplit(":", 1)
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    chain = writer.get_extra_info("ssl_object")._sslobj.get_unverified_chain()
    writer.close()
    return [certificate.public_bytes(2) for certificate in chain]  # 2 = DER


async def test_the_join_port_shows_the_root_that_the_token_pins(ports: Ports) -> None:
    chain = await presented_chain(ports.tls)
    assert len(chain) == 2
    assert hashlib.sha256(chain[-1]).hexdigest() == ports.ca.root_fingerprint


async def test_join_then_renew_with_the_certificate(ports: Ports) -> None:
    token_id, secret = await ports.token(namespaces=("shop",), service_accounts=("orders",))
    key = ec.generate_private_key(ec.SECP256R1())
    joined = await ports.join(
        identity_pb2.JoinRequest(
            token_id=token_id,
            token_secret=secret,
            node="node-1",
            requests=[wanted("node/node-1", key), wanted("ns/shop/sa/orders")],
        )
    )
    assert [item.spiffe_id for item in joined.certificates] == [
        f"spiffe://{TD}/node/node-1",
        f"spiffe://{TD}/ns/shop/sa/orders",
    ]
    assert joined.trust_domain == TD
    leaf = x509.load_pem_x509_certificate(joined.certificates[0].chain_pem)
    assert joined.certificates[0].not_after_s == leaf.not_valid_after_utc.timestamp()
    root = x509.load_pem_x509_certificate(joined.trust_bundle_pem)
    assert hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest() == ports.ca.root_fingerprint

    renewed = await ports.renew(key_pem(key), joined.certificates[0].chain_pem, wanted("ns/shop/sa/orders"))
    assert renewed.certificates[0].spiffe_id == f"spiffe://{TD}/ns/shop/sa/orders"


async def joined_node(ports: Ports, *paths: str) -> list[tuple[bytes, bytes]]:
    """Keys and chains of node-1 and of what else it asks for."""
    token_id, secret = await ports.token()
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in ("node", *paths)]
    requests = [wanted(path, key) for path, key in zip(("node/node-1", *paths), keys, strict=True)]
    answer = await ports.join(
        identity_pb2.JoinRequest(token_id=token_id, token_secret=secret, node="node-1", requests=requests)
    )
    return [(key_pem(key), item.chain_pem) for key, item in zip(keys, answer.certificates, strict=True)]


async def status(action: object) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await action  # type: ignore[misc]
    return failure.value.code(), failure.value.details() or ""


async def test_renewal_is_held_to_the_grant(ports: Ports) -> None:
    node, workload = await joined_node(ports, "ns/default/sa/users")
    for path in ("ns/shop/sa/users", "node/node-2"):
        assert (await status(ports.renew(*node, wanted(path))))[0] is grpc.StatusCode.PERMISSION_DENIED
    code, words = await status(ports.renew(*workload, wanted("ns/default/sa/users")))
    assert (code, "expected a node's identity" in words) == (grpc.StatusCode.PERMISSION_DENIED, True)
    await revoke_node(ports.store, "node-1")
    code, words = await status(ports.renew(*node, wanted("node/node-1")))
    assert (code, "join again" in words) == (grpc.StatusCode.PERMISSION_DENIED, True)


async def test_renewal_needs_a_certificate_of_this_mesh(ports: Ports, tmp_path: Path) -> None:
    code, _ = await status(ports.renew(None, None, wanted("node/node-1"), port=ports.tls))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    code, _ = await status(ports.renew(None, None, wanted("node/node-1")))
    assert code is grpc.StatusCode.UNAVAILABLE, "the handshake fails"

    (tmp_path / "other").mkdir()
    foreign = await open_authority(MemoryStore(), state_dir=tmp_path / "other", trust_domain=TD)
    minted = await foreign.tokens.create(node="node-1")
    token_id, secret, _ = minted.text.reveal().split(".")
    key = ec.generate_private_key(ec.SECP256R1())
    from controlplane.ca.signing import CertificateRequest
    from mesh.secret import Secret

    signed = await foreign.join(
        token_id,
        Secret(secret),
        "node-1",
        [CertificateRequest(spiffe_id=f"spiffe://{TD}/node/node-1", csr_der=csr(key))],
    )
    chain = signed.certificates[0].certificate.chain_pem
    code, _ = await status(ports.renew(key_pem(key), chain, wanted("node/node-1")))
    assert code is grpc.StatusCode.UNAVAILABLE, "the handshake fails"


async def test_failures_have_their_status(ports: Ports) -> None:
    token_id, secret = await ports.token()
    good = wanted("node/node-1")
    for request, expected in (
        (identity_pb2.JoinRequest(token_id=token_id, token_secret="x", node="node-1"), grpc.StatusCode.UNAUTHENTICATED),
        (
            identity_pb2.JoinRequest(token_id=token_id, token_secret=secret, node="node-2", requests=[good]),
            grpc.StatusCode.PERMISSION_DENIED,
        ),
        (
            identity_pb2.JoinRequest(token_id=token_id, token_secret=secret, node="node-1"),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
        (
            identity_pb2.JoinRequest(
                token_id=token_id,
                token_secret=secret,
                node="node-1",
                requests=[identity_pb2.CertificateRequest(spiffe_id=good.spiffe_id, csr_der=b"junk")],
            ),
            grpc.StatusCode.INVALID_ARGUMENT,
        ),
    ):
        assert (await status(ports.join(request)))[0] is expected


async def test_failing_joins_are_bounded_and_secrets_are_not_logged(
    ports: Ports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    token_id, secret = await ports.token()
    wrong = identity_pb2.JoinRequest(token_id=token_id, token_secret="guessed-secret", node="node-1")
    codes = [(await status(ports.join(wrong)))[0] for _ in range(BURST + 1)]
    assert codes == [grpc.StatusCode.UNAUTHENTICATED] * BURST + [grpc.StatusCode.UNAVAILABLE]
    right = identity_pb2.JoinRequest(
        token_id=token_id, token_secret=secret, node="node-1", requests=[wanted("node/node-1")]
    )
    assert (await status(ports.join(right)))[0] is grpc.StatusCode.UNAVAILABLE
    ports.clock.shift_s += 60
    assert (await ports.join(right)).certificates
    logged = "".join(str(record.__dict__) for record in caplog.records)
    assert "join refused" in logged
    assert "guessed-secret" not in logged
    assert secret not in logged


async def test_the_server_certificate_is_renewed_while_it_serves(ports: Ports) -> None:
    first = await presented_chain(ports.tls)
    assert await presented_chain(ports.tls) == first
    ports.clock.shift_s -= 1  # the next one is valid already
    ports.identity._certificate = type(first_certificate := ports.identity.current())(
        key_pem=first_certificate.key_pem,
        chain_pem=first_certificate.chain_pem,
        bundle_pem=first_certificate.bundle_pem,
        renew_at_s=0,
        issued_by=first_certificate.issued_by,
    )
    second = await presented_chain(ports.tls)
    assert second[0] != first[0]
    assert second[1] == first[1]
    node = (await joined_node(ports))[0]
    assert (await ports.renew(*node, wanted("node/node-1"))).certificates
