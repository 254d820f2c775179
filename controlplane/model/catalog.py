"""The definitions of services by host, and which selectors select a workload.

Owns:   the indexes; which definition of a host counts.
Not:    services that registrations make by themselves, and endpoints (controlplane.model.views).
"""

from collections.abc import Iterable, Iterator

from controlplane.model.persistent import PersistentIndex, PersistentMap
from controlplane.model.services import Service, defined_hosts, definition_order, service_of
from controlplane.model.workloads import anchors, label_pairs
from controlplane.policy.objects import PolicyObject
from controlplane.policy.selector import selects
from controlplane.registry.instances import Instance


class Catalog:
    """Immutable; `updated` gives the next."""

    __slots__ = ("_by_host", "_by_selector", "_domain_suffix", "_services")

    def __init__(self, domain_suffix: str) -> None:
        self._domain_suffix = domain_suffix
        self._by_host: PersistentIndex[str, PolicyObject] = PersistentIndex()
        self._services: PersistentMap[str, Service] = PersistentMap()
        self._by_selector: PersistentIndex[tuple[str, str, str], str] = PersistentIndex()

    def updated(self, puts: Iterable[PolicyObject], gone: Iterable[PolicyObject]) -> tuple["Catalog", frozenset[str]]:
        """The next version and the hosts that it defines otherwise. `gone`: also the old form of what is put."""
        adds = [(host, item) for item in puts for host in defined_hosts(item, self._domain_suffix)]
        removes = [(host, item) for item in gone for host in defined_hosts(item, self._domain_suffix)]
        hosts = frozenset(host for host, _ in (*adds, *removes))
        if not hosts:
            return self, hosts
        following = Catalog(self._domain_suffix)
        following._by_host = self._by_host.updated(adds, removes)
        before = [service for host in hosts if (service := self._services.get(host))]
        after = [service for host in hosts if (service := following._winner(host))]
        following._services = self._services.updated({item.host: item for item in after}, hosts)
        following._by_selector = self._by_selector.updated(_selectors(after), _selectors(before))
        return following, hosts

    def get(self, host: str) -> Service | None:
        """The defined service of a host."""
        return self._services.get(host)

    def definitions(self, host: str) -> tuple[PolicyObject, ...]:
        """Every definition of a host, the one that counts first."""
        return tuple(sorted(self._by_host[host], key=definition_order))

    def hosts_selecting(self, workload: Instance) -> set[str]:
        """The hosts whose selector picks the workload."""
        candidates = {host for pair in label_pairs(workload) for host in self._by_selector[(workload.namespace, *pair)]}
        return {host for host in candidates if _picks(self._services[host], workload)}

    def _winner(self, host: str) -> Service | None:
        definitions = self.definitions(host)
        return service_of(host, definitions[0]) if definitions else None


def _selectors(services: Iterable[Service]) -> Iterator[tuple[tuple[str, str, str], str]]:
    # One pair is enough to find a service: a workload that it picks has them all.
    for service in services:
        if service.selector is not None:
            yield (service.namespace, *anchors(service.selector)[0]), service.host


def _picks(service: Service, workload: Instance) -> bool:
    return service.selector is not None and selects(service.selector, workload.labels)
