"""Which calls a policy of our own is about: those to a service, one of its subsets or ports, by one route."""

from controlplane.policy.http_route import PortSelector
from controlplane.policy.scalars import Text
from controlplane.policy.spec import Spec


class CallTarget(Spec):
    """`host` may be short: see controlplane.policy.hosts. `route`: the name that a VirtualService gives a rule of
    `http`, or one of its matches; what is unset narrows nothing.
    """

    host: Text = ""
    subset: Text = ""
    port: PortSelector | None = None
    route: Text = ""

    @property
    def port_number(self) -> int:
        """0 = every port."""
        return self.port.number if self.port is not None else 0

    @property
    def narrowness(self) -> tuple[bool, bool, bool]:
        """Sorts the most specific last: a route above a subset above a port above the whole service."""
        return bool(self.route), bool(self.subset), bool(self.port_number)


class CallPolicy(Spec):
    """What the policies about calls have in common."""

    target: CallTarget | None = None
    export_to: tuple[Text, ...] = ()

    @property
    def effective_target(self) -> CallTarget:
        """It stands in every one that is admitted."""
        return self.target or CallTarget()

    @property
    def effective_export_to(self) -> tuple[str, ...]:
        """Namespaces whose workloads obey it; `.` = its own, `*` = all."""
        return self.export_to or ("*",)
