"""What a batch would change, before it is stored: at the objects, and at each proxy of this replica.

Owns:   compiling the mesh as it is and as it would be for the connected proxies, and comparing the two.
Not:    admission and planning (operations), the compiler.
Source: decision 23.

Invariants: nothing is stored and no stream sees anything: a compiler of its own is used, so that what streams share
        stays as it is. One diff at a time.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.api.changes import Planned
from controlplane.api.documents import Document
from controlplane.api.operations import Operations
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


class Differ:
    """Answers diffs."""

    def __init__(self, view: MeshView, operations: Operations) -> None:
        self._view = view
        self._operations = operations
        self._turn = asyncio.Lock()

    async def diff(self, caller: Caller, documents: Sequence[Document], *, namespace: str) -> Json:
        """The objects with their actions, and every resource that would differ with the nodes that have it."""
        planned = await self._operations.plan(caller, documents, namespace=namespace)
        before = self._view.mesh()
        after = self._view.previewed([plan.object for plan in planned], [])
        connected = self._view.connected()
        async with self._turn:
            changes = await _changes(before, after, connected)
        affected = {node for change in changes for node in change["nodes"]}
        return {
            "objects": [_object_json(plan) for plan in planned],
            "changes": changes,
            "unaffected": sorted(connected.keys() - affected),
            "partial": len(self._view.peers()) > 1,
        }


def _object_json(plan: Planned) -> Json:
    return {"object": str(plan.object.ref), "action": plan.action, "warnings": list(plan.warnings)}


async def _changes(before: MeshState, after: MeshState, connected: Mapping[str, Proxy]) -> list[Json]:
    compiler = Compiler()
    old = {node: await _compiled(compiler, before, proxy) for node, proxy in connected.items()}
    found: dict[_Change, Json] = {}
    for node, proxy in sorted(connected.items()):
        _note(found, node, old[node], await _compiled(compiler, after, proxy))
    order = {SHORT_NAMES[url]: place for place, url in enumerate(PUSH_ORDER)}
    return sorted(found.values(), key=lambda item: (order[item["type"]], item["name"]))


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
