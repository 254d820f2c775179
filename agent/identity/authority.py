"""The calls that get certificates signed: Join with a token, Renew with the present certificate.

Owns:   the two calls and reading their answers.
Not:    when they are made (agent.identity.renewal), keys (agent.identity.keys).
Source: proto/mesh/api/v1/identity.proto; decision 13.
Invariant: the token's secret goes out only on a channel whose server chains to the root that the token names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from agent.identity import channels, token
from agent.identity.keys import NewKey
from agent.identity.vault import Identity
from agent.settings import ControlPlaneSettings, host_port
from mesh.api.v1 import identity_pb2, identity_pb2_grpc
from mesh.errors import ErrorCode, MeshError
from mesh.identity.join_token import JoinToken

CALL_S = 20.0
_CODES = {
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    identities: tuple[Identity, ...]
    trust_pem: bytes
    trust_domain: str


async def join(settings: ControlPlaneSettings, node: str, held: JoinToken, keys: Sequence[NewKey]) -> Signed:
    """Exchange the token for certificates. Raises MeshError."""
    address = settings.join_address
    root_pem = token.pinned_root(await token.fetch_chain(*host_port(address)), held, address)
    request = identity_pb2.JoinRequest(
        token_id=held.id, token_secret=held.secret.reveal(), node=node, requests=_requests(keys)
    )
    async with channels.server_tls(address, settings.server_name, root_pem) as channel:
        try:
            answer = await identity_pb2_grpc.IdentityStub(channel).Join(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise _refused("the join was refused", address, error) from error
    return _signed(answer, keys)


async def renew(settings: ControlPlaneSettings, node: Identity, trust_pem: bytes, keys: Sequence[NewKey]) -> Signed:
    """New certificates for a node that has one. Raises MeshError."""
    address = settings.address
    request = identity_pb2.RenewRequest(requests=_requests(keys))
    async with channels.mtls(address, settings.server_name, node, trust_pem) as channel:
        try:
            answer = await identity_pb2_grpc.IdentityStub(channel).Renew(request, timeout=CALL_S)
        except grpc.aio.AioRpcError as error:
            raise _refused("the renewal was refused", address, error) from error
    return _signed(answer, keys)


def _requests(keys: Sequence[NewKey]) -> list[identity_pb2.CertificateRequest]:
    return [identity_pb2.CertificateRequest(spiffe_id=key.spiffe_id, csr_der=key.csr_der) for key in keys]


def _signed(answer: identity_pb2.SignResponse, keys: Sequence[NewKey]) -> Signed:
    if [item.spiffe_id for item in answer.certificates] != [key.spiffe_id for key in keys]:
        raise MeshError(
            ErrorCode.INTERNAL, "found certificates of other identities than were asked for", subject="sign"
        )
    identities = tuple(
        Identity(
            spiffe_id=item.spiffe_id,
            chain_pem=item.chain_pem,
            key_pem=key.key_pem,
            not_before_s=float(item.not_before_s),
            not_after_s=float(item.not_after_s),
        )
        for item, key in zip(answer.certificates, keys, strict=True)
    )
    return Signed(identities=identities, trust_pem=answer.trust_bundle_pem, trust_domain=answer.trust_domain)


def _refused(what: str, address: str, error: grpc.aio.AioRpcError) -> MeshError:
    code = _CODES.get(error.code(), ErrorCode.UNAVAILABLE)
    return MeshError(code, f"{what}: {error.code().name}: {error.details() or ''}".rstrip(": "), subject=address)
