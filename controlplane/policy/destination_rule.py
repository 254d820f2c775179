"""DestinationRule: subsets of a service and the policy of traffic to it.

Source: istio.io/api networking/v1 destination_rule.proto. The policy's blocks are in traffic_policy and load_balancer.
"""

from controlplane.policy.frozen import EMPTY
from controlplane.policy.scalars import Text, TextMap
from controlplane.policy.selector import WorkloadSelector
from controlplane.policy.spec import Spec
from controlplane.policy.traffic_policy import TrafficPolicy


class Subset(Spec):
    """The hosts of a service that carry `labels`; inert until a VirtualService routes to it."""

    name: Text = ""
    labels: TextMap = EMPTY
    traffic_policy: TrafficPolicy | None = None


class DestinationRule(Spec):
    """`host` may be short or a wildcard: see controlplane.policy.hosts."""

    host: Text = ""
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[Text, ...] = ()
    workload_selector: WorkloadSelector | None = None

    @property
    def effective_export_to(self) -> tuple[str, ...]:
        """Namespaces that see it; `.` = its own, `*` = all. One with a selector is private (2.4.2)."""
        return self.export_to or (("*",) if self.workload_selector is None else (".",))

    def subset(self, name: str) -> Subset | None:
        """The first subset of that name, or None."""
        return next((subset for subset in self.subsets if subset.name == name), None)
