"""The mesh's roots in the store: one for all replicas, sealed, and more than one to trust while they change."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controlplane.ca import roots, sealing
from controlplane.ca.authority import create_root
from controlplane.ca.service import open_authority
from controlplane.store.keys import CA_ROOTS, CA_SIGNER, ca_root_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Delete, Put
from mesh.errors import ErrorCode, MeshError

NOW = time.time()


@pytest.fixture
def key(tmp_path: Path) -> sealing.SealingKey:
    return sealing.load_or_create(tmp_path / "ca.key")


async def opened(store: MemoryStore, key: sealing.SealingKey, trust_domain: str = "td") -> roots.Roots:
    return await roots.load_or_create(store, key, trust_domain=trust_domain, now_s=NOW)


async def test_replicas_that_start_at_once_agree_on_one_root(key: sealing.SealingKey) -> None:
    store = MemoryStore()
    found = await asyncio.gather(*(opened(store, key) for _ in range(5)))
    assert len({item.signer.fingerprint for item in found}) == 1
    assert len((await store.list(CA_ROOTS)).entries) == 1
    again = await opened(store, key)
    assert again.signer.fingerprint == found[0].signer.fingerprint
    assert again.bundle == (again.signer.certificate,)


async def test_the_key_is_never_stored_in_the_clear(key: sealing.SealingKey) -> None:
    store = MemoryStore()
    made = await opened(store, key)
    plain = made.signer.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (entry,) = (await store.list(CA_ROOTS)).entries
    assert b"PRIVATE" not in entry.value
    assert plain not in entry.value
    assert plain[-32:].hex().encode() not in entry.value


async def test_another_key_file_or_trust_domain_is_named(key: sealing.SealingKey, tmp_path: Path) -> None:
    store = MemoryStore()
    await opened(store, key)
    for wrong, words in (
        ((sealing.load_or_create(tmp_path / "other.key"), "td"), "encrypted under another key file"),
        ((key, "elsewhere"), "is for trust domain td, the settings say elsewhere"),
    ):
        with pytest.raises(MeshError, match=words) as caught:
            await opened(store, *wrong)
        assert caught.value.code is ErrorCode.SETTINGS
        assert caught.value.hint


async def test_a_damaged_store_is_named(key: sealing.SealingKey) -> None:
    store = MemoryStore()
    made = await opened(store, key)
    root_key = ca_root_key(made.signer.fingerprint[:16])
    entry = await store.get(root_key)
    assert entry is not None
    for damaged in (b"", b"{}", b"[]", json.dumps({**json.loads(entry.value), "certificatePem": "x"}).encode()):
        await store.transact([], [Put(root_key, damaged)])
        with pytest.raises(MeshError) as caught:
            await opened(store, key)
        assert caught.value.code is ErrorCode.UNREADABLE
        assert caught.value.subject == root_key
    await store.transact([], [Delete(root_key)])
    with pytest.raises(MeshError, match="is missing") as caught:
        await opened(store, key)
    assert caught.value.code is ErrorCode.UNREADABLE


async def test_a_sealed_key_of_another_root_is_refused(key: sealing.SealingKey) -> None:
    """A key is sealed for its root: it cannot be put under another certificate."""
    store = MemoryStore()
    one = await opened(store, key)
    other_store = MemoryStore()
    other = await opened(other_store, key)
    entry = await store.get(ca_root_key(one.signer.fingerprint[:16]))
    foreign = await other_store.get(ca_root_key(other.signer.fingerprint[:16]))
    assert entry is not None
    assert foreign is not None
    mixed = {**json.loads(entry.value), "sealedKey": json.loads(foreign.value)["sealedKey"]}
    await store.transact([], [Put(entry.key, json.dumps(mixed).encode())])
    with pytest.raises(MeshError):
        await opened(store, key)


async def test_while_roots_change_both_are_trusted_and_the_named_one_signs(tmp_path: Path) -> None:
    """What a change of roots consists of: a second root beside the first, then the signer names it."""
    store = MemoryStore()
    before = await open_authority(store, state_dir=tmp_path, trust_domain="td")
    key = sealing.load_or_create(tmp_path / "ca-encryption.key")
    second = create_root("td", NOW)
    second_id = second.fingerprint[:16]
    await store.transact([], [Put(ca_root_key(second_id), roots._encode(second, second_id, key, "td"))])

    both = await open_authority(store, state_dir=tmp_path, trust_domain="td")
    assert both.root_fingerprint == before.root_fingerprint
    assert both.trust_bundle_pem.count(b"BEGIN CERTIFICATE") == 2
    await store.transact([], [Put(CA_SIGNER, second_id.encode())])
    after = await open_authority(store, state_dir=tmp_path, trust_domain="td")
    assert after.root_fingerprint == second.fingerprint
    trusted = [set(x509.load_pem_x509_certificates(ca.trust_bundle_pem)) for ca in (both, after)]
    assert trusted[0] == trusted[1]
    assert second.certificate in trusted[1]


async def test_a_running_replica_founds_no_ca_in_a_store_that_has_lost_its_own(tmp_path: Path) -> None:
    store = MemoryStore()
    running = await open_authority(store, state_dir=tmp_path, trust_domain="td")
    before = running.root_fingerprint
    roots_there = [entry.key for entry in (await store.list(CA_ROOTS)).entries]
    await store.transact([], [Delete(CA_SIGNER), *(Delete(key) for key in roots_there)])
    with pytest.raises(MeshError, match="the CA's signer is not in the store") as caught:
        await running.reload()
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert running.root_fingerprint == before
    assert (await store.get(CA_SIGNER), (await store.list(CA_ROOTS)).entries) == (None, ())
