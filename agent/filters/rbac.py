"""Who may ask what: compiled RBAC rules, and which of many policies are looked at for one request.

Owns:   the conditions as functions, the index over policies, the verdict.
Not:    answering, counting (agent.proxy.authorization), what a request's facts are read from.
Source: Envoy's rbac engine: of the policies that match, the first by name counts; ALLOW denies where none does, DENY
        where one does, LOG never. data-plane.md 1.10.
Invariant: the index leaves out a policy only when one of its conditions cannot hold, so the verdict is that of asking
        all of them; the work for a request does not grow with the policies that are for other paths, callers or hosts.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from agent.codec.head import RequestHead
from agent.filters.forwarded import host_of
from agent.filters.metadata import Metadata, metadata_test
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.rbac import (
    Action,
    AddressIn,
    AllOf,
    Anybody,
    AnyOf,
    Condition,
    HeaderIs,
    MetadataIs,
    Not,
    PathIs,
    PeerIs,
    PortIn,
    RbacRules,
    Side,
)
from agent.router.matchers import CompiledHeader, TextMatcher

NO_MATCH: Final = ""
FEW: Final = 6  # so many policies are asked sooner than the index
_NAMESPACE: Final = re.compile(r"\.\*(/ns/[a-z0-9-]+/)\.\*")  # how policies name a namespace
_SEGMENT: Final = re.compile(rb"(?=(/ns/[^/]+/))")  # ahead, since one may begin within another: /ns/ns/sa/


class Asking:
    """The facts about one request, or about a connection (`head` None).

    `direct` and `local`: `address:port`; `remote`: an address; `peers`: the names of the verified certificate, one of
    which is enough; () = none was shown.
    """

    __slots__ = ("_path", "direct", "head", "local", "metadata", "peers", "remote")

    def __init__(
        self,
        head: RequestHead | None,
        direct: str,
        remote: str,
        local: str,
        peers: tuple[bytes, ...],
        metadata: Metadata,
    ) -> None:
        self.head = head
        self.direct = direct
        self.remote = remote
        self.local = local
        self.peers = peers
        self.metadata = metadata
        self._path: bytes | None = None

    @property
    def path(self) -> bytes:
        """Without query and fragment."""
        if self._path is None:
            head = self.head
            self._path = head.path.partition(b"?")[0].partition(b"#")[0] if head is not None else b""
        return self._path


Test = Callable[[Asking], bool]
Key = tuple[str, bytes]  # what is compared, the value that it must have


class Verdict:
    """`policy`: the first that matches, NO_MATCH when none does."""

    __slots__ = ("allowed", "policy")

    def __init__(self, allowed: bool, policy: str) -> None:
        self.allowed = allowed
        self.policy = policy


class CompiledRules:
    """One set of rules. Raises re2.error for a bad regex."""

    __slots__ = ("_action", "_always", "_by_key", "_names", "_prefix_lengths", "_suffix_lengths", "_tests")

    def __init__(self, rules: RbacRules) -> None:
        self._action = int(rules.action)
        self._names = tuple(policy.name for policy in rules.policies)
        self._tests = tuple(compiled(policy.condition) for policy in rules.policies)
        keys = _index_keys([policy.condition for policy in rules.policies])
        self._always = tuple(place for place, own in enumerate(keys) if own is None)
        self._by_key: dict[Key, list[int]] = {}
        for place, own in enumerate(keys):
            for key in own or ():
                self._by_key.setdefault(key, []).append(place)
        self._prefix_lengths = _lengths(self._by_key, "prefix")
        self._suffix_lengths = _lengths(self._by_key, "suffix")

    @property
    def logs(self) -> bool:
        """They decide nothing but whether a request is to be logged."""
        return self._action == Action.LOG

    def verdict(self, asking: Asking) -> Verdict:
        """Whether the rules let it pass."""
        policy = self._first(asking)
        if self._action == Action.ALLOW:
            return Verdict(policy != NO_MATCH, policy)
        return Verdict(self._action == Action.LOG or policy == NO_MATCH, policy)

    def _first(self, asking: Asking) -> str:
        tests = self._tests
        for place in self._candidates(asking):
            if tests[place](asking):
                return self._names[place]
        return NO_MATCH

    def _candidates(self, asking: Asking) -> Iterable[int]:
        """Places of the policies that may match, in order."""
        by_key = self._by_key
        if not by_key:
            return self._always
        found: list[int] = []
        for key in self._present(asking):
            places = by_key.get(key)
            if places is not None:
                found += places
        return sorted({*found, *self._always}) if found else self._always

    def _present(self, asking: Asking) -> Iterable[Key]:
        """All keys that hold for a request, as far as any policy has one of their sort."""
        for name in asking.peers:
            yield "peer", name
            for segment in _SEGMENT.findall(name):
                yield "namespace", segment
        head = asking.head
        if head is None:
            return
        path = asking.path
        yield "path", path
        for length in self._prefix_lengths:
            yield "prefix", path[:length]
        for length in self._suffix_lengths:
            yield "suffix", path[-length:]
        yield "method", head.method
        yield "host", head.authority.lower()


def _lengths(keys: Iterable[Key], kind: str) -> tuple[int, ...]:
    return tuple(sorted({len(value) for name, value in keys if name == kind}))


# --- what must hold for a condition to hold


def _index_keys(conditions: list[Condition]) -> list[frozenset[Key] | None]:
    """The keys by which each is found; None = it is asked every time, as all are when they are few."""
    if len(conditions) <= FEW:
        return [None] * len(conditions)
    spread: Counter[Key] = Counter()
    for condition in conditions:
        spread.update(_mentioned(condition))
    return [_keys(condition, spread) for condition in conditions]


def _keys(condition: Condition, spread: Counter[Key]) -> frozenset[Key] | None:
    """Keys of which one must hold; None when nothing is known. Of several sets the one with the fewest policies."""
    match condition:
        case AllOf():
            found = [own for one in condition.conditions if (own := _keys(one, spread)) is not None]
            return min(found, key=lambda own: (sum(spread[key] for key in own), sorted(own)), default=None)
        case AnyOf():
            every = [_keys(one, spread) for one in condition.conditions]
            known = [own for own in every if own is not None]
            return frozenset().union(*known) if len(known) == len(every) else None
    key = _key(condition)
    return frozenset({key}) if key is not None else None


def _mentioned(condition: Condition) -> set[Key]:
    match condition:
        case AllOf() | AnyOf():
            return {key for one in condition.conditions for key in _mentioned(one)}
    key = _key(condition)
    return {key} if key is not None else set()


def _key(condition: Condition) -> Key | None:
    match condition:
        case PathIs(matcher=matcher) if not matcher.ignore_case and matcher.value:
            kinds = {MatchKind.EXACT: "path", MatchKind.PREFIX: "prefix", MatchKind.SUFFIX: "suffix"}
            return (kinds[matcher.kind], matcher.value.encode()) if matcher.kind in kinds else None
        case PeerIs(matcher=StringMatcher() as matcher):
            return _peer_key(matcher)
        case HeaderIs(matcher=matcher):
            return _header_key(matcher)
    return None


def _peer_key(matcher: StringMatcher) -> Key | None:
    if matcher.kind is MatchKind.EXACT and not matcher.ignore_case:
        return "peer", matcher.value.encode()
    namespace = _NAMESPACE.fullmatch(matcher.value) if matcher.kind is MatchKind.REGEX else None
    return ("namespace", namespace[1].encode()) if namespace is not None else None


def _header_key(header: HeaderMatcher) -> Key | None:
    matcher = header.matcher
    if header.invert or matcher.kind is not MatchKind.EXACT:
        return None
    if header.name == ":method" and not matcher.ignore_case:
        return "method", matcher.value.encode()
    if header.name in (":authority", "host"):
        return "host", matcher.value.encode().lower()
    return None


# --- conditions as functions


def compiled(condition: Condition) -> Test:
    """The condition as a function. Raises re2.error for a bad regex."""
    match condition:
        case Anybody():
            return _anybody
        case AnyOf():
            return _any_of(condition.conditions)
        case AllOf():
            return _all_of(tuple(compiled(one) for one in condition.conditions if not isinstance(one, Anybody)))
        case Not():
            return _not(compiled(condition.condition))
        case HeaderIs():
            return _header(CompiledHeader(condition.matcher))
        case PathIs():
            return _path(TextMatcher(condition.matcher))
        case AddressIn():
            return _address(condition)
        case PortIn():
            return _port(condition.low, condition.high)
        case PeerIs():
            return _shows_name if condition.matcher is None else _peer(TextMatcher(condition.matcher))
        case MetadataIs():
            test = metadata_test(condition)
            return lambda asking: test(asking.metadata)


def _anybody(_: Asking) -> bool:
    return True


def _any_of(conditions: tuple[Condition, ...]) -> Test:
    exact = frozenset(value for one in conditions if (value := _peer_value(one)) is not None)
    rest = conditions if len(exact) < 2 else tuple(one for one in conditions if _peer_value(one) not in exact)
    tests = tuple(compiled(one) for one in rest)
    if len(exact) >= 2:
        tests = (lambda asking: not exact.isdisjoint(asking.peers), *tests)
    if len(tests) == 1:
        return tests[0]

    def test(asking: Asking) -> bool:
        for one in tests:  # noqa: SIM110 - a generator would be made for every request
            if one(asking):
                return True
        return False

    return test


def _peer_value(condition: Condition) -> bytes | None:
    if not isinstance(condition, PeerIs) or condition.matcher is None or condition.matcher.ignore_case:
        return None
    return condition.matcher.value.encode() if condition.matcher.kind is MatchKind.EXACT else None


def _all_of(tests: tuple[Test, ...]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(asking: Asking) -> bool:
        for one in tests:  # noqa: SIM110
            if not one(asking):
                return False
        return True

    return test


def _not(inner: Test) -> Test:
    return lambda asking: not inner(asking)


def _header(matcher: CompiledHeader) -> Test:
    def test(asking: Asking) -> bool:
        head = asking.head
        return head is not None and matcher.matches(head)

    return test


def _path(matcher: TextMatcher) -> Test:
    return lambda asking: matcher.matches(asking.path)


def _port(low: int, high: int) -> Test:
    def test(asking: Asking) -> bool:
        port = asking.local.rpartition(":")[2]
        return port.isdigit() and low <= int(port) < high

    return test


def _shows_name(asking: Asking) -> bool:
    return bool(asking.peers)


def _peer(matcher: TextMatcher) -> Test:
    def test(asking: Asking) -> bool:
        for name in asking.peers:  # noqa: SIM110
            if matcher.matches(name):
                return True
        return False

    return test


def _address(condition: AddressIn) -> Test:
    network = ipaddress.ip_network(condition.network)
    version, shift = network.version, network.max_prefixlen - network.prefixlen
    wanted = int(network.network_address) >> shift
    side = condition.side

    def test(asking: Asking) -> bool:
        address = asking.direct if side is Side.DIRECT else asking.local
        found = _number(asking.remote if side is Side.REMOTE else host_of(address))
        return found is not None and found[0] == version and found[1] >> shift == wanted

    return test


@lru_cache(maxsize=4096)  # callers are few
def _number(text: str) -> tuple[int, int] | None:
    """(4 or 6, the address as a number); None when it is none. An IPv4 address within IPv6 is one of IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    found = mapped or address
    return found.version, int(found)
