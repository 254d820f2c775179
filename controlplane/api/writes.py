"""The transaction around a change of objects: read, plan, foresee, commit, and what became of each object.

Owns:   who asks and how (Caller), the results, the apply record and what it keeps of the objects' former selves.
Not:    what one object becomes (changes), which changes a request asks for (operations, history), storing.
Source: decisions 4, 16, 17, 19.

Invariants:
  A request is one transaction: all of its objects, the apply record and its content, or nothing.
  Every object that is written is compared with the revision that was read, so that generation, uid and
  creationTimestamp are those of the object that it replaces; a lost race without a precondition is tried again.
  A request that changes nothing writes nothing and has the revision of the youngest of its objects.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from controlplane.api import changes
from controlplane.api.changes import Change, Planned
from controlplane.api.served import Manifest
from controlplane.api.status import is_problem
from controlplane.api.view import Dependencies
from controlplane.compiler.types import Condition
from controlplane.policy.kinds import KindInfo
from controlplane.store import applies, history, rollouts
from controlplane.store.applies import AppliedObject, ApplyRecord
from controlplane.store.keys import ROLLOUT_ACTIVE, ObjectKey
from controlplane.store.protocol import Check, Delete, Entry, ModRevisionIs, Op, Put
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef

TRIES = 8
_READS_AT_ONCE = 64

Present = Mapping[ObjectKey, Entry | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and how: `dry_run` runs everything but the write; not `strict` drops unknown fields with a warning.

    `reason` stands in the history when the objects are not the author's own manifests ("rollback to 42").
    """

    author: str
    dry_run: bool = False
    strict: bool = True
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectResult:
    """What became of one object. `manifest` is in the storage version; `before`: the stored value until then."""

    ref: ObjectRef
    kind: KindInfo
    action: str
    manifest: Manifest
    warnings: tuple[str, ...] = ()
    before: bytes | None = None

    def in_version(self, version: str) -> Manifest:
        return {**self.manifest, "apiVersion": self.kind.api_version(version)} if version else self.manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """`revision`: wait for it at /mesh/v1/revisions/{revision}. Results in the order of the request."""

    revision: int
    results: tuple[ObjectResult, ...]


class Writer:
    """Commits changes."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._store = dependencies.store
        self._view = dependencies.view
        self._clock = dependencies.clock

    async def commit(self, caller: Caller, wanted: Sequence[Change]) -> BatchResult:
        """Make all changes or none. Raises what a change's plan raises, CONFLICT when others are always faster."""

        async def same() -> Sequence[Change]:
            return wanted

        return await self.commit_latest(caller, same)

    async def commit_latest(self, caller: Caller, wanted: Callable[[], Awaitable[Sequence[Change]]]) -> BatchResult:
        """The same for changes that must be found anew at each try, as they depend on what others did meanwhile."""
        for _ in range(TRIES):
            done = await self._attempt(caller, await wanted())
            if done is not None:
                return done
        raise MeshError(
            ErrorCode.CONFLICT,
            f"others changed the same objects {TRIES} times meanwhile; nothing was changed",
            hint="try again",
        )

    async def _attempt(self, caller: Caller, wanted: Sequence[Change]) -> BatchResult | None:
        """None when the race was lost."""
        present = await self.read([change.key for change in wanted])
        planned = plan_all(wanted, present)
        different = [plan for plan in planned if plan.action != changes.UNCHANGED]
        warnings = self._foresee(different)
        revision = max((entry.mod_revision for entry in present.values() if entry is not None), default=0)
        free = await self._free_of_rollouts(different)
        if caller.dry_run or not different:
            return _result(planned, present, revision, warnings)
        checks, ops = _transaction(different, present)
        checks.append(free)
        record, content = self._record(caller, different), _content(different, present)
        done = await applies.commit(self._store, record, checks, ops, content)
        if not done.succeeded:
            return None
        written = {plan.key: done.revision for plan in different}
        return _result(planned, present, done.revision, warnings, written)

    async def read(self, keys: Sequence[ObjectKey]) -> Present:
        """The stored objects."""
        present: dict[ObjectKey, Entry | None] = {}
        for start in range(0, len(keys), _READS_AT_ONCE):
            some = keys[start : start + _READS_AT_ONCE]
            entries = await asyncio.gather(*(self._store.get(key.object_key()) for key in some))
            present.update(zip(some, entries, strict=True))
        return present

    async def _free_of_rollouts(self, planned: Sequence[Planned]) -> Check:
        """That no rollout begins meanwhile. Raises CONFLICT when one is under way with one of the objects."""
        active, revision = await rollouts.under_way(self._store)
        problem = rollouts.in_the_way(active, [plan.object.ref for plan in planned]) if active is not None else None
        if problem is not None:
            raise problem
        return ModRevisionIs(ROLLOUT_ACTIVE, revision)

    def _record(self, caller: Caller, planned: Sequence[Planned]) -> ApplyRecord:
        now = self._clock.wall()
        objects = tuple(
            AppliedObject(ref=plan.object.ref, action=plan.action, generation=plan.object.metadata.generation)
            for plan in planned
        )
        return ApplyRecord(
            id=applies.ulid(now, os.urandom(10)),
            author=caller.author,
            at_ms=int(now * 1000),
            objects=objects,
            reason=caller.reason,
        )

    def _foresee(self, planned: Sequence[Planned]) -> Mapping[ObjectRef, Sequence[str]]:
        """What the mesh would say about the written objects (decision 4: a `Warning:` header)."""
        puts = [plan.object for plan in planned if plan.value is not None]
        deletes = [plan.object.ref for plan in planned if plan.value is None]
        if not puts:
            return {}
        return _problems_of(self._view.preview(puts, deletes), frozenset(item.ref for item in puts))


