"""Whether a workload's port takes mTLS, plaintext, or both: PeerAuthentications composed.

Source: control-plane.md 2.5: mesh (root namespace, no selector) < namespace (no selector) < workload (selector) < port;
        UNSET inherits; the oldest wins in each scope; a selector in the root namespace is ignored; default PERMISSIVE.
"""

from collections.abc import Iterable, Mapping

from controlplane.policy.objects import PolicyObject
from controlplane.policy.peer_authentication import MutualTLSMode, PeerAuthentication
from controlplane.policy.selector import selects

DEFAULT_MODE = MutualTLSMode.PERMISSIVE


class PeerPolicies:
    """The policies for the workloads of one namespace; both sequences are sorted, the oldest first."""

    __slots__ = ("_chain", "_selecting")

    def __init__(self, of_root: Iterable[PolicyObject], of_namespace: Iterable[PolicyObject], *, in_root: bool) -> None:
        wide, narrow = tuple(of_root), tuple(of_namespace)
        self._chain = tuple(found for found in (_first_wide(wide), _first_wide(narrow)) if found is not None)
        self._selecting = () if in_root else tuple(item for item in narrow if _spec(item).selects_workloads)

    def mode(self, labels: Mapping[str, str], port: int) -> MutualTLSMode:
        """The mode of a workload's own port."""
        mode = DEFAULT_MODE
        for candidate in self._modes(labels, port):
            mode = mode if candidate is MutualTLSMode.UNSET else candidate
        return mode

    def sources(self, labels: Mapping[str, str]) -> tuple[PolicyObject, ...]:
        """The policies that have a say for a workload."""
        workload = self._workload(labels)
        return self._chain if workload is None else (*self._chain, workload)

    def _modes(self, labels: Mapping[str, str], port: int) -> Iterable[MutualTLSMode]:
        yield from (_spec(item).mode for item in self._chain)
        workload = self._workload(labels)
        if workload is not None:
            yield _spec(workload).mode
            yield _spec(workload).port_mode(port)

    def _workload(self, labels: Mapping[str, str]) -> PolicyObject | None:
        return next((item for item in self._selecting if selects(_match_labels(item), labels)), None)


def shadowed(policies: Iterable[PolicyObject]) -> dict[PolicyObject, PolicyObject]:
    """Policies without selector that an older one of their namespace makes ineffective -> that older one."""
    wide = [item for item in policies if not _spec(item).selects_workloads]
    return {item: wide[0] for item in wide[1:]}


def has_selector(policy: PolicyObject) -> bool:
    """Whether it is for some workloads only."""
    return _spec(policy).selects_workloads


def _first_wide(policies: tuple[PolicyObject, ...]) -> PolicyObject | None:
    return next((item for item in policies if not _spec(item).selects_workloads), None)


def _spec(policy: PolicyObject) -> PeerAuthentication:
    return policy.spec_as(PeerAuthentication)


def _match_labels(policy: PolicyObject) -> Mapping[str, str]:
    selector = _spec(policy).selector
    return selector.match_labels if selector is not None else {}
