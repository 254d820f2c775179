"""The mesh's roots in the store: loading them, and making the first one so that all replicas agree on it.

Owns:   the stored form (certificate, sealed key), which root signs.
Not:    signing (authority.py), the key file (sealing.py).
Keys:   ca/root/{id} one per root, all of them trusted; ca/signer names the one that signs.

Invariant: the first root is written only if no signer exists, in one transaction; whoever comes second reads it.
"""

import json
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.ca.authority import Root, create_root
from controlplane.ca.sealing import SealingKey
from controlplane.store.keys import CA_ROOTS, CA_SIGNER, ca_root_key
from controlplane.store.protocol import ConfigStore, Entry, ModRevisionIs, Put
from mesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The signing root, and the certificates of all that are trusted (the signing one first)."""

    signer: Root
    bundle: tuple[x509.Certificate, ...]


async def load_or_create(store: ConfigStore, sealing: SealingKey, *, trust_domain: str, now_s: float) -> Roots:
    """The mesh's roots; the first caller makes one. Raises SETTINGS for a foreign key file or trust domain."""
    if await store.get(CA_SIGNER) is None:
        await _create_first(store, sealing, trust_domain, now_s)
    return await load(store, sealing, trust_domain=trust_domain)


async def load(store: ConfigStore, sealing: SealingKey, *, trust_domain: str) -> Roots:
    """The same; none is made. Raises UNAVAILABLE when there is no signer."""
    signer = await store.get(CA_SIGNER)
    if signer is None:
        raise MeshError(ErrorCode.UNAVAILABLE, "the CA's signer is not in the store", subject="CA")
    return await _load(store, sealing, signer.value.decode(), trust_domain)


def encoded(root: Root, sealing: SealingKey, trust_domain: str) -> tuple[str, bytes]:
    """Its id, and what is stored of it."""
    root_id = root.fingerprint[:16]
    return root_id, _encode(root, root_id, sealing, trust_domain)


async def _create_first(store: ConfigStore, sealing: SealingKey, trust_domain: str, now_s: float) -> None:
    root_id, value = encoded(create_root(trust_domain, now_s), sealing, trust_domain)
    # When another replica was first, nothing is written and its root is the mesh's.
    await store.transact(
        [ModRevisionIs(CA_SIGNER, 0)], [Put(ca_root_key(root_id), value), Put(CA_SIGNER, root_id.encode())]
    )


async def _load(store: ConfigStore, sealing: SealingKey, signer_id: str, trust_domain: str) -> Roots:
    entries = {entry.key.removeprefix(CA_ROOTS): entry for entry in (await store.list(CA_ROOTS)).entries}
    if signer_id not in entries:
        raise MeshError(ErrorCode.UNREADABLE, f"the signing root {signer_id} is missing", subject="CA")
    signer = _decode(entries.pop(signer_id), signer_id, sealing, trust_domain)
    others = tuple(_certificate(entry) for entry in entries.values())
    return Roots(signer=signer, bundle=(signer.certificate, *others))


def _encode(root: Root, root_id: str, sealing: SealingKey, trust_domain: str) -> bytes:
    key_der = root.key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    value = {
        "certificatePem": root.certificate.public_bytes(serialization.Encoding.PEM).decode(),
        "sealedKey": sealing.seal(key_der, purpose=_purpose(root_id)),
        "sealedUnder": sealing.id,
        "trustDomain": trust_domain,
    }
    return json.dumps(value, sort_keys=True).encode()


def _decode(entry: Entry, root_id: str, sealing: SealingKey, trust_domain: str) -> Root:
    value = _fields(entry)
    if value["trustDomain"] != trust_domain:
        raise MeshError(
            ErrorCode.SETTINGS,
            f"the store's CA is for trust domain {value['trustDomain']}, the settings say {trust_domain}",
            subject="mesh.trust_domain",
            hint="use the store's trust domain, or another store",
        )
    if value["sealedUnder"] != sealing.id:
        raise MeshError(
            ErrorCode.SETTINGS,
            f"the CA's key was encrypted under another key file (found {sealing.id}, expected {value['sealedUnder']})",
            subject=f"CA key file {sealing.path}",
            hint="copy the file from the state directory of the replica that made the CA, with mode 600",
        )
    key = serialization.load_der_private_key(sealing.unseal(value["sealedKey"], purpose=_purpose(root_id)), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise MeshError(ErrorCode.UNREADABLE, "found a CA key that is not an EC key", subject=entry.key)
    return Root(certificate=_certificate(entry), key=key)


def _certificate(entry: Entry) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(_fields(entry)["certificatePem"].encode())
    except ValueError as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error}, expected a certificate", subject=entry.key) from error


def _fields(entry: Entry) -> dict[str, str]:
    try:
        value = json.loads(entry.value)
        return {name: str(value[name]) for name in ("certificatePem", "sealedKey", "sealedUnder", "trustDomain")}
    except (ValueError, KeyError, TypeError) as error:
        raise MeshError(ErrorCode.UNREADABLE, f"found {error!r}, expected a root", subject=entry.key) from error


def _purpose(root_id: str) -> str:
    return f"CA root {root_id}"
