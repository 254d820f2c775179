"""The gRPC Identity service: Join on the server-TLS port, Renew on the mTLS port.

Owns:   protobuf in and out, the peer's identity, the bound on failing joins.
Not:    every decision about certificates and tokens (controlplane.ca).
Source: proto/mesh/api/v1/identity.proto.

Invariant: the token's secret is wrapped before anything else happens to it, and is in no log and no answer.
"""

from collections.abc import Iterable
from typing import NoReturn

import grpc

from controlplane.api.errors import grpc_status
from controlplane.ca.failure_limit import FailureLimit
from controlplane.ca.peers import require_node
from controlplane.ca.service import CertificateAuthority, Signed
from controlplane.ca.signing import CertificateRequest
from mesh.api.v1 import identity_pb2, identity_pb2_grpc
from mesh.clock import Clock, SystemClock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.secret import Secret

_log = get_logger(__name__)
# What a wrong token looks like; a bad CSR of a good token is no attack.
_COUNTED = (ErrorCode.UNAUTHENTICATED, ErrorCode.PERMISSION_DENIED)

_Join = grpc.aio.ServicerContext[identity_pb2.JoinRequest, identity_pb2.SignResponse]
_Renew = grpc.aio.ServicerContext[identity_pb2.RenewRequest, identity_pb2.SignResponse]


class IdentityService(identity_pb2_grpc.IdentityServicer):
    """One instance serves both ports: Renew refuses a peer without a node certificate of this mesh."""

    def __init__(self, authority: CertificateAuthority, *, clock: Clock | None = None) -> None:
        self._authority = authority
        self._clock = clock or SystemClock()
        self._failures = FailureLimit()

    async def Join(self, request: identity_pb2.JoinRequest, context: _Join) -> identity_pb2.SignResponse:
        """Exchange a join token and CSRs for certificates."""
        secret = Secret(request.token_secret)
        address = _address(context.peer())
        try:
            self._require_patience(address)
            signed = await self._authority.join(request.token_id, secret, request.node, _requests(request.requests))
        except MeshError as error:
            if error.code in _COUNTED:
                self._failures.failed(address, self._clock.monotonic())
            _log.warning("join refused", node=request.node[:64], peer=address, reason=str(error))
            await _abort(context, error)
        return _response(signed)

    async def Renew(self, request: identity_pb2.RenewRequest, context: _Renew) -> identity_pb2.SignResponse:
        """Sign again for the node that the client certificate names."""
        try:
            node = require_node(context.auth_context(), self._authority.trust_domain)
            signed = await self._authority.renew(node, _requests(request.requests))
        except MeshError as error:
            _log.warning("renewal refused", peer=context.peer(), reason=str(error))
            await _abort(context, error)
        return _response(signed)

    def _require_patience(self, address: str) -> None:
        wait_s = self._failures.wait_s(address, self._clock.monotonic())
        if wait_s > 0:
            raise MeshError(
                ErrorCode.UNAVAILABLE,
                f"too many failed joins from this address, try again in {wait_s:.0f} s",
                subject=address,
            )


async def _abort(context: _Join | _Renew, error: MeshError) -> NoReturn:
    await context.abort(grpc_status(error), str(error))


def _address(peer: str) -> str:
    """`ipv4:10.0.0.7:51234` -> `ipv4:10.0.0.7`: each connection has a port of its own."""
    return peer.rpartition(":")[0] or peer


def _requests(requests: Iterable[identity_pb2.CertificateRequest]) -> tuple[CertificateRequest, ...]:
    return tuple(CertificateRequest(spiffe_id=item.spiffe_id, csr_der=item.csr_der) for item in requests)


def _response(signed: Signed) -> identity_pb2.SignResponse:
    return identity_pb2.SignResponse(
        certificates=[
            identity_pb2.Certificate(
                spiffe_id=str(item.identity),
                chain_pem=item.certificate.chain_pem,
                not_before_s=item.certificate.not_before_s,
                not_after_s=item.certificate.not_after_s,
            )
            for item in signed.certificates
        ],
        trust_bundle_pem=signed.trust_bundle_pem,
        trust_domain=signed.trust_domain,
    )
