"""RBAC before a TCP proxy, and names of clients."""

from pathlib import Path
from typing import Any

import pytest

from agent.model.matchers import MatchKind, StringMatcher
from agent.model.rbac import Action, AddressIn, Anybody, NetworkRbac, Not, PeerIs, Rbac, RbacPolicy, RbacRules, Side
from agent.proxy.authorization import ConnectionGuard, names_of
from agent.stats.names import rbac_group, rbac_shadow_group
from tests.support.proxying import cluster, raw_origin, tcp_proxy

WEB = "spiffe://cluster.local/ns/default/sa/web"


class Client:
    """A connection of a client with such a certificate."""

    def __init__(self, *uris: str, certificate: dict[str, Any] | None = None, address: str = "10.0.0.1:5") -> None:
        self.peer_uris = frozenset(uris)
        self.peer_address, self.local_address = address, "10.0.0.9:1"
        self.secure = bool(uris) or certificate is not None
        self.transport = self
        self._certificate = certificate

    def get_extra_info(self, _: str) -> "Client":
        return self

    def getpeercert(self) -> dict[str, Any] | None:
        return self._certificate


def rules(action: Action, **conditions: Any) -> RbacRules:
    policies = tuple(RbacPolicy(name=name, condition=own) for name, own in sorted(conditions.items()))
    return RbacRules(action=action, policies=policies)


def guard(*filters: Rbac) -> tuple[ConnectionGuard, list[list[int]]]:
    groups = [(rbac_group("tcp.rbac."), rbac_shadow_group("tcp.rbac.")) for _ in filters]
    made = ConnectionGuard(tuple((own, *counts) for own, counts in zip(filters, groups, strict=True)))
    return made, [group.counts for pair in groups for group in pair]


IS_WEB = PeerIs(matcher=StringMatcher(kind=MatchKind.EXACT, value=WEB))


def test_without_filters_everybody_may() -> None:
    assert guard()[0].denies(Client()) == ""


def test_only_who_is_allowed_may() -> None:
    made, counts = guard(Rbac(rules=rules(Action.ALLOW, web=IS_WEB)))
    assert made.denies(Client(WEB)) == ""
    assert made.denies(Client()) == "none"
    assert counts[0] == [1, 1]


def test_the_first_that_denies_decides() -> None:
    deny = Rbac(rules=rules(Action.DENY, near=AddressIn(side=Side.DIRECT, network="10.0.0.0/8")))
    made, counts = guard(deny, Rbac(rules=rules(Action.ALLOW, all=Anybody())))
    assert made.denies(Client()) == "near"
    assert made.denies(Client(address="192.0.2.1:5")) == ""
    assert counts[2] == [1, 0], "the second is asked about what the first lets pass"


def test_shadow_rules_only_count() -> None:
    made, counts = guard(Rbac(shadow=rules(Action.DENY, all=Anybody())))
    assert made.denies(Client()) == ""
    assert counts[1] == [0, 1]


def test_a_condition_of_nobody_allows_nobody() -> None:
    made, _ = guard(Rbac(rules=rules(Action.ALLOW, never=Not(condition=Anybody()))))
    assert made.denies(Client(WEB)) == "none"


@pytest.mark.parametrize(
    ("client", "names"),
    [
        (Client(), ()),
        (Client(WEB, certificate={"subjectAltName": (("URI", WEB), ("DNS", "a"))}), (WEB.encode(),)),
        (Client(certificate={"subjectAltName": (("DNS", "b"), ("DNS", "a"))}), (b"a", b"b")),
        (Client(certificate={"subject": ((("commonName", "me"),),)}), (b"CN=me",)),
        (Client(certificate={}), ()),
    ],
)
def test_names_of_a_client(client: Client, names: tuple[bytes, ...]) -> None:
    """URIs before DNS names before the subject; none without a verified certificate."""
    assert names_of(client) == names


async def test_a_connection_that_may_not_be_is_closed_before_a_host_hears_of_it(tmp_path: Path) -> None:
    deny = NetworkRbac(stat_prefix="tcp.", rbac=Rbac(rules=rules(Action.DENY, everybody=Anybody())))
    allow = NetworkRbac(stat_prefix="tcp.", rbac=Rbac(rules=rules(Action.ALLOW, everybody=Anybody())))
    async with raw_origin() as origin:
        for name, guards in (("denied", (allow, deny)), ("allowed", (allow,))):
            folder = tmp_path / name
            folder.mkdir()
            async with tcp_proxy(folder, "c", [cluster("c", origin.port)], guards=guards) as proxy:
                client = await proxy.client()
                client.writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
                answer = await client.reader.read(12)
                assert answer == (b"" if name == "denied" else b"HTTP/1.1 200")
                client.writer.close()
                if name == "denied":
                    (line,) = await proxy.logged(1)
                    assert line["details"] == "rbac_access_denied_matched_policy[everybody]"
        assert origin.connections == 1
