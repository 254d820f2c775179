"""etcd's answers as MeshErrors: one table from gRPC status and text to code and remedy.

Source: the error texts of etcd's api/v3rpc/rpctypes, which its own clients also match on.
Differs: a deadline that passed is UNAVAILABLE here, as the store's contract says of every lost answer.
"""

import grpc

from mesh.errors import ErrorCode, MeshError

NO_SPACE_HINT = (
    "compact and defragment etcd (etcdctl compact, etcdctl defrag) or start it with a larger --quota-backend-bytes; "
    "then disarm its alarm (etcdctl alarm disarm)"
)
# (text that the details contain, code, hint); the first match wins, before the status is looked at.
_BY_TEXT: tuple[tuple[str, ErrorCode, str], ...] = (
    ("required revision has been compacted", ErrorCode.COMPACTED, "list again"),
    ("required revision is a future revision", ErrorCode.UNAVAILABLE, "this etcd member is behind; try again"),
    ("too many operations", ErrorCode.TOO_LARGE, "start etcd with a larger --max-txn-ops"),
    ("request is too large", ErrorCode.TOO_LARGE, "start etcd with a larger --max-request-bytes"),
    ("message larger than max", ErrorCode.TOO_LARGE, "start etcd with a larger --max-request-bytes"),
    ("duplicate key given", ErrorCode.INVALID, ""),
    ("requested lease not found", ErrorCode.NOT_FOUND, ""),
    ("database space exceeded", ErrorCode.NO_SPACE, NO_SPACE_HINT),
    ("authentication failed", ErrorCode.UNAUTHENTICATED, "check --etcd-user and --etcd-password-file"),
    ("user name is empty", ErrorCode.UNAUTHENTICATED, "this etcd asks for --etcd-user and --etcd-password-file"),
    ("permission denied", ErrorCode.PERMISSION_DENIED, "grant --etcd-user read and write on /gossamer/"),
)
_BY_STATUS: dict[grpc.StatusCode, ErrorCode] = {
    grpc.StatusCode.UNAVAILABLE: ErrorCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED: ErrorCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorCode.UNAVAILABLE,  # etcd: too many requests
    grpc.StatusCode.UNAUTHENTICATED: ErrorCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: ErrorCode.PERMISSION_DENIED,
    grpc.StatusCode.NOT_FOUND: ErrorCode.NOT_FOUND,
}
# etcd refused the request before it looked at it: authenticate again, then a second try is safe for a write too.
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old")


def is_stale_token(error: grpc.aio.AioRpcError) -> bool:
    """True when the request was refused because the token has expired, or users were changed since."""
    return text_is_stale_token(error.details() or "")


def text_is_stale_token(details: str) -> bool:
    """The same for the reason of a cancelled watch."""
    return any(text in details for text in _STALE_TOKEN)


def mesh_error(error: grpc.aio.AioRpcError, *, subject: str) -> MeshError:
    """What a failed call means. `subject` names the endpoints."""
    details = error.details() or error.code().name.lower()
    for text, code, hint in _BY_TEXT:
        if text in details:
            return MeshError(code, f"etcd: {details}", subject=subject, hint=hint)
    return MeshError(_BY_STATUS.get(error.code(), ErrorCode.INTERNAL), f"etcd: {details}", subject=subject)


def unreachable(endpoints: tuple[str, ...], *, embedded: bool) -> MeshError:
    """No endpoint answers: one line with the remedy."""
    hint = (
        "it is started again by itself; see etcd.log in the --embedded-etcd directory"
        if embedded
        else "start one there or use --embedded-etcd DIR"
    )
    return MeshError(ErrorCode.UNAVAILABLE, f"cannot reach etcd at {', '.join(endpoints)}", hint=hint)
