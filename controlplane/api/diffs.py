"""What a batch would change, before it is stored: at the objects, and at each proxy of every replica.

Owns:   compiling the mesh as it is and as it would be for the connected proxies, and comparing the two; joining what
        the other replicas say of theirs.
Not:    admission and planning (operations), the compiler.
Source: decision 23.

Invariants: nothing is stored and no stream sees anything: a compiler of its own is used, so that what streams share
        stays as it is. One diff at a time.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.api.changes import Planned
from controlplane.api.documents import Document
from controlplane.api.operations import Operations
from controlplane.api.peers import PeerAnswers, Peers, partial
from controlplane.api.state_json import resource_json
from controlplane.api.view import MeshView
from controlplane.api.writes import Caller
from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Resource
from controlplane.model.mesh_state import MeshState
from controlplane.model.proxy import Proxy
from controlplane.snapshot.diff import changed_names
from controlplane.snapshot.view import View
from mesh.xds.type_url import PUSH_ORDER, SHORT_NAMES

Json = dict[str, Any]
# (type, name, version before, version after): the same change at several nodes
_Change = tuple[str, str, str, str]
_ORDER = {SHORT_NAMES[url]: place for place, url in enumerate(PUSH_ORDER)}
_COMPILING_S = 30.0  # another replica compiles the mesh twice for each of its proxies


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffQuestion:
    """What would be applied. `local`: only this replica's proxies, another one asks."""

    documents: Sequence[Document]
    namespace: str
    authorization: str = ""
    local: bool = False


class Differ:
    """Answers diffs."""

    def __init__(self, view: MeshView, operations: Operations, peers: Peers) -> None:
        self._view = view
        self._operations = operations
        self._peers = peers
        self._turn = asyncio.Lock()

    async def diff(self, caller: Caller, question: DiffQuestion) -> Json:
        """The objects with their actions, and every resource that would differ with the nodes that have it."""
        planned = await self._operations.plan(caller, question.documents, namespace=question.namespace)
        mine, answers = await asyncio.gather(self._own(planned), self._ask(caller, question))
        parts = [mine, *(value for value in answers.values.values() if value is not None)]
        return {"objects": [_object_json(plan) for plan in planned], **_joined(parts), **partial(answers)}

    async def _own(self, planned: Sequence[Planned]) -> Json:
        before = self._view.mesh()
        after = self._view.previewed([plan.object for plan in planned], [])
        connected = self._view.connected()
        async with self._turn:
            changes = await _changes(before, after, connected)
        affected = {node for change in changes for node in change["nodes"]}
        return {"changes": changes, "unaffected": sorted(connected.keys() - affected)}

    async def _ask(self, caller: Caller, question: DiffQuestion) -> PeerAnswers:
        if question.local:
            return PeerAnswers()
        parameters = {"namespace": question.namespace, "fieldValidation": "Strict" if caller.strict else "Warn"}
        manifests = [document.manifest for document in question.documents]
        return await self._peers.post(
            self._view.peers(), "/mesh/v1/diff", parameters, question.authorization, manifests, wait_s=_COMPILING_S
        )


def _joined(parts: Sequence[Json]) -> Json:
    """The same change at proxies of several replicas is one."""
    found: dict[str, Json] = {}
    for part in parts:
        for change in part["changes"]:
            key = json.dumps([change[name] for name in ("type", "name", "before", "after")], sort_keys=True)
            known = found.setdefault(key, {**change, "nodes": []})
            known["nodes"] = sorted({*known["nodes"], *change["nodes"]})
    changes = sorted(found.values(), key=_place)
    affected = {node for change in changes for node in change["nodes"]}
    unaffected = {node for part in parts for node in part["unaffected"]} - affected
    return {"changes": changes, "unaffected": sorted(unaffected)}


def _place(change: Json) -> tuple[int, str, list[str]]:
    return _ORDER[change["type"]], change["name"], change["nodes"]


def _object_json(plan: Planned) -> Json:
    return {"object": str(plan.object.ref), "action": plan.action, "warnings": list(plan.warnings)}


async def _changes(before: MeshState, after: MeshState, connected: Mapping[str, Proxy]) -> list[Json]:
    compiler = Compiler()
    old = {node: await _compiled(compiler, before, proxy) for node, proxy in connected.items()}
    found: dict[_Change, Json] = {}
    for node, proxy in sorted(connected.items()):
        _note(found, node, old[node], await _compiled(compiler, after, proxy))
    return sorted(found.values(), key=_place)


async def _compiled(compiler: Compiler, mesh: MeshState, proxy: Proxy) -> View:
    await asyncio.sleep(0)  # others get a turn between two proxies
    return View(
        mesh.revision, compiler.compile_scope(mesh, mesh.scope_of(proxy)), compiler.compile_proxy(mesh, proxy)
    )  # fmt: skip


def _note(found: dict[_Change, Json], node: str, old: View, new: View) -> None:
    shared, own = changed_names(old.shared, new.shared), changed_names(old.own, new.own)
    for url in shared.keys() | own.keys():
        for name in {*shared.get(url, ()), *own.get(url, ())}:
            before, after = old.get(url, name), new.get(url, name)
            versions = (_version(before), _version(after))
            if versions[0] != versions[1]:
                change = found.setdefault((url, name, *versions), _change_json(url, name, before, after))
                change["nodes"].append(node)


def _version(resource: Resource | None) -> str:
    return resource.version if resource is not None else ""


def _change_json(url: str, name: str, before: Resource | None, after: Resource | None) -> Json:
    return {
        "type": SHORT_NAMES[url],
        "name": name,
        "change": "added" if before is None else "removed" if after is None else "changed",
        "before": resource_json(before)["resource"] if before is not None else None,
        "after": resource_json(after)["resource"] if after is not None else None,
        "nodes": [],
    }
