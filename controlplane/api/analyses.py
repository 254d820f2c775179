"""Analysis of the mesh as it is, or as it would be with some objects: findings as JSON.

Owns:   joining the analysis of the objects with what connected proxies add to it.
Not:    finding anything (compiler.analysis).
Source: control-plane.md 2.6.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from controlplane.api.documents import Document
from controlplane.api.operations import Operations
from controlplane.api.status import is_problem
from controlplane.api.view import MeshView
from controlplane.api.writes import Caller
from controlplane.compiler.analysis import Finding, analyse, finding_of, ordered
from mesh.vocabulary import ObjectRef

Json = dict[str, Any]


class Analyst:
    """Answers analyses."""

    def __init__(self, view: MeshView, operations: Operations) -> None:
        self._view = view
        self._operations = operations

    async def analyse(self, caller: Caller, documents: Sequence[Document], *, namespace: str) -> Json:
        """Of the whole mesh; `documents` are laid over what is stored, none = as it is. Nothing is written."""
        planned = await self._operations.plan(caller, documents, namespace=namespace) if documents else ()
        puts = [plan.object for plan in planned]
        mesh = self._view.previewed(puts, [])
        # Pure and of immutable values: the loop need not wait for it.
        found = await asyncio.to_thread(analyse, mesh)
        return {"items": [finding_json(item) for item in ordered((*found, *self._of_proxies(found, puts)))]}

    def _of_proxies(self, found: Sequence[Finding], puts: Sequence[Any]) -> list[Finding]:
        """Conditions that come from connected proxies; of the objects that are only laid over nobody knows."""
        known = {(item.ref, item.code) for item in found}
        new: frozenset[ObjectRef] = frozenset(item.ref for item in puts)
        told = (
            finding_of(item)
            for item in self._view.conditions()
            if item.ref not in new and is_problem({"type": item.type, "status": item.status})
        )
        return [item for item in told if (item.ref, item.code) not in known]


def finding_json(finding: Finding) -> Json:
    """One finding."""
    ref = finding.ref
    return {
        "code": finding.code,
        "type": finding.name,
        "severity": finding.severity.value,
        "object": str(ref),
        "group": ref.group,
        "kind": ref.kind,
        "namespace": ref.namespace,
        "name": ref.name,
        "path": finding.path,
        "message": finding.message,
    }
