"""Certificates, roots and secrets reach those who use them, when they are others and only then."""

import json
from pathlib import Path

import pytest

from agent.identity.vault import Identity, Vault
from agent.ipc.messages import Identities
from agent.model.tls import KeyPair
from agent.supervisor.identity_flow import IdentityFlow
from agent.xds.resources import Decoded, Held
from mesh.xds import type_url
from mesh.xds.names import TRUST_SECRET

END = b"-----END CERTIFICATE-----\n"
OLD = b"-----BEGIN CERTIFICATE-----\nb2xk\n" + END
NEW = b"-----BEGIN CERTIFICATE-----\nbmV3\n" + END
SA = "spiffe://td/ns/default/sa/orders"
USER = KeyPair(identity="kubernetes://default/site", chain_pem=b"chain", key_pem=b"key")


def identity(name: str = SA) -> Identity:
    return Identity(spiffe_id=name, chain_pem=b"own", key_pem=b"own key", not_before_s=0.0, not_after_s=9e9)


def secret(name: str, *, trust_pem: bytes = b"", pair: KeyPair | None = None) -> Held:
    decoded = Decoded(values=(), trust_pem=trust_pem, pair=pair)
    return Held(type_url=type_url.SECRET, name=name, version="1", body=b"", decoded=decoded)


class Flow:
    """A flow between a vault and what it told."""

    def __init__(self, folder: Path | None = None) -> None:
        self.vault = Vault(folder)
        self.secrets: dict[str, Held] = {}
        self.told: list[Identities] = []
        self.flow = IdentityFlow(self.vault, self, self.told.append)

    def held(self, url: str) -> dict[str, Held]:
        assert url == type_url.SECRET
        return self.secrets

    def accept(self, *items: Held) -> None:
        """Exactly these are held now."""
        self.secrets = {item.name: item for item in items}
        self.flow.accepted()


def test_what_changes_no_secret_tells_nothing() -> None:
    flow = Flow()
    flow.accept()
    flow.vault.store([identity()], OLD)
    flow.accept(secret(TRUST_SECRET, trust_pem=OLD))
    assert flow.told == []


def test_new_certificates_are_told_with_the_roots() -> None:
    flow = Flow()
    flow.vault.store([identity()], OLD)
    flow.flow.renewed()
    assert flow.told == [Identities((identity().key_pair,), OLD, ())]


def test_the_control_planes_roots_replace_those_of_the_vault(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "identity")
    flow.vault.store([identity()], OLD)
    flow.accept(secret(TRUST_SECRET, trust_pem=OLD + NEW))
    assert [told.trust_pem for told in flow.told] == [OLD + NEW]
    stored = json.loads((tmp_path / "identity" / "roots.json").read_text())
    assert stored["value"]["trust_pem"].encode() == OLD + NEW
    flow.accept(secret(TRUST_SECRET, trust_pem=NEW + OLD))  # the same set
    assert len(flow.told) == 1


def test_roots_that_came_with_a_certificate_do_not_replace_newer_ones() -> None:
    flow = Flow()
    flow.accept(secret(TRUST_SECRET, trust_pem=NEW))
    flow.vault.store([identity()], OLD)
    flow.flow.renewed()
    assert flow.told[-1].trust_pem == flow.vault.trust_pem == NEW


def test_roots_that_cannot_be_stored_are_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    flow = Flow(blocked / "identity")
    flow.accept(secret(TRUST_SECRET, trust_pem=NEW))
    assert [told.trust_pem for told in flow.told] == [NEW]
    assert "the mesh's roots cannot be stored" in caplog.text


def test_the_users_secrets_come_and_go_in_memory_alone(tmp_path: Path) -> None:
    flow = Flow(tmp_path / "identity")
    flow.vault.store([identity()], OLD)
    site, clients = secret(USER.identity, pair=USER), secret("kubernetes://default/site-cacert", trust_pem=NEW)
    flow.accept(site, clients)
    assert flow.told == [
        Identities((identity().key_pair, USER), OLD, (("kubernetes://default/site-cacert", NEW),)),
    ]
    flow.accept(site, clients)
    assert len(flow.told) == 1
    flow.accept()
    assert flow.told[-1] == Identities((identity().key_pair,), OLD, ())
    written = b"".join(path.read_bytes() for path in (tmp_path / "identity").iterdir())
    assert b"bmV3" not in written
    assert USER.identity.encode() not in written


def test_roots_and_secrets_of_one_change_are_told_together() -> None:
    flow = Flow()
    flow.accept(secret(TRUST_SECRET, trust_pem=NEW), secret(USER.identity, pair=USER))
    assert flow.told == [Identities((USER,), NEW, ())]
