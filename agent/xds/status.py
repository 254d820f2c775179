"""What this agent has of its resources, in the words of CSDS. Pure.

Owns:   ClientConfig.
Not:    who is told it (agent.report, agent.admin).
Source: envoy/service/status/v3/csds.proto, envoy/admin/v3/config_dump_shared.proto; control-plane.md 5, rule 27: a
        refused resource may be held in an older version, which only the client knows.

    ACKED           held, and nothing newer was refused
    NACKED          its newest version was refused; `version_info` is what is held instead, "" for nothing
    DOES_NOT_EXIST  asked for by name, and the server said so, or nothing for 15 s
    REQUESTED       asked for by name, not answered yet
"""

from collections.abc import Iterator

from envoy.admin.v3.config_dump_shared_pb2 import ClientResourceStatus
from envoy.config.core.v3.base_pb2 import Node
from envoy.service.status.v3.csds_pb2 import ClientConfig

from agent.xds.resources import WILDCARD
from agent.xds.session import AdsSession, TypeState

MAX_CONTENTS_BYTES = 4 * 1024 * 1024  # of all resources; when there is more, none is told

Entry = ClientConfig.GenericXdsConfig


def client_config(session: AdsSession, node: Node, *, contents: bool = False) -> ClientConfig:
    """All resources, by type and name; with their `contents` as far as these are not too many."""
    size = sum(len(item.body) for item in session.all_held())
    whole = contents and size <= MAX_CONTENTS_BYTES
    found = ClientConfig(node=Node(id=node.id, user_agent_name=node.user_agent_name, locality=node.locality))
    for url, state in session.types.items():
        found.generic_xds_configs.extend(_entries(url, state, contents=whole))
    return found


def _entries(url: str, state: TypeState, *, contents: bool) -> Iterator[Entry]:
    named = (state.subscribed or set()) - {WILDCARD}
    for name in sorted({*state.held, *state.refused, *state.absent, *named}):
        held = state.held.get(name)
        entry = Entry(
            type_url=url,
            name=name,
            version_info=held.version if held is not None else "",
            client_status=_status(state, name),
        )
        if name in state.refused:
            entry.error_state.details = state.refused[name]
            entry.error_state.version_info = state.refused_versions.get(name, "")
        elif name in state.absent:
            entry.error_state.details = state.absent[name]
        if contents and held is not None and held.decoded.pair is None:  # a key goes nowhere
            entry.xds_config.type_url, entry.xds_config.value = url, held.body
        yield entry


def _status(state: TypeState, name: str) -> "ClientResourceStatus.ValueType":
    if name in state.refused:
        return ClientResourceStatus.NACKED
    if name in state.held:
        return ClientResourceStatus.ACKED
    return ClientResourceStatus.DOES_NOT_EXIST if name in state.absent else ClientResourceStatus.REQUESTED
