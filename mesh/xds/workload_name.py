"""Who stands behind an endpoint or a listener, as metadata tells it to agents: Istio's labels of a workload.

Owns:   the text form, `workload;namespace;service account;app;version;canonical service;canonical revision`, without
        what is empty at its end.
Source: Istio's canonical service labels and their order of preference; its metadata exchange has the same parts.
Invariant: `WorkloadName.parse(str(name)) == name`; a semicolon inside a part is written as an underscore.
"""

from collections.abc import Mapping
from dataclasses import dataclass

METADATA = "gossamer"  # filter_metadata of listeners and endpoints
KEY = "workload"
_SERVICE_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_REVISION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
_PARTS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadName:
    """Empty parts are unknown."""

    workload: str
    namespace: str = ""
    service_account: str = ""
    app: str = ""
    version: str = ""
    canonical_service: str = ""
    canonical_revision: str = ""

    @classmethod
    def of(cls, workload: str, namespace: str, service_account: str, labels: Mapping[str, str]) -> "WorkloadName":
        """That of an instance. `workload`: what runs in several copies under one name."""
        return cls(
            workload=workload,
            namespace=namespace,
            service_account=service_account,
            app=labels.get("app", ""),
            version=labels.get("version", ""),
            canonical_service=_first(labels, _SERVICE_LABELS) or workload,
            canonical_revision=_first(labels, _REVISION_LABELS) or "latest",
        )

    @classmethod
    def parse(cls, text: str) -> "WorkloadName":
        """Parts beyond those that are known are ignored."""
        parts = [*text.split(";"), *("",) * _PARTS][:_PARTS]
        return cls(
            workload=parts[0],
            namespace=parts[1],
            service_account=parts[2],
            app=parts[3],
            version=parts[4],
            canonical_service=parts[5],
            canonical_revision=parts[6],
        )

    def __str__(self) -> str:
        parts = (
            self.workload, self.namespace, self.service_account, self.app, self.version, self.canonical_service,
            self.canonical_revision,
        )  # fmt: skip
        return ";".join(part.replace(";", "_") for part in parts).rstrip(";")


def _first(labels: Mapping[str, str], names: tuple[str, ...]) -> str:
    return next((labels[name] for name in names if labels.get(name)), "")
