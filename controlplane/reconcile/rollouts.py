"""Drives the rollout that is under way: every replica reports, one of them leads.

Owns:   when to look, leadership, performing what the state machine asks for.
Not:    the state machine (model.rollout_steps), what is reported (rollout_reports), who gets what (snapshot.cache),
        beginning and stopping (the API).
Source: decision 24.

Invariants:
  The leader's key hangs on its replica's lease: when the replica dies, another takes over within LEASE_S. Even two
  leaders do no harm, since a record moves only from the revision that was read.
  Nothing is kept here that a successor would need: the state is the record.
"""

import asyncio
import os

from controlplane.distribution.events import EventLog
from controlplane.model.rollout import Observed, Refused, Tell, WriteObjects, Written
from controlplane.model.rollout_observation import Report, joined
from controlplane.model.rollout_record import Record, encode_report
from controlplane.model.rollout_steps import step
from controlplane.reconcile.reconciler import Reconciler
from controlplane.reconcile.replica import Replica
from controlplane.reconcile.rollout_reports import Reporter
from controlplane.store import applies, rollouts
from controlplane.store.applies import AppliedObject, ApplyRecord
from controlplane.store.keys import ROLLOUT_LEADER, rollout_report_key
from controlplane.store.protocol import ConfigStore, Delete, ModRevisionIs, Op, Put
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)

EVERY_S = 0.5


class RolloutDriver:
    """One per replica."""

    def __init__(
        self,
        *,
        store: ConfigStore,
        replica: Replica,
        reconciler: Reconciler,
        reporter: Reporter,
        events: EventLog,
        clock: Clock,
    ) -> None:
        self._store = store
        self._replica = replica
        self._reconciler = reconciler
        self._reporter = reporter
        self._events = events
        self._clock = clock
        self._reported: Report | None = None
        self._generation = 0  # of the lease that the report hangs on

    async def run(self) -> None:
        """Look twice a second until cancelled."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.look()
            except MeshError as error:
                _log.warning("cannot go on with the rollout; trying again", reason=str(error))

    async def look(self) -> None:
        """Report, and when this replica leads, go on with the rollout."""
        if not self._replica.lease:
            return
        await self._report()
        known = self._reconciler.rollouts
        if known.record is not None and await self._leads():
            await self._lead(known.record, known.revision)

    async def _report(self) -> None:
        if self._generation != self._replica.generation:
            self._generation, self._reported = self._replica.generation, None  # what hung on the old lease is gone
        report = await self._reporter.report()
        if report == self._reported:
            return
        key = rollout_report_key(self._replica.name)
        op: Op = Delete(key) if report is None else Put(key, encode_report(report), self._replica.lease)
        await self._store.transact([], [op])
        self._reported = report

    async def _leads(self) -> bool:
        leader, own = self._reconciler.rollouts.leader, self._replica.name
        if leader:
            return leader == own
        put = Put(ROLLOUT_LEADER, own.encode(), self._replica.lease)
        return (await self._store.transact([ModRevisionIs(ROLLOUT_LEADER, 0)], [put])).succeeded

    async def _lead(self, record: Record, revision: int) -> None:
        rollout = record.rollout
        replicas = (peer.name for peer in self._reconciler.peers())
        seen = joined(self._reconciler.rollouts.reports.values(), replicas, rollout.id, rollout.state.epoch)
        moved, effects = step(rollout, Observed(seen), self._clock.wall())
        if moved is not rollout:
            if await rollouts.move(self._store, record.moved(moved), revision):
                self._tell(rollout.id, *(effect.text for effect in effects if isinstance(effect, Tell)))
        elif any(isinstance(effect, WriteObjects) for effect in effects):
            await self._finish(record, revision)

    async def _finish(self, record: Record, revision: int) -> None:
        now = self._clock.wall()
        finished, _ = step(record.rollout, Written(), now)
        try:
            done = await rollouts.finish(
                self._store, record, record.moved(finished), revision, _apply_record(record, now)
            )
        except MeshError as error:
            if error.code is not ErrorCode.TOO_LARGE:
                raise
            await self._refuse(record, revision, str(error))
            return
        if done.succeeded:
            self._tell(record.rollout.id, finished.state.log[-1].text)
            return
        changed = await rollouts.changed_meanwhile(self._store, record)
        if changed:  # else the record itself has moved on, and the watch will tell
            names = ", ".join(str(ref) for ref in changed)
            await self._refuse(record, revision, f"{names} changed past the rollout; nothing was stored")

    async def _refuse(self, record: Record, revision: int, reason: str) -> None:
        moved, _ = step(record.rollout, Refused(reason), self._clock.wall())
        if await rollouts.move(self._store, record.moved(moved), revision):
            self._tell(record.rollout.id, moved.state.log[-1].text)

    def _tell(self, rollout: str, *texts: str) -> None:
        for text in texts:
            _log.info("rollout", rollout=rollout, what=text)
            self._events.add(self._clock.wall(), "Rollout", f"rollout {rollout}", text)


def _apply_record(record: Record, now: float) -> ApplyRecord:
    objects = tuple(
        AppliedObject(ref=item.ref, action=item.action, generation=item.generation) for item in record.objects
    )
    return ApplyRecord(
        id=applies.ulid(now, os.urandom(10)),
        author=record.rollout.author,
        at_ms=int(now * 1000),
        objects=objects,
        reason=f"rollout {record.rollout.id}",
    )
