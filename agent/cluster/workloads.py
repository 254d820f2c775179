"""Who the callers of this agent may be: the workloads behind the endpoints of all clusters.

Owns:   the index from an identity (namespace, service account) to the workloads that have it, and where they are.
Not:    who shows which certificate (agent.listener), labels of metrics (agent.proxy.standard_metrics).
Invariants: it holds exactly the endpoints that clusters have; what several workloads disagree on is unknown, never
        guessed.
"""

from mesh.xds.workload_name import WorkloadName

_Account = tuple[str, str]


class CallerIndex:
    """Changed with every endpoint that comes or goes. Cost of a question: the workloads of one service account."""

    __slots__ = ("_by_account",)

    def __init__(self) -> None:
        self._by_account: dict[_Account, dict[str, dict[str, int]]] = {}  # -> workload -> address -> endpoints

    def add(self, address: str, workload: str) -> None:
        """An endpoint at `address` is of the workload (the text of its WorkloadName); "" says nothing."""
        if not workload:
            return
        addresses = self._by_account.setdefault(_account(workload), {}).setdefault(workload, {})
        addresses[address] = addresses.get(address, 0) + 1

    def remove(self, address: str, workload: str) -> None:
        """One that was added is gone."""
        if not workload:
            return
        account = _account(workload)
        workloads = self._by_account[account]
        addresses = workloads[workload]
        addresses[address] -= 1
        if not addresses[address]:
            del addresses[address]
        if not addresses:
            del workloads[workload]
        if not workloads:
            del self._by_account[account]

    def find(self, namespace: str, service_account: str, address: str) -> WorkloadName:
        """What is known of a caller: of several workloads, those at its address count, and what they have in common."""
        workloads = self._by_account.get((namespace, service_account), {})
        near = [name for name, addresses in workloads.items() if address in addresses]
        names = [WorkloadName.parse(name) for name in near or workloads]
        return WorkloadName(
            workload=_common([name.workload for name in names]),
            namespace=namespace,
            service_account=service_account,
            app=_common([name.app for name in names]),
            version=_common([name.version for name in names]),
            canonical_service=_common([name.canonical_service for name in names]),
            canonical_revision=_common([name.canonical_revision for name in names]),
        )


def _account(workload: str) -> _Account:
    name = WorkloadName.parse(workload)
    return name.namespace, name.service_account


def _common(values: list[str]) -> str:
    return values[0] if values and values.count(values[0]) == len(values) else ""
