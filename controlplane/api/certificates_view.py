"""What users may see of the mesh's certificates: roots and what nodes may claim; never a key.

Owns:   reading the trust bundle for people.
Not:    signing (controlplane.ca).
"""

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from controlplane.api.state_json import time_of
from controlplane.ca.grants import grants
from controlplane.ca.rotation import Rotation
from controlplane.store.protocol import ConfigStore


def roots_json(bundle_pem: bytes) -> list[dict[str, Any]]:
    """The roots of the trust bundle."""
    return [
        {
            "subject": root.subject.rfc4514_string(),
            "serial": f"{root.serial_number:x}",
            "fingerprint_sha256": root.fingerprint(hashes.SHA256()).hex(),
            "not_before": time_of(root.not_valid_before_utc.timestamp()),
            "not_after": time_of(root.not_valid_after_utc.timestamp()),
        }
        for root in x509.load_pem_x509_certificates(bundle_pem)
    ]


def rotation_json(rotation: Rotation) -> dict[str, Any]:
    """The change of roots that is under way."""
    return {
        "phase": rotation.phase.value,
        "old": rotation.old,
        "new": rotation.new,
        "since": time_of(rotation.since),
        "author": rotation.author,
        "revision": rotation.revision,
    }


async def grants_json(store: ConfigStore) -> list[dict[str, Any]]:
    """What each joined node may run, by node."""
    return [
        {
            "node": item.node,
            "namespaces": list(item.namespaces),
            "service_accounts": list(item.service_accounts),
            "token_id": item.token_id,
            "joined": time_of(item.joined_ms / 1000),
        }
        for item in await grants(store)
    ]
