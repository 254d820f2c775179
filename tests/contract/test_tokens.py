"""Join tokens and roots on both stores: what is spent is spent once, whoever asks at the same time."""

import asyncio
import re
from pathlib import Path

import pytest

from controlplane.ca import grants
from controlplane.ca.service import CertificateAuthority, open_authority
from controlplane.ca.tokens import REPEAT_MS, MintedToken
from controlplane.store.keys import CA, GRANTS, TOKENS
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import ConfigStore, Delete
from mesh.errors import ErrorCode, MeshError
from mesh.secret import Secret
from tests.support.certificates import request
from tests.support.clock import ManualClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

TD = "cluster.local"


def parts(minted: MintedToken) -> tuple[str, Secret]:
    token_id, secret, _ = minted.text.reveal().split(".")
    return token_id, Secret(secret)


async def empty(store: ConfigStore) -> None:
    """The etcd is shared by a module's tests: begin without CA, tokens and grants."""
    for prefix in (CA, TOKENS):
        listing = await store.list(prefix)
        if listing.entries:
            await store.transact([], [Delete(entry.key) for entry in listing.entries])


async def open_ca(store: ConfigStore, tmp_path: Path, clock: ManualClock | None = None) -> CertificateAuthority:
    await empty(store)
    return await open_authority(store, state_dir=tmp_path, trust_domain=TD, clock=clock or ManualClock())


def node(name: str) -> str:
    return f"spiffe://{TD}/node/{name}"


async def refusal(action: object) -> MeshError:
    with pytest.raises(MeshError) as failure:
        await action  # type: ignore[misc]
    return failure.value


async def test_replicas_that_start_at_once_agree_on_one_root(store: ConfigStore, tmp_path: Path) -> None:
    await empty(store)
    opened = await asyncio.gather(
        *(open_authority(store, state_dir=tmp_path, trust_domain=TD, clock=ManualClock()) for _ in range(5))
    )
    assert len({ca.root_fingerprint for ca in opened}) == 1
    assert len((await store.list(CA)).entries) == 2
    assert all(ca.trust_bundle_pem == opened[0].trust_bundle_pem for ca in opened)


async def test_the_root_survives_and_needs_its_key_file(store: ConfigStore, tmp_path: Path) -> None:
    first = await open_ca(store, tmp_path)
    again = await open_authority(store, state_dir=tmp_path, trust_domain=TD)
    assert again.root_fingerprint == first.root_fingerprint

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    error = await refusal(open_authority(store, state_dir=elsewhere, trust_domain=TD))
    assert error.code is ErrorCode.SETTINGS
    assert "copy the file from the state directory" in str(error)
    error = await refusal(open_authority(store, state_dir=tmp_path, trust_domain="other.domain"))
    assert error.code is ErrorCode.SETTINGS
    assert "trust domain cluster.local" in str(error)


async def test_no_private_key_and_no_secret_lies_in_the_store(store: ConfigStore, tmp_path: Path) -> None:
    ca = await open_ca(store, tmp_path)
    minted = await ca.tokens.create(node="node-1")
    _, secret = parts(minted)
    for prefix in (CA, TOKENS):
        for entry in (await store.list(prefix)).entries:
            assert b"PRIVATE KEY" not in entry.value
            assert secret.reveal().encode() not in entry.value


async def test_a_token_is_id_secret_and_fingerprint(store: ConfigStore, tmp_path: Path) -> None:
    ca = await open_ca(store, tmp_path)
    minted = await ca.tokens.create(node="node-1", author="ann")
    assert re.fullmatch(rf"[0-9a-f]{{16}}\.[\w-]{{43}}\.{ca.root_fingerprint}", minted.text.reveal())
    assert minted.text.reveal() not in repr(minted)
    (listed,) = await ca.tokens.list()
    assert listed == minted.token
    assert (listed.created_by, listed.uses_left, listed.namespaces) == ("ann", 1, ("default",))


async def test_join_signs_stores_the_grant_and_spends_the_use(store: ConfigStore, tmp_path: Path) -> None:
    ca = await open_ca(store, tmp_path)
    token_id, secret = parts(await ca.tokens.create(node="node-1", namespaces=("shop",), service_accounts=("a", "b")))
    signed = await ca.join(
        token_id, secret, "node-1", [request(node("node-1")), request(f"spiffe://{TD}/ns/shop/sa/a")]
    )
    assert [str(item.identity) for item in signed.certificates] == [node("node-1"), f"spiffe://{TD}/ns/shop/sa/a"]
    assert signed.trust_bundle_pem == ca.trust_bundle_pem

    grant = await ca.grant_of("node-1")
    assert grant is not None
    assert (grant.namespaces, grant.service_accounts, grant.token_id) == (("shop",), ("a", "b"), token_id)
    assert grant in await grants.grants(store)

    error = await refusal(ca.join(token_id, secret, "node-1", [request(node("node-1"))]))
    assert (error.code, "no uses left" in error.message) == (ErrorCode.UNAUTHENTICATED, True)
    assert await ca.renew("node-1", [request(f"spiffe://{TD}/ns/shop/sa/b")])
    error = await refusal(ca.renew("node-1", [request(f"spiffe://{TD}/ns/bank/sa/b")]))
    assert error.code is ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize("uses", [1, 3])
