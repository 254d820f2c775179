"""From single events to the steps of a watch. Pure; both stores use it, so that their watches mean the same."""

from collections.abc import Iterable, Set

from controlplane.store.protocol import Changes, Entry, Listing

Event = tuple[str, Entry | None]  # a key and its new entry; None = deleted


def fold(revision: int, events: Iterable[Event]) -> Changes:
    """One step from the events of whole revisions, oldest first: each key once, with its last value."""
    last: dict[str, Entry | None] = {}
    for key, entry in events:
        # Popped first, so that the order is that of each key's last change.
        last.pop(key, None)
        last[key] = entry
    puts = tuple(entry for entry in last.values() if entry is not None)
    return Changes(revision, puts, tuple(key for key, entry in last.items() if entry is None))


def relisting(listing: Listing, known: Set[str]) -> Changes:
    """The whole prefix as one step; what the reader knows and the listing lacks is deleted."""
    gone = known - {entry.key for entry in listing.entries}
    return Changes(listing.revision, listing.entries, tuple(sorted(gone)), full=True)


def track(known: set[str], changes: Changes) -> None:
    """Bring the set of keys that the reader holds up to date with a step."""
    known.difference_update(changes.deletes)
    known.update(entry.key for entry in changes.puts)