def plan_all(wanted: Sequence[Change], present: Present) -> list[Planned]:
    """Every change's plan. What is not there is named all at once; anything else that is wrong ends it."""
    planned: list[Planned] = []
    missing: list[str] = []
    for change in wanted:
        try:
            planned.append(change.plan(present.get(change.key)))
        except MeshError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            missing.append(error.subject)
    if missing:
        raise MeshError(ErrorCode.NOT_FOUND, "not found", subject=", ".join(missing))
    return planned


def _result(
    planned: Sequence[Planned],
    present: Present,
    revision: int,
    foreseen: Mapping[ObjectRef, Sequence[str]],
    written: Mapping[ObjectKey, int] | None = None,
) -> BatchResult:
    results = []
    for plan in planned:
        entry = present.get(plan.key)
        at = (written or {}).get(plan.key, entry.mod_revision if entry else 0)
        manifest = plan.object.manifest()
        if at:
            manifest["metadata"]["resourceVersion"] = str(at)
        warnings = (*plan.warnings, *foreseen.get(plan.object.ref, ()))
        results.append(
            ObjectResult(
                ref=plan.object.ref,
                kind=plan.object.kind,
                action=plan.action,
                manifest=manifest,
                warnings=tuple(dict.fromkeys(warnings)),
                before=entry.value if entry is not None else None,
            )
        )
    return BatchResult(revision=revision, results=tuple(results))


def _problems_of(
    conditions: Sequence[Condition], refs: frozenset[ObjectRef]
) -> Mapping[ObjectRef, Sequence[str]]:  # fmt: skip
    """What needs attention of the objects `refs`, in words."""
    found: dict[ObjectRef, list[str]] = {}
    for item in conditions:
        if item.ref in refs and is_problem({"type": item.type, "status": item.status}):
            found.setdefault(item.ref, []).append(f"{item.ref}: {item.type}: {item.message}")
    return found


def _transaction(planned: Sequence[Planned], present: Present) -> tuple[list[Check], list[Op]]:
    checks: list[Check] = []
    ops: list[Op] = []
    for plan in planned:
        entry = present.get(plan.key)
        key = plan.key.object_key()
        checks.append(ModRevisionIs(key, entry.mod_revision if entry else 0))
        ops.append(Delete(key) if plan.value is None else Put(key, plan.value))
    return checks, ops


def _content(planned: Sequence[Planned], present: Present) -> bytes:
    entries = [present.get(plan.key) for plan in planned]
    return history.pack([entry.value if entry is not None else None for entry in entries])
