"""One resource type on one stream: what the client asked for, what it was sent, what is still to be sent. Sans-io.

Owns:   the wildcard's life cycle is kept here as data; SotW and delta have their own rules to change it.
Invariants: `sent` holds exactly what the client has or is about to have, as far as this stream knows; a name is in
        `due` only while the client's version differs from the view's, or while it is `forced`.
"""

from collections.abc import Mapping, MutableSet

from controlplane.compiler.types import Resource
from controlplane.distribution.stream_sync import Span
from controlplane.model.layered import LayeredMap, LayeredSet, names_of


class Subscription:
    """The state of one type. Mutable, private to its session."""

    __slots__ = ("answered", "changes", "due", "forced", "mortal", "named", "names", "nonce", "sent", "wildcard")

    def __init__(self) -> None:
        self.wildcard = False
        self.named = False  # the client has named a resource at least once (rule 8)
        self.names: MutableSet[str] = set()
        self.sent: LayeredMap[Resource] = LayeredMap()
        self.due: dict[str, Span] = {}
        self.forced: set[str] = set()  # to be sent although the version is the same
        self.mortal: dict[str, float] = {}  # those of `sent` that have a TTL, in seconds
        self.nonce = ""  # of the newest response
        self.answered = False
        self.changes = 0  # grows with every change of `due`

    def wants(self, name: str) -> bool:
        return self.wildcard or name in self.names

    def mark(self, name: str, desired: Resource | None, span: Span) -> None:
        """Note whether the client's `name` differs from `desired` (None = shall not exist)."""
        self.changes += 1
        sent = self.sent.get(name)
        same = sent is None if desired is None else sent is not None and sent.version == desired.version
        if same and name not in self.forced:
            self.due.pop(name, None)
        else:
            self.due[name] = span.joined(self.due.get(name))

    def force(self, name: str, span: Span) -> None:
        """Send `name` (or its removal) in any case."""
        self.changes += 1
        self.forced.add(name)
        self.due[name] = span.joined(self.due.get(name))

    def settle(self, name: str, resource: Resource | None) -> None:
        """`name` goes out now: `resource`, or its removal."""
        self.changes += 1
        self.due.pop(name, None)
        self.forced.discard(name)
        if resource is None:
            self.sent.pop(name, None)
            self.mortal.pop(name, None)
        else:
            self.holds(name, resource)

    def holds(self, name: str, resource: Resource) -> None:
        """The client has `resource`, or is about to."""
        self.sent[name] = resource
        if resource.ttl_s:
            self.mortal[name] = resource.ttl_s
        else:
            self.mortal.pop(name, None)

    def share(self, base: Mapping[str, Resource]) -> None:
        """At rest: keep only the difference to `base`, the view's resources of the type. All that are wanted and in
        `base` were sent in the version that they have there, as nothing is due."""
        names = names_of(base)
        if not self.wildcard:
            if not isinstance(self.names, LayeredSet):
                self.names = LayeredSet(self.names)
            if len(self.names) < len(names):
                return  # it wants some of them only
            self.names.rebase(names)
            if self.names.gone:
                return
        self.sent.rebase(base)
        self.due, self.forced = {}, set()  # as large as they ever were

    def drop(self, name: str) -> None:
        """The client does not hold the name any more (rule 9: then it is sent again when asked for again)."""
        self.settle(name, None)
