"""The store that the settings name: an etcd cluster, or one of our own as a child.

Owns:   starting the embedded etcd, the client's options, the schema of an empty store.
Not:    the store itself (store), its closing (the stack that is given).
Source: design section 1; docs/architecture.md, "Store".
"""

import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from controlplane.files import read_text
from controlplane.settings import Settings
from controlplane.store.embedded import EmbeddedEtcd, EmbeddedOptions
from controlplane.store.etcd.options import EtcdOptions
from controlplane.store.etcd.store import EtcdStore
from controlplane.store.limits import limits_of
from controlplane.store.protocol import ConfigStore
from controlplane.store.schema import ensure_schema
from mesh.secret import Secret


@dataclass(frozen=True, slots=True)
class OpenStore:
    """The store and where it is."""

    store: ConfigStore
    endpoints: str


async def open_store(settings: Settings, stack: AsyncExitStack) -> OpenStore:
    """A store that answers and has our schema. Raises MeshError."""
    if settings.embedded_etcd:
        etcd = EmbeddedEtcd(EmbeddedOptions(directory=Path(settings.embedded_etcd).absolute()))
        await etcd.start()
        stack.push_async_callback(etcd.stop)
        options = etcd.client_options()
    else:
        options = etcd_options(settings)
    store = EtcdStore(options)
    stack.push_async_callback(store.close)
    await store.check()
    await ensure_schema(store, new_store_id=lambda: secrets.token_hex(8))
    return OpenStore(store, ",".join(options.endpoints))


def etcd_options(settings: Settings) -> EtcdOptions:
    """How a cluster is reached. Raises SETTINGS when the password cannot be read."""
    password = Secret("")
    if settings.etcd_password_file:
        password = Secret(read_text("etcd_password_file", settings.etcd_password_file).strip())
    return EtcdOptions(
        endpoints=tuple(part.strip() for part in settings.etcd.split(",") if part.strip()),
        ca_file=_path(settings.etcd_ca),
        cert_file=_path(settings.etcd_cert),
        key_file=_path(settings.etcd_key),
        user=settings.etcd_user,
        password=password,
        limits=limits_of(settings.etcd_max_txn_ops, settings.etcd_max_request_bytes),
    )


def _path(text: str) -> Path | None:
    return Path(text) if text else None
