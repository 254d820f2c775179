"""The replicas of the control plane that are alive: who can be asked about its own proxies. Pure.

Owns:   the record that each keeps in the store on its lease.
Not:    writing it (reconcile.replica), asking the others (api.peers).
Source: decision 16: each replica keeps its own proxies, REST asks the others.
"""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """`rest`: host:port of its REST API; `started_at`: seconds since the epoch."""

    name: str
    rest: str
    started_at: int = 0


def decode_replica(name: str, value: bytes) -> ReplicaRecord:
    """From the stored form. Raises ValueError."""
    record: Any = json.loads(value)
    if not isinstance(record, dict) or not isinstance(record.get("rest"), str):
        raise ValueError(f"found {value[:80]!r}, expected an object with rest")
    started_at = record.get("startedAt", 0)
    return ReplicaRecord(
        name=name, rest=record["rest"], started_at=started_at if isinstance(started_at, int) else 0
    )  # fmt: skip
