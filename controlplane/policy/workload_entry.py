"""WorkloadEntry: one address outside Kubernetes, on its own or inside a ServiceEntry.

Source: istio.io/api networking/v1 workload_entry.proto.
"""

from collections.abc import Mapping
from typing import Annotated

from controlplane.policy.frozen import EMPTY, FrozenMap
from controlplane.policy.scalars import FREEZE, Text, TextMap, UInt32
from controlplane.policy.spec import Spec
from mesh.vocabulary import Locality

UNIX_PREFIX = "unix://"
MAX_WEIGHT = 65535  # the weights of an assignment must fit into 32 bits when they are added up
_NO_PORTS: FrozenMap[str, int] = FrozenMap()


class WorkloadEntry(Spec):
    """`address` is an IP address, a DNS name or unix:///path; `ports` maps the service's port names to numbers."""

    address: Text = ""
    ports: Annotated[Mapping[str, UInt32], FREEZE] = _NO_PORTS
    labels: TextMap = EMPTY
    network: Text = ""
    locality: Text = ""
    weight: UInt32 = 0
    service_account: Text = ""

    @property
    def effective_weight(self) -> int:
        """1..MAX_WEIGHT."""
        return min(self.weight, MAX_WEIGHT) or 1

    @property
    def parsed_locality(self) -> Locality:
        """region/zone/subzone as parts."""
        return Locality.parse(self.locality)
