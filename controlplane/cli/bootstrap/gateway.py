"""`--gateway namespace=ingress,labels.istio=ingressgateway`: the Envoy is a gateway. Pure.

Source: controlplane/model/proxy.py reads it from the node's metadata GATEWAY, GATEWAY_ADDRESS, LABELS, NAMESPACE and
        SERVICE_ACCOUNT.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.cli.bootstrap.workloads import key_values
from mesh.vocabulary import DEFAULT_NAMESPACE, DEFAULT_SERVICE_ACCOUNT

_KEYS = ("namespace", "service-account", "address", "labels.KEY")
_LABEL = "labels."


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayNode:
    """`address`: where it binds the ports of Gateways, "" = where it is reached."""

    namespace: str
    service_account: str
    labels: Mapping[str, str]
    address: str = ""

    @property
    def identity(self) -> tuple[str, str]:
        """(namespace, service account)."""
        return self.namespace, self.service_account

    def metadata(self, address: str) -> dict[str, Any]:
        """As metadata of the node; `address`: where it is reached."""
        return {
            "GATEWAY": True,
            "GATEWAY_ADDRESS": self.address or address,
            "LABELS": dict(self.labels),
            "NAMESPACE": self.namespace,
            "SERVICE_ACCOUNT": self.service_account,
        }


def parse_gateway(text: str | None) -> GatewayNode | None:
    """`--gateway`, if it is given. Raises SETTINGS."""
    if text is None:
        return None
    fields = key_values(text, _KEYS, f"--gateway {text}")
    return GatewayNode(
        namespace=fields.get("namespace") or DEFAULT_NAMESPACE,
        service_account=fields.get("service-account") or DEFAULT_SERVICE_ACCOUNT,
        labels={key.removeprefix(_LABEL): value for key, value in fields.items() if key.startswith(_LABEL)},
        address=fields.get("address", ""),
    )
