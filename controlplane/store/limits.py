"""How large one transaction may be, and the words when it is larger (decision 19). Pure.

Owns:   the two limits, their defaults for an existing etcd and for the embedded one, and the check.
Source: etcd's --max-txn-ops (default 128) and --max-request-bytes (default 1.5 MiB); etcd counts checks and
        operations each against the first, and the whole encoded request against the second.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.store.protocol import Check, Op, Put
from mesh.errors import ErrorCode, MeshError

# Two operations of each apply are ours: the apply record, and what the objects were before.
RESERVED_OPS = 2
# What a key costs on the wire beside its own bytes: tags, lengths, revision, lease. An upper bound.
_OVERHEAD_BYTES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class TxnLimits:
    """`max_ops` operations and `max_bytes` encoded bytes in one transaction."""

    max_ops: int = 128
    max_bytes: int = 1_468_006  # 1.4 MiB: below etcd's 1.5 MiB by what its own envelope may take

    @property
    def batch_ops(self) -> int:
        """How many objects one apply may hold."""
        return self.max_ops - RESERVED_OPS


_ENVELOPE_BYTES = 65_536  # of a large request, what is not keys and values


def limits_of(max_txn_ops: int, max_request_bytes: int) -> TxnLimits:
    """For an etcd that was started with these; 0 = etcd's default."""
    default = TxnLimits()
    return TxnLimits(
        max_ops=max_txn_ops or default.max_ops,
        max_bytes=max(max_request_bytes - _ENVELOPE_BYTES, 0) if max_request_bytes else default.max_bytes,
    )


EMBEDDED_LIMITS = limits_of(4096, 8_388_608)


def size_bytes(checks: Sequence[Check], ops: Sequence[Op]) -> int:
    """An upper bound of the encoded size of a transaction."""
    keys = sum(len(item.key.encode()) + _OVERHEAD_BYTES for item in (*checks, *ops))
    return keys + sum(len(op.value) for op in ops if isinstance(op, Put))


def check_transaction(checks: Sequence[Check], ops: Sequence[Op], limits: TxnLimits) -> None:
    """Raise TOO_LARGE beyond the limits, INVALID for a key that stands twice among the operations."""
    size = size_bytes(checks, ops)
    if max(len(ops), len(checks)) > limits.max_ops or size > limits.max_bytes:
        raise MeshError(
            ErrorCode.TOO_LARGE,
            f"found {len(ops)} operations with {size} bytes in one transaction, "
            f"expected at most {limits.max_ops} operations (of which {RESERVED_OPS} are Gossamer's own) "
            f"and {limits.max_bytes} bytes",
            subject="transaction",
            hint="apply fewer objects at once, or raise --etcd-max-txn-ops and --etcd-max-request-bytes together with "
            "etcd's own --max-txn-ops and --max-request-bytes",
        )
    keys = {op.key for op in ops}
    if len(keys) != len(ops):
        twice = sorted(key for key in keys if sum(op.key == key for op in ops) > 1)
        raise MeshError(ErrorCode.INVALID, "found the key twice in one transaction, expected once", subject=twice[0])
