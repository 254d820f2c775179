"""What each message of an etcd watch stream means. Pure; the stream itself is watch.py's.

Owns:   joining fragments, the next revision to ask for, telling compaction from other ends.
Source: etcdserverpb.WatchResponse; the rules were measured against kill -9, backlog and compaction.

Invariants:
  next_revision = last event's mod_revision + 1. The header's revision is the store's, not the event's: while a watch
  catches up it runs ahead, and resuming from it loses events.
  A progress answer (no events, not created) moves next_revision to its header's revision + 1: everything up to it
  has been sent on this stream before it.
  Nothing is delivered before the last fragment of its revision is there.
"""

from dataclasses import dataclass

from controlplane.store.etcd.wire import rpc_pb2 as wire
from controlplane.store.folding import Event, fold
from controlplane.store.protocol import Changes, Entry


@dataclass(frozen=True, slots=True)
class Compacted:
    """The revision asked for is gone: list again."""

    revision: int


@dataclass(frozen=True, slots=True)
class Canceled:
    """etcd ended this watch for another reason: make it again."""

    reason: str


Outcome = Changes | Compacted | Canceled | None


class WatchAssembler:
    """Feed it responses in order; it answers with what the reader must learn, or None."""

    def __init__(self, next_revision: int) -> None:
        self.next_revision = next_revision
        self._events: list[Event] = []  # of fragments whose last one has not come yet
        self._last_revision = next_revision - 1
        self._fragments_open = False

    def feed(self, response: wire.WatchResponse) -> Outcome:
        """Take one response in."""
        if response.canceled:
            if response.compact_revision:
                return Compacted(response.compact_revision)
            return Canceled(response.cancel_reason or "no reason given")
        if response.created:
            return None
        if not response.events and not self._fragments_open:
            self.next_revision = max(self.next_revision, response.header.revision + 1)
            return None
        return self._take_events(response)

    def _take_events(self, response: wire.WatchResponse) -> Outcome:
        for event in response.events:
            # A server that repeats what was delivered (it never should) must not double it.
            if event.kv.mod_revision >= self.next_revision:
                self._events.append(_event(event))
                self._last_revision = max(self._last_revision, event.kv.mod_revision)
        self._fragments_open = response.fragment
        if self._fragments_open or not self._events:
            return None
        events, self._events = self._events, []
        self.next_revision = self._last_revision + 1
        return fold(self._last_revision, events)


def _event(event: wire.Event) -> Event:
    deleted = event.type == wire.Event.DELETE
    return key_of(event.kv), None if deleted else entry_of(event.kv)


def key_of(kv: wire.KeyValue) -> str:
    """The key as text. Ours are ASCII; a foreign one below the prefix must not end the watch."""
    return kv.key.decode(errors="replace")


def entry_of(kv: wire.KeyValue) -> Entry:
    """An Entry from etcd's form."""
    return Entry(key_of(kv), kv.value, kv.create_revision, kv.mod_revision, kv.lease)
