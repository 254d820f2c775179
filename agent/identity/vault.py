"""What the agent holds of its identities, in memory and (unless told otherwise) on disk.

Owns:   the files `identity/roots.json` and `identity/<hash>.json`, their checks, what is said about damaged ones.
Not:    how certificates are got (agent.identity.authority), when they are renewed (agent.identity.renewal).
Source: decision 14; design section 5.
Invariants: the folder is 0700, files 0600, each replaced by rename with key and chain together; an expired or damaged
        file costs that identity only; with keys="memory" nothing is written.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.model.tls import KeyPair
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.replace_file import replace_file

_log = get_logger(__name__)

SCHEMA = 1
_ROOTS = "roots"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Identity:
    """A signed identity. Times: seconds since the epoch."""

    spiffe_id: str
    chain_pem: bytes
    key_pem: bytes
    not_before_s: float
    not_after_s: float

    def __repr__(self) -> str:
        return f"Identity({self.spiffe_id!r}, not_after_s={self.not_after_s!r}, key_pem=[redacted])"

    @property
    def key_pair(self) -> KeyPair:
        return KeyPair(identity=self.spiffe_id, chain_pem=self.chain_pem, key_pem=self.key_pem)


class Vault:
    """The identities of this node and the roots that peers' certificates chain to."""

    def __init__(self, folder: Path | None) -> None:
        """`folder` None = memory only."""
        self._folder = folder
        self._identities: dict[str, Identity] = {}
        self.trust_pem = b""

    @property
    def identities(self) -> Mapping[str, Identity]:
        """By SPIFFE id."""
        return self._identities

    def load(self, now_s: float) -> tuple[str, ...]:
        """Read the folder; one sentence for each part that is not usable."""
        if self._folder is None:
            return ()
        problems: list[str] = []
        try:
            _make_private(self._folder)
        except OSError as error:
            problems.append(f"{self._folder}: identities will not outlive this process: {error}")
        for path in sorted(self._folder.glob("*.json")):
            try:
                self._take(_read(path), path, now_s)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                problems.append(f"{path} is ignored: {error}")
        if self._identities and not self.trust_pem:
            problems.append(f"{self._folder}: the trust roots are missing, so its identities are ignored")
            self._identities.clear()
        return tuple(problems)

    def store(self, identities: Iterable[Identity], trust_pem: bytes) -> None:
        """Hold new identities beside the others, and the present roots. Raises UNAVAILABLE when the disk refuses."""
        added = {item.spiffe_id: item for item in identities}
        self._identities.update(added)
        self.trust_pem = trust_pem
        if self._folder is None:
            return
        try:
            _make_private(self._folder)
            self._write(_ROOTS, {"trust_pem": trust_pem.decode()})
            for item in added.values():
                self._write(_stem(item.spiffe_id), _plain(item))
        except OSError as error:
            raise MeshError(
                ErrorCode.UNAVAILABLE, f"identities cannot be stored: {error}", subject=str(self._folder)
            ) from error

    def forget(self, spiffe_id: str) -> None:
        """Hold an identity no longer: its last local service is gone."""
        self._identities.pop(spiffe_id, None)
        if self._folder is None:
            return
        try:
            (self._folder / f"{_stem(spiffe_id)}.json").unlink(missing_ok=True)
        except OSError as error:
            _log.warning("a key that is not needed stays on disk", spiffe_id=spiffe_id, reason=str(error))

    def _take(self, value: dict[str, Any], path: Path, now_s: float) -> None:
        if path.stem == _ROOTS:
            self.trust_pem = value["trust_pem"].encode()
            return
        item = Identity(
            spiffe_id=value["spiffe_id"],
            chain_pem=value["chain_pem"].encode(),
            key_pem=value["key_pem"].encode(),
            not_before_s=float(value["not_before_s"]),
            not_after_s=float(value["not_after_s"]),
        )
        if item.not_after_s <= now_s:
            raise ValueError(f"the certificate of {item.spiffe_id} has expired")
        self._identities[item.spiffe_id] = item

    def _write(self, stem: str, value: dict[str, Any]) -> None:
        assert self._folder is not None
        data = json.dumps({"schema": SCHEMA, "sha256": _digest(value), "value": value}).encode()
        replace_file(self._folder / f"{stem}.json", data)


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _plain(item: Identity) -> dict[str, Any]:
    return {
        "spiffe_id": item.spiffe_id,
        "chain_pem": item.chain_pem.decode(),
        "key_pem": item.key_pem.decode(),
        "not_before_s": item.not_before_s,
        "not_after_s": item.not_after_s,
    }


def _stem(spiffe_id: str) -> str:
    return hashlib.sha256(spiffe_id.encode()).hexdigest()[:24]


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """The checked value of a file. Raises ValueError, KeyError, TypeError or OSError."""
    file = json.loads(path.read_bytes())
    if file["schema"] != SCHEMA:
        raise ValueError(f"found schema {file['schema']}, expected {SCHEMA}")
    value = file["value"]
    if file["sha256"] != _digest(value):
        raise ValueError("its checksum does not fit")
    return dict(value)
