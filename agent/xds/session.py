"""The ADS client without its protocol: what is subscribed, accepted, refused and absent, over any number of streams.

Owns:   subscriptions and their following of references, partial application, TTLs, names that do not exist, how fast
        the same refusal is repeated. Sans-io.
Not:    the two protocols' requests and responses (delta, sotw), the gRPC stream (client), when accepted resources are
        served (warming), the disk (known_good).
Source: xds_protocol.rst; control-plane.md 5, rules 2, 6-8, 12-16, 24-27; decisions 20, 21, 35.

    OFFLINE --connected--> the first request of each type: all that is wanted, with the versions that are held
       ^                      |
       |                   received: good resources replace the held ones, bad ones leave the last good one in place;
       |                      |      one ACK, or one NACK that names each refused resource with its reason; then
       |                      |      subscriptions follow what the held resources name
       +----disconnected------+      what is held stays held; TTLs go on

Invariants: a subscription is a wildcard for Listener and Cluster, by name for the others; VirtualHost is a wildcard
        while some RouteConfiguration says vhds. Nothing that was refused is ever held. A resource that nothing names
        any more is let go with its subscription. A name that was asked for and not held is answered, or absent after
        ABSENT_AFTER_S of a stream. A response refused as the one before it is answered later and later.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from envoy.config.core.v3.base_pb2 import Node
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    ResourceError,
)

from agent.xds.resources import KIND_OF, WILDCARD, Decode, Decoded, Held
from mesh.resilience.backoff import interval_s
from mesh.xds import type_url

_ROOTS = (type_url.CLUSTER, type_url.LISTENER)  # wanted always and wholly
# Subscriptions are sent in this order: a server that answers in the order of requests then sends clusters first.
_ORDER = (
    type_url.SECRET,
    type_url.CLUSTER,
    type_url.CLUSTER_LOAD_ASSIGNMENT,
    type_url.LISTENER,
    type_url.ROUTE_CONFIGURATION,
    type_url.VIRTUAL_HOST,
)
MAX_REASON = 1024
ABSENT_AFTER_S = 15.0  # Envoy's initial_fetch_timeout, gRPC's resource timer
# The same refusal is answered at once twice; a server that sends it again at every NACK is then slowed down.
_PROMPT_REFUSALS = 2
_PACE_BASE_S = 0.1
_PACE_MAX_S = 5.0
_MAX_LATER = 100
_STRANGE = ""  # the pace of all types that were not asked for

Request = DeltaDiscoveryRequest | DiscoveryRequest


@dataclass(slots=True)
class TypeState:
    """One resource type. `subscribed`: as last said on this stream; `refused`: name -> reason of its last version."""

    held: dict[str, Held] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    refused_versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)  # asked for by name and not there: name -> how that is known
    asked: dict[str, float] = field(default_factory=dict)  # not held, not answered: since when on this stream
    expires: dict[str, float] = field(default_factory=dict)  # of held resources with a TTL, monotonic
    subscribed: set[str] | None = None  # None = no request of this type has been sent on this stream
    answered: set[str] = field(default_factory=set)  # what the server has said something about on this stream
    complete: bool = False  # a response of this type has come on this stream
    version: str = ""  # delta: system_version_info of the last response; SotW: version_info that was accepted last


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What to send, whether what is held has changed, and what was refused of the response (name -> reason)."""

    requests: tuple[Request, ...] = ()
    changed: bool = False
    type_url: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """One resource of a response. `body` None: only a heartbeat of its TTL; `ttl_s` 0: it has none."""

    name: str
    version: str
    type_url: str
    body: bytes | None
    ttl_s: float = 0.0


@dataclass(slots=True)
class _Pace:
    """How often in a row one type was refused for the same reasons."""

    refused: Mapping[str, str] = field(default_factory=dict)
    times: int = 0

    def wait_s(self, refused: Mapping[str, str]) -> float:
        """How long the answer waits."""
        self.times = self.times + 1 if refused and refused == self.refused else int(bool(refused))
        self.refused = dict(refused)
        if self.times <= _PROMPT_REFUSALS:
            return 0.0
        return interval_s(self.times - _PROMPT_REFUSALS, base_s=_PACE_BASE_S, max_s=_PACE_MAX_S)


