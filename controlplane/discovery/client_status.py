"""What each connected proxy has of its resources: what its agent says, joined with what was sent and acknowledged.

Owns:   ClientConfigs from the nonce ledger, and the joining.
Not:    the gRPC service (csds), asking agents (agent_desk), REST's shape (api.state_json).
Source: envoy/service/status/v3/csds.proto; control-plane.md 5, rule 27. `config_status` is the server's word,
        `client_status` the client's.

    ledger                      config_status   client_status, unless the agent says better
    acknowledged                SYNCED          ACKED
    sent, not answered          STALE           ACKED when an older version was acknowledged, else REQUESTED
    held back                   NOT_SENT        the same
    refused                     ERROR           NACKED, with reason and version
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.status.v3.csds_pb2 import ClientConfig, ConfigStatus
from google.protobuf.any_pb2 import Any as AnyMessage

from controlplane.compiler.types import Resource
from controlplane.discovery.agent_desk import AgentDesk
from controlplane.distribution.ledger import Connection, DistributionLedger
from controlplane.distribution.stream_sync import StreamSync, TypeSync
from controlplane.snapshot.view import View
from mesh.vocabulary import Dialect
from mesh.xds.names import USER_SECRETS
from mesh.xds.type_url import PUSH_ORDER, SECRET

MAX_ASKED_AT_ONCE = 64
Entry = ClientConfig.GenericXdsConfig
Chosen = Callable[[str], bool]  # by node name


class Views(Protocol):
    """controlplane.snapshot.cache.SnapshotCache, as far as it is used here."""

    def view_on(self, stream: int) -> View | None: ...


class ClientStatuses:
    """The proxies of this replica."""

    def __init__(self, ledger: DistributionLedger, views: Callable[[], Views], desk: AgentDesk) -> None:
        self._ledger = ledger
        self._views = views
        self._desk = desk
        self._turns = asyncio.Semaphore(MAX_ASKED_AT_ONCE)

    async def of(self, chosen: Chosen, *, contents: bool = False) -> list[ClientConfig]:
        """One ClientConfig per stream of the chosen nodes, sorted by node. `contents`: with the resources."""
        found = [(connection, sync) for connection, sync in self._ledger.streams() if chosen(connection.node)]
        configs = await asyncio.gather(*(self._one(*item, contents=contents) for item in found))
        return [config for _, config in sorted(zip(found, configs, strict=True), key=lambda item: _order(item[0][0]))]

    async def _one(self, connection: Connection, sync: StreamSync, *, contents: bool) -> ClientConfig:
        view = self._views().view_on(connection.stream)
        told = _of_ledger(connection, sync, view, contents=contents)
        if connection.dialect is not Dialect.GOSSAMER:
            return told
        async with self._turns:
            said = await self._desk.client_config(connection.node, contents=contents)
        return told if said is None else _joined(told, said)


def _order(connection: Connection) -> tuple[str, int]:
    return connection.node, connection.stream


def _of_ledger(connection: Connection, sync: StreamSync, view: View | None, *, contents: bool) -> ClientConfig:
    node = Node(id=connection.node, user_agent_name=connection.user_agent)
    place = connection.locality
    node.locality.region, node.locality.zone, node.locality.sub_zone = place.region, place.zone, place.sub_zone
    config = ClientConfig(node=node, client_scope=f"stream {connection.stream}")
    for url in PUSH_ORDER:
        if url in sync.types:
            config.generic_xds_configs.extend(_entries(url, sync.types[url], view, contents=contents))
    return config


def _entries(url: str, sync: TypeSync, view: View | None, *, contents: bool) -> Iterator[Entry]:
    sent = {name: resource for one in sync.outstanding.values() for name, resource in one.resources.items()}
    for name in sorted({*sync.accepted, *sync.rejected, *sync.held, *sent}):
        accepted = name in sync.accepted
        entry = Entry(
            type_url=url,
            name=name,
            client_status=ClientResourceStatus.ACKED if accepted else ClientResourceStatus.REQUESTED,
            config_status=_config_status(sync, sent, name),
        )
        rejection = sync.rejected.get(name)
        if rejection is not None:
            entry.client_status = ClientResourceStatus.NACKED
            entry.error_state.details, entry.error_state.version_info = rejection.reason, rejection.version
        resource = view.get(url, name) if view is not None else None
        if resource is not None and entry.config_status == ConfigStatus.SYNCED:
            entry.version_info = resource.version
        if contents and resource is not None and not _is_private(url, name):
            entry.xds_config.CopyFrom(AnyMessage.FromString(resource.any_bytes))
        yield entry


def _is_private(url: str, name: str) -> bool:
    """The user's keys go to the proxies that are given them, and to nobody else."""
    return url == SECRET and name.startswith(USER_SECRETS)


def _config_status(sync: TypeSync, sent: Mapping[str, Resource | None], name: str) -> "ConfigStatus.ValueType":
    if name in sync.rejected:
        return ConfigStatus.ERROR
    if name in sync.held:
        return ConfigStatus.NOT_SENT
    return ConfigStatus.STALE if name in sent else ConfigStatus.SYNCED


def _joined(told: ClientConfig, said: ClientConfig) -> ClientConfig:
    """The client's word on what it has, with the server's on what was sent."""
    status = {(entry.type_url, entry.name): entry.config_status for entry in told.generic_xds_configs}
    joined = ClientConfig(node=told.node, client_scope=told.client_scope)
    known = set()
    for entry in said.generic_xds_configs:
        key = (entry.type_url, entry.name)
        known.add(key)
        # What was never sent: the client waits for it, or the server does not have it.
        entry.config_status = status.get(key, ConfigStatus.NOT_SENT)
        joined.generic_xds_configs.append(entry)
    joined.generic_xds_configs.extend(
        entry for entry in told.generic_xds_configs if (entry.type_url, entry.name) not in known
    )
    return joined