async def test_concurrent_joins_never_spend_more_than_there_is(store: ConfigStore, tmp_path: Path, uses: int) -> None:
    ca = await open_ca(store, tmp_path)
    # Each replica has its own lock; only the transaction keeps them apart.
    replicas = [await open_authority(store, state_dir=tmp_path, trust_domain=TD, clock=ManualClock()) for _ in range(8)]
    token_id, secret = parts(await ca.tokens.create(node="web-*", uses=uses))
    results = await asyncio.gather(
        *(
            replica.join(token_id, secret, f"web-{i}", [request(node(f"web-{i}"))])
            for i, replica in enumerate(replicas)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, MeshError)]
    assert len(results) - len(refused) == uses
    assert {error.code for error in refused} == {ErrorCode.UNAUTHENTICATED}
    assert len((await store.list(GRANTS)).entries) == uses


async def test_a_repeated_join_spends_nothing_more(store: ConfigStore, tmp_path: Path) -> None:
    """The answer was lost: the agent asks again with the same CSRs."""
    clock = ManualClock()
    ca = await open_ca(store, tmp_path, clock)
    token_id, secret = parts(await ca.tokens.create(node="web-*", uses=2))
    requests = [request(node("web-1"))]
    for _ in range(3):
        await ca.join(token_id, secret, "web-1", requests)
    (token,) = await ca.tokens.list()
    assert token.uses_left == 1

    clock.advance(REPEAT_MS / 1000 + 1)
    await ca.join(token_id, secret, "web-1", requests)
    (token,) = await ca.tokens.list()
    assert token.uses_left == 0


async def test_what_a_join_gets_wrong_spends_nothing(store: ConfigStore, tmp_path: Path) -> None:
    ca = await open_ca(store, tmp_path)
    token_id, secret = parts(await ca.tokens.create(node="node-1"))
    ours = [request(node("node-1"))]
    for attempt, code in (
        (ca.join(token_id, Secret("wrong"), "node-1", ours), ErrorCode.UNAUTHENTICATED),
        (ca.join(token_id, Secret(""), "node-1", ours), ErrorCode.UNAUTHENTICATED),
        (ca.join("0" * 16, secret, "node-1", ours), ErrorCode.UNAUTHENTICATED),
        (ca.join("../ca/signer", secret, "node-1", ours), ErrorCode.UNAUTHENTICATED),
        (ca.join(token_id, secret, "node-2", [request(node("node-2"))]), ErrorCode.PERMISSION_DENIED),
        (ca.join(token_id, secret, "node-1", [request(node("node-2"))]), ErrorCode.PERMISSION_DENIED),
        (ca.join(token_id, secret, "node-1", [request(f"spiffe://{TD}/ns/bank/sa/a")]), ErrorCode.PERMISSION_DENIED),
        (ca.join(token_id, secret, "node-1", []), ErrorCode.INVALID),
        (ca.join(token_id, secret, "NODE", ours), ErrorCode.INVALID),
        (ca.join(token_id, secret, "..", ours), ErrorCode.INVALID),
    ):
        error = await refusal(attempt)
        assert error.code is code
        assert secret.reveal() not in str(error)
    (token,) = await ca.tokens.list()
    assert token.uses_left == 1
    await ca.join(token_id, secret, "node-1", ours)


async def test_an_expired_token_is_refused(store: ConfigStore, tmp_path: Path) -> None:
    clock = ManualClock()
    ca = await open_ca(store, tmp_path, clock)
    token_id, secret = parts(await ca.tokens.create(node="node-1", ttl_s=60))
    clock.advance(60)
    error = await refusal(ca.join(token_id, secret, "node-1", [request(node("node-1"))]))
    assert (error.code, "expired" in error.message) == (ErrorCode.UNAUTHENTICATED, True)


async def test_a_revoked_token_is_refused_and_its_nodes_stay(store: ConfigStore, tmp_path: Path) -> None:
    ca = await open_ca(store, tmp_path)
    token_id, secret = parts(await ca.tokens.create(node="web-*", uses=2))
    await ca.join(token_id, secret, "web-1", [request(node("web-1"))])
    await ca.tokens.revoke(token_id)
    assert (await refusal(ca.tokens.revoke(token_id))).code is ErrorCode.NOT_FOUND
    error = await refusal(ca.join(token_id, secret, "web-2", [request(node("web-2"))]))
    assert error.code is ErrorCode.UNAUTHENTICATED

    assert await ca.renew("web-1", [request(node("web-1"))])
    await grants.revoke_node(store, "web-1")
    error = await refusal(ca.renew("web-1", [request(node("web-1"))]))
    assert error.code is ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("limits", "subject"),
    [
        ({"node": "Node"}, "node"),
        ({"node": ""}, "node"),
        ({"node": "a*b"}, "node"),
        ({"node": "a" * 64}, "node"),
        ({"node": "n", "namespaces": ()}, "namespaces"),
        ({"node": "n", "namespaces": ("a/b",)}, "namespaces"),
        ({"node": "n", "service_accounts": ("",)}, "service_accounts"),
        ({"node": "n", "ttl_s": 0}, "ttl_s"),
        ({"node": "n", "uses": 0}, "uses"),
    ],
)
async def test_limits_that_make_no_sense_are_refused(tmp_path: Path, limits: dict[str, object], subject: str) -> None:
    ca = await open_ca(MemoryStore(), tmp_path)
    error = await refusal(ca.tokens.create(**limits))  # type: ignore[arg-type]
    assert (error.code, error.subject) == (ErrorCode.INVALID, subject)


async def test_old_tokens_go_away_by_themselves(tmp_path: Path) -> None:
    clock = ManualClock()
    ca = await open_ca(store := MemoryStore(clock=clock), tmp_path, clock)
    await ca.tokens.create(node="node-1", ttl_s=60)
    clock.advance(3600)
    assert len(await ca.tokens.list()) == 1, "an expired token stays visible for a day"
    clock.advance(25 * 3600)
    assert await ca.tokens.list() == ()
    await store.close()
