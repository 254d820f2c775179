"""What the store says about rollouts: the one under way, the replicas' reports on it, who leads it. Sans-io.

Owns:   reading these keys from the steps of the watch.
Not:    the forms (model.rollout_record), what follows (rollouts), the rollouts that have ended.
Invariant: a record or report that cannot be read is logged and counts as none: proxies then get what is stored.
"""

from collections.abc import Iterable

from controlplane.model.rollout_observation import Report
from controlplane.model.rollout_overlay import Overlay
from controlplane.model.rollout_record import Record, decode_record, decode_report
from controlplane.store.keys import ROLLOUT_LEADER, ROLLOUT_REPORTS, ROLLOUTS
from controlplane.store.protocol import Entry
from mesh.errors import MeshError
from mesh.logs import get_logger

_log = get_logger(__name__)


class RolloutReader:
    """`record`: of the rollout under way, at mod_revision `revision`. `reports`: by replica. `leader`: its name."""

    def __init__(self) -> None:
        self.record: Record | None = None
        self.revision = 0
        self.overlay: Overlay | None = None
        self.reports: dict[str, Report] = {}
        self.leader = ""

    def read(self, puts: Iterable[Entry], deletes: Iterable[str]) -> bool:
        """Take one step of the watch; says whether proxies may be given something else by it."""
        before = self.overlay
        for key in deletes:
            self._deleted(key)
        for entry in puts:
            self._put(entry)
        return _identity(before) != _identity(self.overlay)

    def _put(self, entry: Entry) -> None:
        try:
            if entry.key.startswith(ROLLOUTS):
                self._take(decode_record(entry.key.removeprefix(ROLLOUTS), entry.value), entry.mod_revision)
            elif entry.key.startswith(ROLLOUT_REPORTS):
                replica = entry.key.removeprefix(ROLLOUT_REPORTS)
                self.reports[replica] = decode_report(replica, entry.value)
            elif entry.key == ROLLOUT_LEADER:
                self.leader = entry.value.decode(errors="replace")
        except MeshError as error:
            _log.warning("a stored rollout cannot be read; it is left out", key=entry.key, reason=error.message)
            self._deleted(entry.key)

    def _deleted(self, key: str) -> None:
        if self.record is not None and key == ROLLOUTS + self.record.rollout.id:
            self.record, self.overlay = None, None
        elif key.startswith(ROLLOUT_REPORTS):
            self.reports.pop(key.removeprefix(ROLLOUT_REPORTS), None)
        elif key == ROLLOUT_LEADER:
            self.leader = ""

    def _take(self, record: Record, revision: int) -> None:
        if record.rollout.state.active:
            self.record, self.revision, self.overlay = record, revision, record.overlay()
        elif self.record is not None and self.record.rollout.id == record.rollout.id:
            self.record, self.overlay = None, None


def _identity(overlay: Overlay | None) -> tuple[str, int]:
    return ("", 0) if overlay is None else (overlay.rollout, overlay.epoch)
