"""The keeper of identities against a real CA over real gRPC on loopback: join, renew, restart, be refused."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from agent.identity.renewal import IdentityKeeper, plan, renew_at_s
from agent.identity.vault import Identity, Vault
from agent.settings import ControlPlaneSettings
from controlplane.ca.grants import revoke_node
from mesh.errors import ErrorCode, MeshError
from mesh.tasks import cancel_and_wait, spawn
from tests.support.authorities import ServedAuthority, ShiftedClock

NODE = "spiffe://cluster.local/node/node-1"
DAY_S = 24 * 3600.0


def workload(account: str) -> str:
    return f"spiffe://cluster.local/ns/default/sa/{account}"


class Node:
    """One agent's keeper; `restart` makes another one with the same folder."""

    def __init__(self, served: ServedAuthority, tmp_path: Path, *, name: str = "node-1", keys: str = "disk") -> None:
        self.token_file = tmp_path / f"{name}.token"
        self.settings = ControlPlaneSettings(
            address=served.mtls, join_address=served.tls, token_file=str(self.token_file)
        )
        self._name = name
        self._folder = tmp_path / name / "identity" if keys == "disk" else None
        self.node_id = f"spiffe://cluster.local/node/{name}"
        self.clock = ShiftedClock()
        self.changes: list[bool] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.load_problems: tuple[str, ...] = ()
        self.start()

    def start(self) -> None:
        self.vault = Vault(self._folder)
        self.load_problems = self.vault.load(self.clock.wall())
        self.keeper = IdentityKeeper(
            self.settings,
            self._name,
            self.node_id,
            self.vault,
            clock=self.clock,
            on_change=self._on_change,
            rng=lambda: 0.5,
        )

    def run(self) -> None:
        self._task = spawn("keeper", self.keeper.run())

    async def stop(self) -> None:
        await cancel_and_wait(self._task)
        assert self._task is None or self._task.done()

    async def restart(self) -> None:
        await self.stop()
        self.start()
        self.run()

    def _on_change(self, node_renewed: bool) -> None:
        self.changes.append(node_renewed)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                assert self._task is None or not self._task.done(), "the keeper ended"
                await asyncio.sleep(0.02)

    async def until_held(self, *spiffe_ids: str) -> None:
        await self.until(lambda: set(spiffe_ids) <= set(self.vault.identities))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[ServedAuthority]:
    authority = await ServedAuthority.open(tmp_path / "ca")
    await authority.start()
    yield authority
    await authority.stop()


@pytest.fixture
async def node(served: ServedAuthority, tmp_path: Path) -> AsyncIterator[Node]:
    made = Node(served, tmp_path)
    yield made
    await made.stop()


def names_in(identity: Identity) -> list[str]:
    leaf = x509.load_pem_x509_certificate(identity.chain_pem)
    return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.UniformResourceIdentifier
    )


async def test_a_node_joins_with_its_token_then_gets_its_workloads_identities(
    served: ServedAuthority, node: Node
) -> None:
    node.token_file.write_text(await served.token(service_accounts=["orders", "users"]))
    node.keeper.want([workload("orders"), workload("users"), workload("orders")])
    assert node.keeper.can_begin()
    node.run()
    await node.until_held(NODE, workload("orders"), workload("users"))

    for spiffe_id, identity in node.vault.identities.items():
        assert names_in(identity) == [spiffe_id]
    assert node.vault.trust_pem == served.ca.trust_bundle_pem
    assert node.changes == [True, False]
    assert node.keeper.problems == {}
    assert [(join.node, [item.spiffe_id for item in join.requests]) for join in served.service.joins] == [
        ("node-1", [NODE])
    ]
    assert served.service.renewals == [[workload("orders"), workload("users")]]
    times = node.keeper.renew_times()
    for spiffe_id, identity in node.vault.identities.items():
        assert times[spiffe_id] == pytest.approx((identity.not_before_s + identity.not_after_s) / 2, abs=1)


async def test_a_restart_renews_by_certificate_and_needs_no_token(served: ServedAuthority, node: Node) -> None:
    node.token_file.write_text(await served.token())
    node.keeper.want([workload("orders")])
    node.run()
    await node.until_held(NODE, workload("orders"))
    node.token_file.unlink()

    await node.restart()
    assert node.load_problems == ()
    assert node.keeper.can_begin()
    node.keeper.want([workload("orders"), workload("users")])
    await node.until_held(NODE, workload("orders"), workload("users"))
    assert len(served.service.joins) == 1
    assert served.service.renewals[-1] == [workload("users")]


async def test_everything_is_renewed_before_it_expires_with_new_keys(served: ServedAuthority, node: Node) -> None:
    node.token_file.write_text(await served.token())
    node.keeper.want([workload("orders")])
    node.run()
    await node.until_held(NODE, workload("orders"))
    before = dict(node.vault.identities)

    node.clock.shift_s = DAY_S * 0.45  # the time of renewal is at a half: not yet
    node.keeper.want([workload("orders")])
    await asyncio.sleep(0.3)
    assert node.vault.identities == before

    node.clock.shift_s = DAY_S * 0.55
    node.keeper.want([workload("orders")])
    await node.until(lambda: served.service.renewals[-1] == [NODE, workload("orders")])
    await node.until(lambda: all(node.vault.identities[name] != before[name] for name in before))
    assert node.vault.identities[NODE].key_pem != before[NODE].key_pem
    assert node.changes[-1] is True
    assert len(served.service.joins) == 1


