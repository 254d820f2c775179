"""The schema key: which layout the store holds, and a name for this very store.

Owns:   writing it once, refusing a newer layout.
Invariant: the value never changes within one schema version, so a reader that finds another value (etcd wiped or
        swapped for another) knows that it looks at a different store.
"""

import json
from collections.abc import Callable

from controlplane.store.keys import SCHEMA
from controlplane.store.protocol import ConfigStore, ModRevisionIs, Put
from mesh.errors import ErrorCode, MeshError

SCHEMA_VERSION = 1


async def ensure_schema(store: ConfigStore, *, new_store_id: Callable[[], str]) -> str:
    """Write the schema key if there is none; returns the store's id. Raises SETTINGS for a newer schema."""
    entry = await store.get(SCHEMA)
    if entry is None:
        value = json.dumps({"storeId": new_store_id(), "version": SCHEMA_VERSION}, sort_keys=True).encode()
        await store.transact([ModRevisionIs(SCHEMA, 0)], [Put(SCHEMA, value)])
        # Read again: another replica may have been first, and then its id is the store's.
        entry = await store.get(SCHEMA)
    return _store_id(entry.value if entry is not None else b"")


def _store_id(value: bytes) -> str:
    try:
        schema = json.loads(value)
        version, store_id = int(schema["version"]), str(schema["storeId"])
    except (ValueError, KeyError, TypeError) as error:
        raise MeshError(
            ErrorCode.UNREADABLE,
            f"found {value[:80]!r}, expected a schema version and a store id",
            subject=SCHEMA,
            hint="this etcd holds something else below /gossamer/v1/; use another one or remove that prefix",
        ) from error
    if version > SCHEMA_VERSION:
        raise MeshError(
            ErrorCode.SETTINGS,
            f"found schema version {version} in the store, expected at most {SCHEMA_VERSION}",
            subject=SCHEMA,
            hint="this store was written by a newer gossamer-controlplane: run that version or use another etcd",
        )
    return store_id
