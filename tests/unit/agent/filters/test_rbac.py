"""RBAC rules by themselves: the index leaves nothing out, names of callers, addresses; and paths in one spelling."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.codec.head import Headers, RequestHead
from agent.filters.paths import normalized
from agent.filters.rbac import FEW, NO_MATCH, Asking, CompiledRules, compiled
from agent.model.matchers import HeaderMatcher, MatchKind, StringMatcher
from agent.model.rbac import (
    Action,
    AddressIn,
    AllOf,
    Anybody,
    AnyOf,
    Condition,
    HeaderIs,
    Not,
    PathIs,
    PeerIs,
    PortIn,
    RbacPolicy,
    RbacRules,
    Side,
)
from tests.support.depth import examples

WEB, APP = "spiffe://cluster.local/ns/default/sa/web", "spiffe://cluster.local/ns/shop/sa/app"
PATHS = ["/", "/a", "/a/b", "/ab", "/b"]
NEVER = PathIs(matcher=StringMatcher(kind=MatchKind.EXACT, value="/never"))


def text(value: str, kind: MatchKind = MatchKind.EXACT, *, ignore_case: bool = False) -> StringMatcher:
    return StringMatcher(kind=kind, value=value, ignore_case=ignore_case)


def header(name: str, value: str, **fields: bool) -> HeaderIs:
    return HeaderIs(matcher=HeaderMatcher(name=name, matcher=text(value), **fields))


def asking(
    path: str = "/", *peers: str, method: str = "GET", host: str = "h", direct: str = "10.0.0.1:5", remote: str = "",
    local: str = "10.0.0.9:20000",
) -> Asking:  # fmt: skip
    head = RequestHead(method.encode(), path.encode(), host.encode(), Headers())
    names = tuple(peer.encode() for peer in peers)
    return Asking(head, direct, remote or direct.rpartition(":")[0], local, names, {})


KINDS = st.sampled_from([MatchKind.EXACT, MatchKind.PREFIX, MatchKind.SUFFIX, MatchKind.CONTAINS])
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.just(Anybody()),
    st.builds(PathIs, matcher=st.builds(StringMatcher, kind=KINDS, value=st.sampled_from([*PATHS, "", "b"]),
                                        ignore_case=st.booleans())),
    st.builds(PeerIs, matcher=st.one_of(
        st.none(),
        st.builds(StringMatcher, kind=KINDS, value=st.sampled_from([WEB, APP, "spiffe://", "/sa/web"])),
        st.sampled_from([text(".*/ns/shop/.*", MatchKind.REGEX), text(".*/ns/default/.*", MatchKind.REGEX)]),
    )),
    st.builds(header, st.sampled_from([":method", ":authority", "x-a"]), st.sampled_from(["GET", "h", "H"]),
              invert=st.booleans()),
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(AnyOf, conditions=st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(AllOf, conditions=st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Not, condition=inner),
    ),
    max_leaves=6,
)


@settings(max_examples=examples(400))
@given(
    conditions=st.lists(CONDITIONS, max_size=8),
    path=st.sampled_from([*PATHS, "/a?x=/b"]),
    peers=st.sampled_from([(), (WEB,), (APP,), (WEB, APP)]),
    method=st.sampled_from(["GET", "POST"]),
    host=st.sampled_from(["h", "H", "other"]),
    fillers=st.sampled_from([0, FEW + 1]),
)
def test_the_index_gives_the_verdict_of_asking_all(
    conditions: list[Condition], path: str, peers: tuple[str, ...], method: str, host: str, fillers: int
) -> None:
    """Few policies have none, so some runs have others that never match."""
    conditions = [*conditions, *[NEVER] * fillers]
    facts = asking(path, *peers, method=method, host=host)
    expected = next((f"p{place}" for place, own in enumerate(conditions) if compiled(own)(facts)), NO_MATCH)
    policies = tuple(RbacPolicy(name=f"p{place}", condition=own) for place, own in enumerate(conditions))
    for action in Action:
        verdict = CompiledRules(RbacRules(action=action, policies=policies)).verdict(facts)
        assert verdict.policy == expected
        assert verdict.allowed == {Action.ALLOW: expected != "", Action.DENY: expected == "", Action.LOG: True}[action]


@pytest.mark.parametrize("peer", ["spiffe://td/ns/ns/sa/x", "spiffe://td/ns/ns/ns/sa/x", "spiffe://td/ns/a/ns/sa/x"])
def test_the_index_finds_a_namespace_that_overlaps_another(peer: str) -> None:
    """`/ns/sa/` begins within `/ns/ns/`: who is denied by asking every policy is denied by the index."""
    named = [f".*/ns/{space}/.*" for space in ("other", "sa", "sa")]
    conditions: list[Condition] = [PeerIs(matcher=text(value, MatchKind.REGEX)) for value in named]
    conditions += [NEVER] * FEW
    facts = asking("/", peer)
    assert [compiled(one)(facts) for one in conditions] == [False, True, True, *[False] * FEW]
    policies = tuple(RbacPolicy(name=f"p{place}", condition=one) for place, one in enumerate(conditions))
    verdict = CompiledRules(RbacRules(action=Action.DENY, policies=policies)).verdict(facts)
    assert (verdict.allowed, verdict.policy) == (False, "p1")


class _Counted:
    """How many policies are asked about one request."""

    def __init__(self, conditions: Iterator[Condition]) -> None:
        policies = tuple(RbacPolicy(name=f"{place:05}", condition=own) for place, own in enumerate(conditions))
        self.rules = CompiledRules(RbacRules(action=Action.ALLOW, policies=policies))

    def asked(self, facts: Asking) -> int:
        return len(tuple(self.rules._candidates(facts)))


def test_a_request_meets_only_policies_that_may_be_for_it() -> None:
    """1000 policies that differ by path, caller, host or namespace: one or two of them are looked at."""
    number = 1000
    by_path = _Counted(
        AllOf(conditions=(PathIs(matcher=text(f"/p{n}")), PeerIs(matcher=text(WEB)))) for n in range(number)
    )
    assert by_path.asked(asking("/p7", WEB)) == 1
    by_peer = _Counted(
        AllOf(conditions=(header(":method", "GET"), PeerIs(matcher=text(f"{WEB}{n}")))) for n in range(number)
    )
    assert by_peer.asked(asking("/", f"{WEB}7")) == 1
    prefixes = _Counted(PathIs(matcher=text(f"/p{n}/", MatchKind.PREFIX)) for n in range(number))
    assert prefixes.asked(asking("/p7/x")) == 1
    hosts = _Counted(header(":authority", f"h{n}") for n in range(number))
    assert hosts.asked(asking("/", host="h7")) == 1
    spaces = _Counted(PeerIs(matcher=text(f".*/ns/n{n}/.*", MatchKind.REGEX)) for n in range(number))
    assert spaces.asked(asking("/", "spiffe://td/ns/n7/sa/a")) == 1
    assert spaces.asked(asking("/", "spiffe://td/ns/other/sa/a")) == 0


@pytest.mark.parametrize(
    ("side", "network", "facts", "holds"),
    [
        (Side.DIRECT, "10.0.0.0/8", asking(), True),
        (Side.DIRECT, "10.0.0.1/32", asking(direct="10.0.0.2:1"), False),
        (Side.DIRECT, "2001:db8::/32", asking(direct="[2001:db8::1]:443"), True),
        (Side.DIRECT, "10.0.0.0/8", asking(direct="[::ffff:10.0.0.1]:443"), True),
        (Side.DIRECT, "::/0", asking(), False),
        (Side.DIRECT, "0.0.0.0/0", asking(direct=""), False),
        (Side.REMOTE, "192.0.2.0/24", asking(remote="192.0.2.7"), True),
        (Side.REMOTE, "192.0.2.0/24", asking(remote="not an address"), False),
        (Side.LOCAL, "10.0.0.9/32", asking(), True),
    ],
)
def test_addresses(side: Side, network: str, facts: Asking, holds: bool) -> None:
    assert compiled(AddressIn(side=side, network=network))(facts) is holds


def test_ports_and_names() -> None:
    assert compiled(PortIn(low=20000, high=20001))(asking())
    assert not compiled(PortIn(low=1, high=20000))(asking())
    assert not compiled(PeerIs(matcher=None))(asking())
    assert compiled(PeerIs(matcher=None))(asking("/", WEB))
    assert compiled(PeerIs(matcher=text("/sa/app", MatchKind.SUFFIX)))(asking("/", WEB, APP)), "one of several names"


def test_a_connection_has_no_path_and_no_headers() -> None:
    facts = Asking(None, "10.0.0.1:5", "10.0.0.1", "10.0.0.9:1", (), {})
    assert not compiled(header(":method", "GET"))(facts)
    assert not compiled(PathIs(matcher=text("/", MatchKind.PREFIX)))(facts)
    assert compiled(Anybody())(facts)


SEGMENTS = ["secret", "%73ecret", "x", ".", "..", "%2e", "%2E%2e", "..;", ".;x", "%2e%2e;", "", "%2f", "SECRET", ";"]


@settings(max_examples=examples(500))
@given(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6), st.booleans())
def test_no_spelling_of_a_path_walks_around_a_rule(segments: list[str], merge: bool) -> None:
    """What a server reads in the path that we pass on, dot segments and parameters obeyed, the rule has read too."""
    sent = "/" + "/".join(segments)
    passed = normalized(sent.encode(), merge)
    assert passed is not None
    denied = compiled(PathIs(matcher=text("/secret", MatchKind.PREFIX)))(asking(passed.decode()))
    assert _as_a_server_reads(passed.decode()).startswith("/secret") == denied


def _as_a_server_reads(path: str) -> str:
    """Decode unreserved characters, drop parameters of dot segments, resolve them."""
    done: list[str] = []
    for segment in path.replace("%73", "s").replace("%2e", ".").replace("%2E", ".")[1:].split("/"):
        bare = segment.partition(";")[0]
        if bare == "..":
            if done:
                done.pop()
        elif bare != ".":
            done.append(segment)
    return "/" + "/".join(done)


def test_order_of_names_decides_among_several() -> None:
    names = [f"p{number}" for number in range(50)]
    random.Random(1).shuffle(names)
    policies = tuple(RbacPolicy(name=name, condition=Anybody()) for name in sorted(names))
    rules = CompiledRules(RbacRules(action=Action.DENY, policies=policies))
    assert rules.verdict(asking()).policy == "p0"