async def test_a_certificate_that_expired_while_all_was_away_costs_a_new_token(
    served: ServedAuthority, node: Node
) -> None:
    node.token_file.write_text(await served.token())
    node.run()
    await node.until_held(NODE)
    old = node.vault.identities[NODE]
    await node.stop()

    node.clock.shift_s = DAY_S * 1.1
    node.start()
    assert len(node.load_problems) == 1
    assert "expired" in node.load_problems[0]
    assert node.keeper.node_identity is None
    node.run()
    await node.until(lambda: "no uses left" in node.keeper.problems.get(NODE, ""))

    node.token_file.write_text(await served.token())
    node.clock.shift_s = 0  # what is signed now must not have expired already by the node's clock
    await node.until_held(NODE)
    assert node.vault.identities[NODE] != old
    assert node.keeper.problems == {}


async def test_an_impostor_never_sees_the_secret(tmp_path: Path, served: ServedAuthority, node: Node) -> None:
    impostor = await ServedAuthority.open(tmp_path / "impostor")
    await impostor.start()
    node.settings = replace(node.settings, join_address=impostor.tls)
    node.start()
    node.token_file.write_text(await served.token())
    node.run()
    await node.until(lambda: NODE in node.keeper.problems)
    assert "the secret was not sent" in node.keeper.problems[NODE]
    assert impostor.service.joins == []
    assert NODE not in node.vault.identities
    await impostor.stop()


async def _refused(node: Node) -> str:
    node.run()
    await node.until(lambda: node.node_id in node.keeper.problems)
    assert node.vault.identities == {}
    return node.keeper.problems[node.node_id]


async def test_a_wrong_pin_is_refused_here(served: ServedAuthority, node: Node) -> None:
    token_id, secret, _ = (await served.token()).split(".")
    node.token_file.write_text(f"{token_id}.{secret}.{hashlib.sha256(b'other').hexdigest()}")
    assert "the secret was not sent" in await _refused(node)
    assert served.service.joins == []


async def test_a_wrong_secret_is_refused(served: ServedAuthority, node: Node) -> None:
    token_id, secret, pin = (await served.token()).split(".")
    node.token_file.write_text(f"{token_id}.{secret[::-1]}.{pin}")
    assert "UNAUTHENTICATED" in await _refused(node)


async def test_a_spent_token_is_refused(served: ServedAuthority, node: Node, tmp_path: Path) -> None:
    text = await served.token(node="node-*")
    node.token_file.write_text(text)
    node.run()
    await node.until_held(NODE)
    other = Node(served, tmp_path, name="node-2")
    other.token_file.write_text(text)
    assert "no uses left" in await _refused(other)
    await other.stop()


async def test_an_expired_token_is_refused(served: ServedAuthority, node: Node) -> None:
    node.token_file.write_text(await served.token(ttl_s=1))
    await asyncio.sleep(1.1)
    assert "expired" in await _refused(node)


async def test_a_token_of_another_node_is_refused(served: ServedAuthority, node: Node) -> None:
    node.token_file.write_text(await served.token(node="node-9"))
    problem = await _refused(node)
    assert "PERMISSION_DENIED" in problem
    assert "for node node-9, found node-1" in problem
    (token,) = await served.ca.tokens.list()
    assert token.uses_left == 1


async def test_one_service_account_that_is_not_allowed_does_not_cost_the_others(
    served: ServedAuthority, node: Node
) -> None:
    node.token_file.write_text(await served.token(service_accounts=["orders", "users"]))
    node.keeper.want([workload("orders"), workload("payments"), workload("users")])
    node.run()
    await node.until_held(NODE, workload("orders"), workload("users"))
    await node.until(lambda: workload("payments") in node.keeper.problems)
    assert "may not have identity" in node.keeper.problems[workload("payments")]
    assert workload("payments") not in node.vault.identities
    assert all(node.keeper.decided(workload(name)) for name in ("orders", "payments", "users"))
    assert not node.keeper.decided(workload("strangers"))
    assert node.changes[-1] is False, "a refusal is told too"

    asked = len(served.service.renewals)
    node.keeper.want([workload("orders"), workload("payments"), workload("users")])
    await asyncio.sleep(0.3)
    assert len(served.service.renewals) == asked, "a refused identity is not asked for again at once"
    node.keeper.want([workload("orders")])
    assert node.keeper.problems == {}


async def test_an_identity_that_no_service_needs_is_forgotten(served: ServedAuthority, node: Node) -> None:
    node.token_file.write_text(await served.token())
    node.keeper.want([workload("orders"), workload("users")])
    node.run()
    await node.until_held(NODE, workload("orders"), workload("users"))
    node.keeper.want([workload("users")])
    assert set(node.vault.identities) == {NODE, workload("users")}
    await node.restart()
    assert set(node.vault.identities) == {NODE, workload("users")}


