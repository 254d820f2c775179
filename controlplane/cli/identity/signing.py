"""The calls that get certificates signed: Join with a token, Renew with the present node certificate.

Owns:   the two calls, and which identities a bare client gets: its node's, and its workload's.
Not:    where they are kept (controlplane.cli.bootstrap).
Source: proto/mesh/api/v1/identity.proto; decisions 13 and 15.
Invariant: the token's secret goes out only on a channel whose server chains to the root that the token names.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from controlplane.ca.authority import SERVER_NAME
from controlplane.cli.identity import token
from controlplane.cli.identity.keys import NewKey, make_key
from controlplane.settings import split_address
from mesh.api.v1 import identity_pb2, identity_pb2_grpc
from mesh.errors import ErrorCode, MeshError
from mesh.identity.join_token import JoinToken
from mesh.identity.spiffe import node_id, workload_id

CALL_S = 20.0
_CODES = {
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorCode.INVALID,
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class KeyPair:
    """A signed identity: its chain, leaf first, and its key."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes
    not_after_s: float = 0.0

    def __repr__(self) -> str:
        return f"KeyPair(spiffe_id={self.spiffe_id!r}, key_pem=[redacted])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """All that a bare client needs. `workload` is the node's own pair when it runs no workload."""

    node: KeyPair
    workload: KeyPair
    roots_pem: bytes
    trust_domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Who is to be certified: a node, and the one workload whose identity it carries; None = the node's own."""

    node: str
    workload: tuple[str, str] | None = None  # namespace, service account

    def spiffe_ids(self, trust_domain: str) -> list[str]:
        """The node's, then the workload's. Raises SETTINGS when a name cannot stand in one."""
        try:
            found = [str(node_id(trust_domain, self.node))]
            return found + ([str(workload_id(trust_domain, *self.workload))] if self.workload else [])
        except ValueError as error:
            raise MeshError(ErrorCode.SETTINGS, str(error), subject="identity") from error


def join(address: str, held: JoinToken, names: Names) -> Credentials:
    """Exchange the token for certificates. `address`: the port with server TLS. Raises MeshError."""
    root = token.pinned_root(token.fetch_chain(*host_port(address, "--join-address")), held, address)
    keys = [make_key(spiffe_id) for spiffe_id in names.spiffe_ids(root.trust_domain)]
    request = identity_pb2.JoinRequest(
        token_id=held.id, token_secret=held.secret.reveal(), node=names.node, requests=_requests(keys)
    )
    with _channel(address, grpc.ssl_channel_credentials(root.pem)) as channel:
        try:
            answer = identity_pb2_grpc.IdentityStub(channel).Join(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise _refused("the join was refused", address, error, "") from error
    return _credentials(answer, keys)


def renew(address: str, held: Credentials, names: Names) -> Credentials:
    """New keys and certificates for a node that has some. `address`: the port with mutual TLS. Raises MeshError."""
    keys = [make_key(spiffe_id) for spiffe_id in names.spiffe_ids(held.trust_domain)]
    request = identity_pb2.RenewRequest(requests=_requests(keys))
    credentials = grpc.ssl_channel_credentials(held.roots_pem, held.node.key_pem, held.node.chain_pem)
    with _channel(address, credentials) as channel:
        try:
            answer = identity_pb2_grpc.IdentityStub(channel).Renew(request, timeout=CALL_S)
        except grpc.RpcError as error:
            hint = "if its certificate has expired, bootstrap again with a new token"
            raise _refused("the renewal was refused", address, error, hint) from error
    return _credentials(answer, keys)


def host_port(address: str, flag: str) -> tuple[str, int]:
    """Raises SETTINGS."""
    try:
        return split_address(address)
    except ValueError as error:
        raise MeshError(ErrorCode.SETTINGS, str(error), subject=flag) from error


def _channel(address: str, credentials: grpc.ChannelCredentials) -> grpc.Channel:
    return grpc.secure_channel(address, credentials, options=(("grpc.ssl_target_name_override", SERVER_NAME),))


def _requests(keys: Sequence[NewKey]) -> list[identity_pb2.CertificateRequest]:
    return [identity_pb2.CertificateRequest(spiffe_id=key.spiffe_id, csr_der=key.csr_der) for key in keys]


def _credentials(answer: identity_pb2.SignResponse, keys: Sequence[NewKey]) -> Credentials:
    if [item.spiffe_id for item in answer.certificates] != [key.spiffe_id for key in keys]:
        raise MeshError(
            ErrorCode.INTERNAL, "found certificates of other identities than were asked for", subject="sign"
        )
    signed = [
        KeyPair(
            spiffe_id=item.spiffe_id,
            chain_pem=item.chain_pem,
            key_pem=key.key_pem,
            not_after_s=float(item.not_after_s),
        )
        for item, key in zip(answer.certificates, keys, strict=True)
    ]
    return Credentials(
        node=signed[0], workload=signed[-1], roots_pem=answer.trust_bundle_pem, trust_domain=answer.trust_domain
    )


def _refused(what: str, address: str, error: grpc.RpcError, hint: str) -> MeshError:
    code, details = error.code(), error.details() or ""
    return MeshError(
        _CODES.get(code, ErrorCode.UNAVAILABLE),
        f"{what}: {code.name}: {details}".rstrip(": "),
        subject=address,
        hint=hint,
    )
