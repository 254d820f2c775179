"""Staged rollouts of configuration: beginning, looking, promoting, aborting.

Owns:   what a rollout of a batch is refused for; the moves that people ask for.
Not:    the state machine (model.rollout_steps), going on with it (reconcile.rollouts), JSON (rollout_json), HTTP.
Source: decision 24.
"""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from controlplane.api import changes
from controlplane.api.changes import Planned as PlannedChange
from controlplane.api.changes import Stamp, Write
from controlplane.api.documents import Document, admit_all
from controlplane.api.errors import FieldProblem, InvalidObjects
from controlplane.api.status import is_problem
from controlplane.api.view import Dependencies
from controlplane.api.writes import TRIES, Caller, Present, Writer, plan_all
from controlplane.compiler.types import Condition
from controlplane.model.rollout import Event, Plan, Promoted, Stopped
from controlplane.model.rollout_observation import Observation, joined
from controlplane.model.rollout_record import Planned, Record
from controlplane.model.rollout_rules import unstageable
from controlplane.model.rollout_steps import begin, step
from controlplane.policy.objects import PolicyObject, decode
from controlplane.store import applies, rollouts
from controlplane.store.rollouts import Stored
from mesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True)
class Begun:
    """`stored` is None after a dry run, or when every object is as stored; `warnings` by place in `planned`."""

    stored: Stored | None
    planned: Sequence[PlannedChange]
    warnings: Sequence[tuple[str, ...]]


class Rollouts:
    """One per process."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._store = dependencies.store
        self._view = dependencies.view
        self._clock = dependencies.clock
        self._writer = Writer(dependencies)

    async def begin(self, caller: Caller, documents: Sequence[Document], plan: Plan, *, namespace: str) -> Begun:
        """Admit the objects as a batch would be and begin. Raises InvalidObjects, CONFLICT, TOO_LARGE."""
        now = self._clock.wall()
        stamp = Stamp(now, lambda: str(uuid.uuid4()))
        writes = [Write(admission=item, stamp=stamp) for item in admit_all(documents, namespace, strict=caller.strict)]
        present = await self._writer.read([write.key for write in writes])
        planned = plan_all(writes, present)
        _check(documents, planned, present)
        different = [item for item in planned if item.action != changes.UNCHANGED]
        warnings = self._warnings(planned, different)
        if caller.dry_run or not different:
            return Begun(None, planned, warnings)
        rollout = begin(applies.ulid(now, os.urandom(10)), caller.author, plan, now)
        record = Record(rollout=rollout, objects=tuple(_planned(item, present) for item in different))
        revision = await rollouts.begin(self._store, record)
        return Begun((record, revision), planned, warnings)

    async def all(self) -> list[Stored]:
        """Newest first."""
        return await rollouts.load_all(self._store)

    async def get(self, id_: str) -> Stored:
        """Raises NOT_FOUND."""
        return await rollouts.load(self._store, id_)

    async def seen(self, record: Record) -> Observation | None:
        """What proxies say of it now; None when it has ended."""
        if not record.rollout.state.active:
            return None
        reports = await rollouts.load_reports(self._store)
        replicas = [peer.name for peer in self._view.peers()]
        return joined(reports, replicas, record.rollout.id, record.rollout.state.epoch, late_too=True)

    async def promote(self, author: str, id_: str) -> Stored:
        """On to the next stage now. Raises NOT_FOUND, CONFLICT when it has ended."""
        return await self._move(id_, Promoted(author))

    async def abort(self, author: str, id_: str) -> Stored:
        """Take the candidate away from everybody. Raises NOT_FOUND, CONFLICT when it has ended."""
        return await self._move(id_, Stopped(author))

    async def _move(self, id_: str, event: Event) -> Stored:
        for _ in range(TRIES):
            record, revision = await self.get(id_)
            if not record.rollout.state.active:
                raise MeshError(
                    ErrorCode.CONFLICT, f"it has ended already: {record.rollout.state.phase}", subject=f"rollout {id_}"
                )
            moved, _ = step(record.rollout, event, self._clock.wall())
            if moved is record.rollout:
                return record, revision
            if await rollouts.move(self._store, record.moved(moved), revision):
                return await self.get(id_)
        raise MeshError(
            ErrorCode.CONFLICT, f"it moved {TRIES} times meanwhile", subject=f"rollout {id_}", hint="try again"
        )

    def _warnings(
        self, planned: Sequence[PlannedChange], different: Sequence[PlannedChange]
    ) -> list[tuple[str, ...]]:  # fmt: skip
        """Of admission, and what the mesh would say about the objects once they are stored."""
        found = self._view.preview([item.object for item in different], []) if different else ()
        problems = [item for item in found if is_problem({"type": item.type, "status": item.status})]
        return [
            (*plan.warnings, *(_text(item) for item in problems if item.ref == plan.object.ref)) for plan in planned
        ]


def _text(condition: Condition) -> str:
    return f"{condition.ref}: {condition.type}: {condition.message}"


def _check(documents: Sequence[Document], planned: Sequence[PlannedChange], present: Present) -> None:
    problems: list[FieldProblem] = []
    for document, plan in zip(documents, planned, strict=True):
        entry = present.get(plan.key)
        stored = _stored(entry.value) if entry is not None else None
        problems += (
            document.problem(field, message, str(plan.object.ref))
            for field, message in unstageable(plan.object, stored)
        )
    if problems:
        raise InvalidObjects(problems)


def _stored(value: bytes) -> PolicyObject | None:
    try:
        return decode(value)
    except MeshError:
        return None  # what this version cannot read says nothing about TLS; replacing it is allowed


def _planned(plan: PlannedChange, present: Present) -> Planned:
    entry = present.get(plan.key)
    return Planned(
        ref=plan.object.ref,
        action=plan.action,
        revision=entry.mod_revision if entry is not None else 0,
        generation=plan.object.metadata.generation,
        object=plan.object,
    )
