"""Joining and renewing from the command line, against the real Identity service over TLS on loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from controlplane.api.identity_service import IdentityService
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.cli.identity import signing
from controlplane.cli.identity.signing import Names
from controlplane.store.memory import MemoryStore
from mesh.api.v1 import identity_pb2_grpc
from mesh.errors import ErrorCode, MeshError
from mesh.identity import join_token
from mesh.identity.join_token import JoinToken

TD = "mesh.example"
NAMES = Names(node="edge-1", workload=("shop", "web"))


@dataclass
class Ports:
    ca: CertificateAuthority
    tls: str
    mtls: str

    async def token(self, node: str = "edge-1", **limits: object) -> JoinToken:
        made = await self.ca.tokens.create(node=node, namespaces=("shop",), **limits)  # type: ignore[arg-type]
        return join_token.parse(made.text.reveal(), "test")


@pytest.fixture
async def ports(tmp_path: Path) -> AsyncIterator[Ports]:
    ca = await open_authority(MemoryStore(), state_dir=tmp_path, trust_domain=TD)
    identity = ca.server_identity()
    server = grpc.aio.server()
    identity_pb2_grpc.add_IdentityServicer_to_server(IdentityService(ca), server)
    tls = server.add_secure_port("127.0.0.1:0", identity.tls_credentials())
    mtls = server.add_secure_port("127.0.0.1:0", identity.mtls_credentials())
    await server.start()
    yield Ports(ca, f"127.0.0.1:{tls}", f"127.0.0.1:{mtls}")
    await server.stop(None)


def uri(chain_pem: bytes) -> str:
    certificate = x509.load_pem_x509_certificate(chain_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (found,) = names.get_values_for_type(x509.UniformResourceIdentifier)
    return str(found)


async def test_join_then_renew(ports: Ports) -> None:
    joined = await asyncio.to_thread(signing.join, ports.tls, await ports.token(), NAMES)
    assert joined.trust_domain == TD, "it was read from the root that the token pins"
    assert uri(joined.node.chain_pem) == joined.node.spiffe_id == f"spiffe://{TD}/node/edge-1"
    assert uri(joined.workload.chain_pem) == joined.workload.spiffe_id == f"spiffe://{TD}/ns/shop/sa/web"
    assert joined.roots_pem == ports.ca.trust_bundle_pem

    renewed = await asyncio.to_thread(signing.renew, ports.mtls, joined, NAMES)
    assert renewed.workload.spiffe_id == joined.workload.spiffe_id
    assert renewed.workload.key_pem != joined.workload.key_pem
    assert renewed.node.key_pem != joined.node.key_pem


async def test_a_node_without_workload_carries_its_own_identity(ports: Ports) -> None:
    joined = await asyncio.to_thread(signing.join, ports.tls, await ports.token(), Names(node="edge-1"))
    assert joined.workload is joined.node


async def test_what_the_control_plane_refuses(ports: Ports) -> None:
    held = await ports.token()
    with pytest.raises(MeshError, match="the join was refused: PERMISSION_DENIED") as caught:
        await asyncio.to_thread(signing.join, ports.tls, held, Names(node="edge-1", workload=("other", "web")))
    assert caught.value.code is ErrorCode.PERMISSION_DENIED
    assert held.secret.reveal() not in str(caught.value)
    with pytest.raises(MeshError, match="edge-1, found edge-2"):
        await asyncio.to_thread(signing.join, ports.tls, held, Names(node="edge-2"))


async def test_the_secret_goes_only_to_the_pinned_root(ports: Ports) -> None:
    held = await ports.token()
    foreign = JoinToken(id=held.id, secret=held.secret, root_sha256="0" * 64)
    with pytest.raises(MeshError, match="none of the 2 certificates shown is the root") as caught:
        await asyncio.to_thread(signing.join, ports.tls, foreign, NAMES)
    assert caught.value.code is ErrorCode.UNAUTHENTICATED
    (left,) = await ports.ca.tokens.list()
    assert left.uses_left == 1


async def test_a_revoked_node_renews_nothing(ports: Ports) -> None:
    joined = await asyncio.to_thread(signing.join, ports.tls, await ports.token(), NAMES)
    with pytest.raises(MeshError, match="bootstrap again with a new token"):
        await asyncio.to_thread(signing.renew, ports.mtls, joined, Names(node="edge-1", workload=("other", "x")))


def test_nobody_at_the_join_address() -> None:
    held = join_token.parse(f"id.secret.{'0' * 64}", "t")
    with pytest.raises(MeshError, match="--join-address names its port with server TLS, 18001"):
        signing.join("127.0.0.1:1", held, NAMES)
    with pytest.raises(MeshError, match="--join-address: found 'x', expected host:port"):
        signing.join("x", held, NAMES)


def test_names_that_cannot_stand_in_an_identity() -> None:
    with pytest.raises(MeshError, match="identity: found path segment"):
        Names(node="edge 1").spiffe_ids(TD)
