"""What a security policy is attached to by name, in place of a selector of labels.

Source: istio.io/api type/v1beta1 PolicyTargetReference; of its kinds a mesh without waypoints has these two.
"""

from controlplane.policy.scalars import Text
from controlplane.policy.spec import Spec

SERVICE = "Service"
GATEWAY = "Gateway"
# Kind -> groups that it may bear; the Kubernetes Gateway API's name is taken for Istio's Gateway too.
KNOWN_TARGETS = {
    SERVICE: frozenset({"", "core"}),
    GATEWAY: frozenset({"", "gateway.networking.k8s.io", "networking.istio.io"}),
}


class PolicyTargetReference(Spec):
    """A Service: the workloads that it has. A Gateway: every listener of the proxies that it selects.

    `namespace`, where given, is the policy's own.
    """

    group: Text = ""
    kind: Text = ""
    name: Text = ""
    namespace: Text = ""
