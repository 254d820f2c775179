"""What the agent holds of its identities, in memory and on disk."""

import json
import stat
from pathlib import Path

import pytest

from agent.identity.vault import Identity, Vault
from mesh.errors import ErrorCode, MeshError

NODE = "spiffe://cluster.local/node/node-1"
ORDERS = "spiffe://cluster.local/ns/default/sa/orders"
NOW = 1_790_000_000.0


def identity(spiffe_id: str = NODE, *, not_after_s: float = NOW + 100) -> Identity:
    return Identity(
        spiffe_id=spiffe_id,
        chain_pem=b"chain",
        key_pem=b"very secret",
        not_before_s=NOW - 60,
        not_after_s=not_after_s,
    )


def filled(folder: Path) -> Vault:
    vault = Vault(folder)
    vault.store([identity(), identity(ORDERS)], b"roots")
    return vault


def file_of(folder: Path, spiffe_id: str) -> Path:
    (found,) = [path for path in folder.glob("*.json") if spiffe_id in path.read_text()]
    return found


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "identity"
    before = filled(folder)
    after = Vault(folder)
    assert after.load(NOW) == ()
    assert after.identities == before.identities == {NODE: identity(), ORDERS: identity(ORDERS)}
    assert after.trust_pem == b"roots"
    assert after.identities[NODE].key_pair.key_pem == b"very secret"


def test_folder_and_files_are_private_also_when_the_folder_was_not(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    folder.mkdir(mode=0o755)
    filled(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.suffix for path in folder.iterdir()} == {".json"}


def test_keys_do_not_print(tmp_path: Path) -> None:
    assert "very secret" not in repr(identity())
    assert "very secret" not in repr(identity().key_pair)


def test_an_expired_identity_is_ignored_by_itself(tmp_path: Path) -> None:
    Vault(tmp_path).store([identity(not_after_s=NOW), identity(ORDERS)], b"roots")
    vault = Vault(tmp_path)
    (problem,) = vault.load(NOW)
    assert NODE in problem
    assert "expired" in problem
    assert set(vault.identities) == {ORDERS}


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-20],
        lambda text: text.replace("chain", "chaos"),
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: json.dumps({**json.loads(text), "value": None}),
        lambda text: json.dumps({**json.loads(text), "value": 7}),
    ],
)
def test_a_damaged_file_costs_that_identity_only(tmp_path: Path, damage: object) -> None:
    filled(tmp_path)
    path = file_of(tmp_path, ORDERS)
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    vault = Vault(tmp_path)
    (problem,) = vault.load(NOW)
    assert str(path) in problem
    assert set(vault.identities) == {NODE}


def test_without_the_roots_no_identity_is_of_use(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "roots.json").write_text("{}")
    vault = Vault(tmp_path)
    problems = vault.load(NOW)
    assert len(problems) == 2
    assert "trust roots are missing" in problems[1]
    assert vault.identities == {}


def test_a_half_written_file_is_not_read(tmp_path: Path) -> None:
    filled(tmp_path)
    (tmp_path / "0123.new").write_text("half")
    assert Vault(tmp_path).load(NOW) == ()


def test_what_is_forgotten_is_gone_from_disk(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    vault.forget(ORDERS)
    vault.forget("spiffe://cluster.local/ns/default/sa/never-held")
    after = Vault(tmp_path)
    after.load(NOW)
    assert set(vault.identities) == set(after.identities) == {NODE}


def test_a_renewed_identity_replaces_key_and_chain_together(tmp_path: Path) -> None:
    vault = filled(tmp_path)
    renewed = Identity(spiffe_id=NODE, chain_pem=b"c2", key_pem=b"k2", not_before_s=NOW, not_after_s=NOW + 200)
    vault.store([renewed], b"roots and more")
    after = Vault(tmp_path)
    after.load(NOW)
    assert after.identities[NODE] == renewed
    assert after.trust_pem == b"roots and more"


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vault = Vault(None)
    assert vault.load(NOW) == ()
    vault.store([identity()], b"roots")
    vault.forget(NODE)
    assert list(tmp_path.rglob("*")) == []


def test_a_disk_that_refuses_does_not_cost_the_new_certificates(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    vault = Vault(tmp_path / "file" / "identity")
    (problem,) = vault.load(NOW)
    assert "will not outlive this process" in problem
    with pytest.raises(MeshError) as caught:
        vault.store([identity()], b"roots")
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert set(vault.identities) == {NODE}
    assert vault.trust_pem == b"roots"
    vault.forget(NODE)
    assert vault.identities == {}
