"""Certificates as a bare client reads them: SDS files for Envoy, PEM files for gRPC.

Owns:   the files, their names, reading the node's own pair back for a renewal.
Not:    how certificates are got (controlplane.cli.identity).
Invariant: in an SDS file key and chain are replaced together, so that Envoy never sees two halves. gRPC reads its two
           files again until they fit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from controlplane.cli.bootstrap import envoy
from controlplane.cli.bootstrap.files import write_private
from controlplane.cli.bootstrap.record import Record
from controlplane.cli.identity.signing import Credentials, KeyPair
from controlplane.cli.output.documents import as_yaml
from mesh.errors import ErrorCode, MeshError

_SECRET = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
GRPC_NODE, GRPC_WORKLOAD, GRPC_ROOTS = "node", "identity", "roots.pem"


def write_sds(folder: Path, credentials: Credentials) -> None:
    """The three SDS files of an Envoy."""
    roots = {"validation_context": {"trusted_ca": {"inline_string": credentials.roots_pem.decode()}}}
    _write_secret(folder / envoy.ROOTS_FILE, envoy.ROOTS_SECRET, roots)
    _write_secret(folder / envoy.WORKLOAD_FILE, envoy.WORKLOAD_SECRET, _certificate(credentials.workload))
    _write_secret(folder / envoy.NODE_FILE, envoy.NODE_SECRET, _certificate(credentials.node))


def read_sds(folder: Path, record: Record) -> Credentials:
    """What a renewal shows. Raises UNREADABLE."""
    try:
        certificate = _secret(folder / envoy.NODE_FILE)["tls_certificate"]
        roots = _secret(folder / envoy.ROOTS_FILE)["validation_context"]["trusted_ca"]["inline_string"]
        chain, key = certificate["certificate_chain"]["inline_string"], certificate["private_key"]["inline_string"]
    except (OSError, yaml.YAMLError, LookupError, TypeError) as error:
        raise _unreadable(folder, error) from error
    return _held(record, chain.encode(), key.encode(), roots.encode())


def write_pem(folder: Path, credentials: Credentials) -> None:
    """The five PEM files of a gRPC client."""
    write_private(folder / GRPC_ROOTS, credentials.roots_pem)
    for stem, pair in ((GRPC_WORKLOAD, credentials.workload), (GRPC_NODE, credentials.node)):
        write_private(folder / f"{stem}.key", pair.key_pem)
        write_private(folder / f"{stem}.crt", pair.chain_pem)


def read_pem(folder: Path, record: Record) -> Credentials:
    """What a renewal shows. Raises UNREADABLE."""
    try:
        names = (f"{GRPC_NODE}.crt", f"{GRPC_NODE}.key", GRPC_ROOTS)
        chain, key, roots = ((folder / name).read_bytes() for name in names)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return _held(record, chain, key, roots)


def _write_secret(path: Path, name: str, value: Mapping[str, Any]) -> None:
    resource = {"@type": _SECRET, "name": name, **value}
    write_private(path, as_yaml({"resources": [resource]}).encode())


def _certificate(pair: KeyPair) -> dict[str, Any]:
    return {
        "tls_certificate": {
            "certificate_chain": {"inline_string": pair.chain_pem.decode()},
            "private_key": {"inline_string": pair.key_pem.decode()},
        }
    }


def _secret(path: Path) -> Any:
    return yaml.safe_load(path.read_text())["resources"][0]


def _held(record: Record, chain: bytes, key: bytes, roots: bytes) -> Credentials:
    node = KeyPair(spiffe_id=f"spiffe://{record.trust_domain}/node/{record.node}", chain_pem=chain, key_pem=key)
    return Credentials(node=node, workload=node, roots_pem=roots, trust_domain=record.trust_domain)


def _unreadable(folder: Path, error: Exception) -> MeshError:
    return MeshError(
        ErrorCode.UNREADABLE, f"the node's certificate cannot be read: {error!r}", subject=str(folder),
        hint="bootstrap again with a new token",
    )  # fmt: skip