class AdsSession(ABC):
    """The client's side of ADS for one node. `now`: monotonic seconds."""

    method: str  # of the gRPC service

    def __init__(
        self,
        node: Node,
        decode: Decode,
        known: Iterable[Held] = (),
        *,
        always: Mapping[str, frozenset[str]] | None = None,
        usable: Callable[[Decoded], str] = lambda _: "",
    ) -> None:
        """`always`: type URL -> names that are wanted whatever is held; `usable`: why what decodes cannot be used on
        this machine at present, or nothing. What is held and not usable is asked for again with every stream."""
        self._node = node
        self._decode = decode
        self._usable = usable
        self._always = dict(always or {})
        self.types: dict[str, TypeState] = {url: TypeState() for url in _ORDER}
        self.connected_to = ""  # control_plane.identifier of this stream
        self._online = False
        # type URL -> name -> how many held resources name it
        self._named: dict[str, Counter[str]] = {url: Counter() for url in _ORDER}
        self._paces: dict[str, _Pace] = {}
        self._later: list[tuple[float, str, Request | None]] = []  # answers that wait; None: made when due
        for item in known:
            self._hold(item)

    @property
    def online(self) -> bool:
        return self._online

    @property
    def synced(self) -> bool:
        """Everything that is wanted has been answered on this stream."""
        return self._online and all(self._is_answered(url) for url in _ORDER)

    @property
    def resumes(self) -> bool:
        """Would a new stream tell versions, so that a server may rightly be silent?"""
        return any(state.held for state in self.types.values())

    def held(self, url: str) -> Mapping[str, Held]:
        """The accepted resources of a type, by name."""
        return self.types[url].held

    def all_held(self) -> tuple[Held, ...]:
        return tuple(item for state in self.types.values() for item in state.held.values())

    def refused(self) -> dict[tuple[str, str], str]:
        """(type URL, name) -> why its newest version is not used."""
        return {(url, name): why for url, state in self.types.items() for name, why in state.refused.items()}

    def absent(self) -> dict[tuple[str, str], str]:
        """(type URL, name) -> how it is known that what was asked for does not exist."""
        return {(url, name): why for url, state in self.types.items() for name, why in state.absent.items()}

    # --- events -----------------------------------------------------------------------------------------------

    def connected(self, now: float, *, resume: bool = True) -> tuple[Request, ...]:
        """A stream is open: say everything that is wanted. The first request carries the node.

        `resume` False: no version is told that the server could be silent about."""
        self._online = True
        self.connected_to = ""
        self._later.clear()
        self._paces.clear()
        for state in self.types.values():
            state.subscribed, state.complete = None, False
            state.answered.clear()
            state.asked.clear()
        self._opened(resume=resume)
        requests = self._follow(now)
        requests[0].node.CopyFrom(self._node)
        return tuple(requests)

    def disconnected(self) -> None:
        """The stream is gone. What is held stays."""
        self._online = False
        self._later.clear()
        for state in self.types.values():
            state.asked.clear()

    @abstractmethod
    def received(self, data: bytes, now: float) -> Outcome:
        """Take one serialised response. Raises DecodeError for bytes that are none."""

    def on_time(self, now: float) -> Outcome:
        """Call about twice a second, on a stream or not: TTLs end, waits for names end, slow answers are due."""
        changed = False
        for state in self.types.values():
            for name in [name for name, at in state.expires.items() if at <= now]:
                changed = self._release(state, name) or changed
                state.version = ""  # what is held is not what that version was
            for name in [name for name, since in state.asked.items() if now - since >= ABSENT_AFTER_S]:
                del state.asked[name]
                state.absent[name] = f"no answer within {ABSENT_AFTER_S:g} s"
                changed = True
        due = [item for item in self._later if item[0] <= now]
        self._later = [item for item in self._later if item[0] > now]
        answers = [ready or self._answer(url) for _, url, ready in due]
        followed = self._follow(now) if changed else []
        return Outcome(requests=(*answers, *followed) if self._online else (), changed=changed)

    # --- what the protocols add -------------------------------------------------------------------------------

    @abstractmethod
    def _opened(self, *, resume: bool) -> None:
        """A stream begins."""

    @abstractmethod
    def _subscription(self, url: str, state: TypeState, before: set[str] | None, wanted: set[str]) -> Request | None:
        """The request that changes a subscription to `wanted`; `before` None: the first of its type on the stream."""

    def _decoded(self, url: str, name: str, body: bytes) -> Decoded | str:
        return self._decode(url, name, body)

    # --- applying ---------------------------------------------------------------------------------------------

    def _apply(
        self, url: str, state: TypeState, resources: Iterable[Arrived], now: float
    ) -> tuple[dict[str, str], bool]:
        """Take what is good. Gives what was refused (name -> reason), and whether anything has changed."""
        refused: dict[str, str] = {}
        seen: set[str] = set()
        changed = False
        for item in resources:
            self._note_answer(state, item.name)
            if item.body is None:
                self._prolong(state, item, now)
                continue
            if item.name and not covers(state.subscribed or set(), item.name):
                continue  # not asked for, or it crossed with our unsubscribing
            why = self._why_not(item, seen, url)
            seen.add(item.name)
            decoded = why or self._meaning(url, state, item)
            if isinstance(decoded, str):
                refused[item.name] = decoded[:MAX_REASON]
                self._note_refusal(state, item, refused[item.name])
                continue
            changed = self._accept(url, state, item, decoded, now) or changed
        return refused, changed

    def _meaning(self, url: str, state: TypeState, item: Arrived) -> Decoded | str:
        assert item.body is not None
        held = state.held.get(item.name)
        same = held is not None and held.body == item.body
        decoded = held.decoded if held is not None and same else self._decoded(url, item.name, item.body)
        return decoded if isinstance(decoded, str) else self._usable(decoded) or decoded

    def _accept(self, url: str, state: TypeState, item: Arrived, decoded: Decoded, now: float) -> bool:
        """Hold it. Is anything different now?"""
        assert item.body is not None
        before = state.held.get(item.name)
        state.refused.pop(item.name, None)
        state.refused_versions.pop(item.name, None)
        was_absent = state.absent.pop(item.name, None) is not None
        state.expires.pop(item.name, None)
        made = Held(
            type_url=url,
            name=item.name,
            version=item.version,
            body=item.body,
            decoded=decoded,
            has_ttl=item.ttl_s > 0,
        )
        if item.ttl_s > 0:
            state.expires[item.name] = now + item.ttl_s
        self._hold(made)
        return before is None or before != made or was_absent

    def _prolong(self, state: TypeState, item: Arrived, now: float) -> None:
        if item.ttl_s > 0 and item.name in state.held:
            state.expires[item.name] = now + item.ttl_s
            state.held[item.name] = replace(state.held[item.name], has_ttl=True)

    def _note_refusal(self, state: TypeState, item: Arrived, why: str) -> None:
        if item.name:
            state.refused[item.name] = why
            state.refused_versions[item.name] = item.version
            state.absent.pop(item.name, None)

    def _note_answer(self, state: TypeState, name: str) -> None:
        state.answered.add(name)
        state.asked.pop(name, None)

    def _note_absence(self, state: TypeState, name: str, why: str) -> bool:
        """The server says that `name` does not exist. Is that new?"""
        self._note_answer(state, name)
        removed = self._release(state, name)
        if WILDCARD in (state.subscribed or ()) or name not in (state.subscribed or ()):
            return removed
        new = name not in state.absent
        state.absent[name] = why
        return removed or new

    def _note_errors(self, state: TypeState, errors: Iterable[ResourceError]) -> bool:
        """Names that the server cannot give. What is held of them stays (they are not said to be gone)."""
        changed = False
        for error in errors:
            name = error.resource_name.name
            if name and name not in state.held:
                why = f"the server says: {error.error_detail.message or error.error_detail.code}"
                changed = self._note_absence(state, name, why[:MAX_REASON]) or changed
        return changed

    def _hold(self, item: Held) -> None:
        held = self.types[item.type_url].held
        self._count(held.get(item.name), -1)
        self._count(item, 1)
        held[item.name] = item

    def _release(self, state: TypeState, name: str) -> bool:
        """Hold `name` no longer. Was it held?"""
        state.refused.pop(name, None)
        state.refused_versions.pop(name, None)
        state.expires.pop(name, None)
        item = state.held.pop(name, None)
        self._count(item, -1)
        return item is not None

    def _count(self, item: Held | None, step: int) -> None:
        for url, name in item.decoded.needs if item is not None else ():
            named = self._named[url]
            named[name] += step
            if not named[name]:
                del named[name]

    def _why_not(self, item: Arrived, seen: set[str], expected: str) -> str:
        if not item.name:
            return "found a resource without a name"
        if item.name in seen:
            return "found the name twice in one response"
        return "" if item.type_url == expected else f"found type {item.type_url}, expected {expected}"

    # --- answering --------------------------------------------------------------------------------------------

    def _answers(self, url: str, refused: Mapping[str, str], ready: Request | None, now: float) -> list[Request]:
        """The answer to a response, or nothing while it waits for its time. `ready` None: `_answer` makes it then."""
        pace = self._paces.setdefault(url if url in self.types else _STRANGE, _Pace())
        wait_s = pace.wait_s(refused)
        if wait_s and len(self._later) < _MAX_LATER:
            self._later.append((now + wait_s, url, ready))
            return []
        return [ready or self._answer(url)]

    def _answer(self, url: str) -> Request:
        """The answer to the newest response of a type, for a protocol that makes it when it is due."""
        raise NotImplementedError(url)

    # --- subscriptions ----------------------------------------------------------------------------------------

    def _follow(self, now: float) -> list[Request]:
        """Requests that bring the subscriptions to what is wanted now."""
        requests = []
        for url in _ORDER:
            wanted = self._wanted(url)
            request = self._subscribe(url, self.types[url], wanted, now)
            if request is not None:
                requests.append(request)
            self._let_go(url, wanted)
        return requests

    def _wanted(self, url: str) -> set[str]:
        if url in _ROOTS:
            return {WILDCARD}
        return {*self._named[url], *self._always.get(url, ())}

    def _subscribe(self, url: str, state: TypeState, wanted: set[str], now: float) -> Request | None:
        before = state.subscribed
        if (before is None and not wanted) or before == wanted:
            return None
        state.subscribed = wanted
        for name in wanted - (before or set()) - {WILDCARD}:
            if name not in state.held:
                state.asked[name] = now
        state.answered -= (before or set()) - wanted
        return self._subscription(url, state, before, wanted)

    def _let_go(self, url: str, wanted: set[str]) -> None:
        state = self.types[url]
        if WILDCARD not in wanted:
            for name in [name for name in (*state.held, *state.refused) if name not in wanted]:
                self._release(state, name)
            for own in (state.absent, state.asked):
                for name in [name for name in own if name not in wanted]:
                    del own[name]

    def _is_answered(self, url: str) -> bool:
        state = self.types[url]
        if not state.subscribed:
            return True
        if WILDCARD in state.subscribed:
            return state.complete
        # A server skips what the client already has: such a name is answered by being held.
        return all(name in state.answered or name in state.held for name in state.subscribed)


def covers(wanted: set[str], name: str) -> bool:
    return WILDCARD in wanted or name in wanted


def server_of(response: DeltaDiscoveryResponse | DiscoveryResponse, before: str) -> str:
    """Who answers, as far as it says."""
    return response.control_plane.identifier if response.HasField("control_plane") else before


assert set(_ORDER) == {*KIND_OF, type_url.SECRET}
