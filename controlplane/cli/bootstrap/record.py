"""`enrolment.json` in a bootstrap folder: who this client is, so that a renewal needs no flags but the folder.

Invariant: no secret stands in it.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from controlplane.cli.bootstrap.files import write_private
from controlplane.cli.identity.signing import Names
from mesh.errors import ErrorCode, MeshError

SCHEMA = 1
FILE = "enrolment.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`client`: envoy or grpc; `namespace` and `service_account` are empty when it runs no workload."""

    client: str
    node: str
    namespace: str
    service_account: str
    trust_domain: str
    xds_address: str
    schema: int = SCHEMA

    @property
    def names(self) -> Names:
        """Whom to get certificates for."""
        workload = (self.namespace, self.service_account) if self.service_account else None
        return Names(node=self.node, workload=workload)

    def write(self, folder: Path) -> None:
        """Beside the files that it is about."""
        write_private(folder / FILE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def read_record(folder: Path, client: str) -> Record:
    """Raises UNREADABLE when the folder is not one that `bootstrap` made for this kind of client."""
    path = folder / FILE
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
        record = Record(**value)
    except (OSError, ValueError, TypeError) as error:
        raise MeshError(
            ErrorCode.UNREADABLE, f"found no enrolment: {error}", subject=str(path), hint=f"meshctl {client} bootstrap"
        ) from error
    if record.schema != SCHEMA or record.client != client:
        raise MeshError(
            ErrorCode.UNREADABLE,
            f"found schema {record.schema} of {record.client}, expected {SCHEMA} of {client}",
            subject=str(path),
        )
    return record
