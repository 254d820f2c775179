"""The gRPC methods of etcd that the store calls: etcd's paths with our own messages (proto/.../wire/rpc.proto)."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from controlplane.store.etcd.wire import rpc_pb2 as wire

Req = TypeVar("Req", bound=Message)
Resp = TypeVar("Resp", bound=Message)


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Resp]):
    """A method: its path, its messages, and whether a second try after a lost answer is harmless."""

    path: str
    request: type[Req]
    response: type[Resp]
    repeatable: bool = False


RANGE = Method("/etcdserverpb.KV/Range", wire.RangeRequest, wire.RangeResponse, repeatable=True)
TXN = Method("/etcdserverpb.KV/Txn", wire.TxnRequest, wire.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", wire.CompactionRequest, wire.CompactionResponse)
WATCH = Method("/etcdserverpb.Watch/Watch", wire.WatchRequest, wire.WatchResponse)
LEASE_GRANT = Method("/etcdserverpb.Lease/LeaseGrant", wire.LeaseGrantRequest, wire.LeaseGrantResponse)
LEASE_REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", wire.LeaseRevokeRequest, wire.LeaseRevokeResponse)
LEASE_KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", wire.LeaseKeepAliveRequest, wire.LeaseKeepAliveResponse)
LEASE_TIME_TO_LIVE = Method(
    "/etcdserverpb.Lease/LeaseTimeToLive", wire.LeaseTimeToLiveRequest, wire.LeaseTimeToLiveResponse, repeatable=True
)
AUTHENTICATE = Method(
    "/etcdserverpb.Auth/Authenticate", wire.AuthenticateRequest, wire.AuthenticateResponse, repeatable=True
)
STATUS = Method("/etcdserverpb.Maintenance/Status", wire.StatusRequest, wire.StatusResponse, repeatable=True)
MEMBER_LIST = Method(
    "/etcdserverpb.Cluster/MemberList", wire.MemberListRequest, wire.MemberListResponse, repeatable=True
)
