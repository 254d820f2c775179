"""A mesh's CA on two real gRPC ports on loopback, as a control plane serves it, with ways to disturb it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from controlplane.api.identity_service import IdentityService
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.store.memory import MemoryStore
from mesh.api.v1 import identity_pb2, identity_pb2_grpc
from mesh.clock import SystemClock

TRUST_DOMAIN = "cluster.local"


@dataclass
class ShiftedClock:
    """The real time plus what a test adds: TLS checks certificates against the real time."""

    shift_s: float = 0.0
    _real: SystemClock = field(default_factory=SystemClock)

    def monotonic(self) -> float:
        return self._real.monotonic() + self.shift_s

    def wall(self) -> float:
        return self._real.wall() + self.shift_s


class RecordingIdentityService(IdentityService):
    """Remembers what it was asked for; `lose_answers` joins are made and then not answered."""

    def __init__(self, authority: CertificateAuthority) -> None:
        super().__init__(authority)
        self.joins: list[identity_pb2.JoinRequest] = []
        self.renewals: list[list[str]] = []
        self.lose_answers = 0

    async def Join(self, request: identity_pb2.JoinRequest, context: Any) -> identity_pb2.SignResponse:
        self.joins.append(request)
        answer = await super().Join(request, context)
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the answer is lost")
        return answer

    async def Renew(self, request: identity_pb2.RenewRequest, context: Any) -> identity_pb2.SignResponse:
        self.renewals.append([item.spiffe_id for item in request.requests])
        return await super().Renew(request, context)


class ServedAuthority:
    """Start it in a running loop; `stop` ends the ports, `start` opens them again where they were."""

    def __init__(self, ca: CertificateAuthority, store: MemoryStore) -> None:
        self.ca = ca
        self.store = store
        self.service = RecordingIdentityService(ca)
        self.services: list[Any] = []  # functions that add more services to each server
        self.tls = "127.0.0.1:0"
        self.mtls = "127.0.0.1:0"
        self._server: grpc.aio.Server | None = None

    @classmethod
    async def open(cls, state_dir: Path, store: MemoryStore | None = None) -> "ServedAuthority":
        store = store or MemoryStore()
        state_dir.mkdir(exist_ok=True)
        return cls(await open_authority(store, state_dir=state_dir, trust_domain=TRUST_DOMAIN), store)

    async def start(self) -> None:
        identity = self.ca.server_identity()
        self._server = grpc.aio.server()
        identity_pb2_grpc.add_IdentityServicer_to_server(self.service, self._server)
        for add in self.services:
            add(self._server)
        self.tls = f"127.0.0.1:{self._server.add_secure_port(self.tls, identity.tls_credentials())}"
        self.mtls = f"127.0.0.1:{self._server.add_secure_port(self.mtls, identity.mtls_credentials())}"
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def token(
        self,
        *,
        node: str = "node-1",
        namespaces: Sequence[str] = ("default",),
        service_accounts: Sequence[str] = ("*",),
        ttl_s: int = 600,
        uses: int = 1,
    ) -> str:
        """The text of a new join token."""
        minted = await self.ca.tokens.create(
            node=node, namespaces=namespaces, service_accounts=service_accounts, ttl_s=ttl_s, uses=uses
        )
        return minted.text.reveal()