async def test_a_join_whose_answer_was_lost_is_repeated_with_the_same_key(served: ServedAuthority, node: Node) -> None:
    served.service.lose_answers = 1
    node.token_file.write_text(await served.token(uses=1))
    node.run()
    await node.until_held(NODE)
    assert len(served.service.joins) == 2
    assert served.service.joins[0] == served.service.joins[1]


async def test_a_control_plane_that_is_away_is_waited_for(served: ServedAuthority, node: Node) -> None:
    node.token_file.write_text(await served.token())
    await served.stop()
    node.run()
    await node.until(lambda: NODE in node.keeper.problems)
    assert "control plane" in node.keeper.problems[NODE]
    await served.start()
    await node.until_held(NODE)
    assert node.keeper.problems == {}


async def test_a_revoked_node_keeps_what_it_has_and_says_why_it_gets_no_more(
    served: ServedAuthority, node: Node
) -> None:
    node.token_file.write_text(await served.token())
    node.run()
    await node.until_held(NODE)
    await revoke_node(served.store, "node-1")
    node.keeper.want([workload("orders")])
    await node.until(lambda: workload("orders") in node.keeper.problems)
    assert "revoked" in node.keeper.problems[workload("orders")]
    assert set(node.vault.identities) == {NODE}


async def test_keys_in_memory_leave_nothing_behind_and_a_restart_needs_a_token(
    served: ServedAuthority, tmp_path: Path
) -> None:
    node = Node(served, tmp_path, name="node-3", keys="memory")
    node.token_file.write_text(await served.token(node="node-3"))
    node.run()
    await node.until_held(node.node_id)
    await node.stop()
    assert not (tmp_path / "node-3").exists()

    node.token_file.unlink()
    node.start()
    assert node.vault.identities == {}
    with pytest.raises(MeshError) as caught:
        node.keeper.can_begin()
    assert caught.value.code is ErrorCode.SETTINGS
    node.token_file.write_text(await served.token(node="node-3"))
    assert node.keeper.can_begin()
    node.run()
    await node.until_held(node.node_id)
    await node.stop()


async def test_without_certificate_and_token_the_agent_cannot_begin(served: ServedAuthority, node: Node) -> None:
    node.settings = ControlPlaneSettings(address=served.mtls)
    node.start()
    with pytest.raises(MeshError, match="no valid node certificate, and no join token") as caught:
        node.keeper.can_begin()
    assert caught.value.code is ErrorCode.SETTINGS


async def test_more_services_than_fit_into_one_request(served: ServedAuthority, node: Node) -> None:
    wanted = [workload(f"s{number}") for number in range(70)]
    node.token_file.write_text(await served.token())
    node.keeper.want(wanted)
    node.run()
    await node.until_held(NODE, *wanted)
    assert [len(batch) for batch in served.service.renewals] == [32, 32, 6]


async def test_a_disk_that_refuses_does_not_keep_certificates_from_being_used(
    served: ServedAuthority, tmp_path: Path
) -> None:
    (tmp_path / "node-1").write_text("a file where the folder should be")
    node = Node(served, tmp_path)
    assert "will not outlive this process" in node.load_problems[0]
    node.token_file.write_text(await served.token())
    node.run()
    await node.until(lambda: node.changes == [True])
    assert set(node.vault.identities) == {NODE}
    await node.until(lambda: "cannot be stored" in node.keeper.problems.get(NODE, ""))
    await node.stop()


# --- the plan, without input and output ---------------------------------------------------------------------------


def _identity(spiffe_id: str) -> Identity:
    return Identity(spiffe_id=spiffe_id, chain_pem=b"", key_pem=b"", not_before_s=1000.0, not_after_s=2000.0)


def draws() -> Iterator[tuple[float, float]]:
    yield from ((0.0, 1400.0), (0.5, 1500.0), (0.999999, 1600.0))


@pytest.mark.parametrize(("draw", "expected"), list(draws()))
def test_a_certificate_is_renewed_around_half_of_its_life(draw: float, expected: float) -> None:
    assert renew_at_s(_identity("a"), lambda: draw) == pytest.approx(expected, abs=0.01)


def test_the_plan_names_what_is_due_and_when_to_look_again() -> None:
    held = {name: _identity(name) for name in "abc"}
    times = {"a": 1500.0, "b": 1600.0, "c": 1700.0}
    found = plan("abcd", held, times, {}, 1600.0)
    assert found.now == ("a", "b", "d")
    assert found.next_s == 1700.0
    found = plan("abcd", held, times, {"d": 1650.0, "a": 1640.0}, 1600.0)
    assert found.now == ("b",)
    assert found.next_s == 1640.0


def test_the_plan_looks_again_in_ten_minutes_at_the_latest() -> None:
    assert plan("", {}, {}, {}, 1000.0).next_s == 1600.0
    assert plan("a", {"a": _identity("a")}, {"a": 9e9}, {}, 1000.0).next_s == 1600.0
