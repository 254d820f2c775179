"""The services that run on this node: from the config file and from the local API.

Owns:   the set of services, their ports, their health, the file `services.json` of those that the API made.
Not:    making checks (checker), the API's form (consul), telling the control plane (agent.report).
Source: decisions 9, 10, 33; data-plane.md 1.7.
Invariants: ids are unique; a service of the config file is changed by that file only; what the API registered is on
        disk before it is answered; `on_change` is called after every change of what `instances` gives.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent.model.reports import LocalInstance, LocalPort
from agent.settings import Service, ServiceCheck, Settings, service
from agent.workloads import ports
from agent.workloads.health import PENDING, UNCHECKED, Health, Result, Thresholds, TtlHealth, step
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.replace_file import replace_file

_log = get_logger(__name__)

FILE = "services.json"
SCHEMA = 1
MAX_SERVICES = 2000  # the control plane takes as many from a node


@dataclass(slots=True)
class Registered:
    """One service with what the agent knows about it. Times: wall clock seconds."""

    service: Service
    from_file: bool
    inbound: dict[int, int]  # application port -> inbound port
    outbound_port: int
    health: Health
    since: float
    ttl: TtlHealth = field(default_factory=TtlHealth)
    bypass_possible: bool = False
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPlan:
    """Which ports may be chosen, and the addresses on which they must be free."""

    inbound_range: tuple[int, int]
    inbound_address: str
    outbound_start: int
    outbound_address: str
    reserved: frozenset[int]


def port_plan(settings: Settings) -> PortPlan:
    """The plan of a node's settings."""
    proxy = settings.proxy
    return PortPlan(
        inbound_range=proxy.inbound_port_range,
        inbound_address=settings.node.address,
        outbound_start=proxy.workload_port_start,
        outbound_address=proxy.outbound_address,
        reserved=frozenset({proxy.outbound_port, proxy.admin[1]}),
    )


class Workloads:
    """The node's services."""

    def __init__(
        self,
        state_dir: Path,
        plan: PortPlan,
        *,
        clock: Clock,
        on_change: Callable[[], None],
        in_use: ports.InUse = ports.in_use,
    ) -> None:
        self._state_dir = state_dir
        self._plan = plan
        self._clock = clock
        self._on_change = on_change
        self._in_use = in_use
        chosen, problem = ports.load(state_dir)
        if problem:
            _log.warning("chosen ports are lost", reason=problem)
        self._inbound = ports.PortBook("inbound", *plan.inbound_range, chosen.get("inbound"))
        self._outbound = ports.PortBook("outbound", plan.outbound_start, 65535, chosen.get("outbound"))
        self._services: dict[str, Registered] = {}

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def services(self) -> Mapping[str, Registered]:
        """By id."""
        return self._services

    @property
    def settled(self) -> bool:
        """Every check has had its first result."""
        return all(item.health.decided for item in self._services.values())

    def service_accounts(self) -> tuple[tuple[str, str], ...]:
        """The distinct (namespace, service account) pairs, in order of registration."""
        pairs = ((item.service.namespace, item.service.service_account) for item in self._services.values())
        return tuple(dict.fromkeys(pairs))

    def instances(self) -> tuple[LocalInstance, ...]:
        """What the control plane is told, by id."""
        return tuple(_instance(item) for _, item in sorted(self._services.items()))

    # --- registering ------------------------------------------------------------------------------------------

    def load(self, from_file: Iterable[Service]) -> tuple[str, ...]:
        """Take the config file's services, then those that the API registered in an earlier life; what was wrong."""
        problems: list[str] = []
        for item in from_file:
            problems += self._add(item, from_file=True).problems
        for table in self._stored(problems):
            try:
                item = service(table, FILE)
                if item.id not in self._services:
                    self._add(item, from_file=False)
            except MeshError as error:
                problems.append(f"a registration is left out: {error}")
        self._save_ports()
        self._on_change()
        return tuple(problems)

    def register(self, item: Service) -> Registered:
        """Register by the API, replacing one of the same id. Raises CONFLICT or TOO_LARGE."""
        present = self._services.get(item.id)
        if present is not None and present.from_file:
            raise MeshError(ErrorCode.CONFLICT, "this service is registered by the config file", subject=item.id)
        if present is None and len(self._services) >= MAX_SERVICES:
            raise MeshError(ErrorCode.TOO_LARGE, f"a node has at most {MAX_SERVICES} services", subject=item.id)
        if present is not None and present.service == item:
            return present
        added = self._add(item, from_file=False)
        try:
            self._save()
        except MeshError:
            # What cannot be promised for the next start is not served in this one either.
            self._put_back(item.id, present)
            raise
        _log.info("service registered", id=item.id, name=item.name, namespace=item.namespace)
        self._on_change()
        return added

    def deregister(self, service_id: str, *, reason: str = "by the local API") -> None:
        """Raises NOT_FOUND, or CONFLICT for one of the config file."""
        present = self._services.get(service_id)
        if present is None:
            raise MeshError(ErrorCode.NOT_FOUND, "no such service", subject=service_id)
        if present.from_file:
            raise MeshError(ErrorCode.CONFLICT, "this service is registered by the config file", subject=service_id)
        del self._services[service_id]
        try:
            self._save()
        except MeshError:
            self._put_back(service_id, present)
            raise
        _log.info("service deregistered", id=service_id, reason=reason)
        self._on_change()

    def _put_back(self, service_id: str, before: Registered | None) -> None:
        if before is None:
            del self._services[service_id]
        else:
            self._services[service_id] = before

    def _add(self, item: Service, *, from_file: bool) -> Registered:
        problems: list[str] = []
        present = self._services.get(item.id)
        kept = present if present is not None and present.service.check == item.check else None
        inbound = {port.port: self._inbound_port(item.id, port.port) for port in item.ports}
        added = Registered(
            service=item,
            from_file=from_file,
            inbound=inbound,
            outbound_port=self._outbound_port(item, problems),
            # A re-registration with the same check keeps what was found.
            health=kept.health if kept is not None else UNCHECKED if item.check is None else PENDING,
            since=kept.since if kept is not None else self._clock.wall(),
            ttl=kept.ttl if kept is not None else TtlHealth(),
            problems=tuple(problems),
        )
        self._services[item.id] = added
        return added

    def _inbound_port(self, service_id: str, port: int) -> int:
        live = {f"{name}:{number}" for name, other in self._services.items() for number in other.inbound}
        address = self._plan.inbound_address
        return self._inbound.choose(
            f"{service_id}:{port}", live=live, usable=lambda candidate: not self._in_use(address, candidate)
        )

    def _outbound_port(self, item: Service, problems: list[str]) -> int:
        if item.outbound_port:
            if self._outbound.pin(item.id, item.outbound_port):
                return item.outbound_port
            problems.append(f"{item.id}: outbound port {item.outbound_port} is another service's; one was chosen")
        address = self._plan.outbound_address
        return self._outbound.choose(
            item.id,
            live=self._services,
            usable=lambda port: port not in self._plan.reserved and not self._in_use(address, port),
        )

    # --- health -----------------------------------------------------------------------------------------------

    def checked(self, service_id: str, check: ServiceCheck, result: Result) -> None:
        """A check has ended. Results of services that are gone, or are checked otherwise by now, are dropped."""
        present = self._services.get(service_id)
        if present is None or present.service.check != check:
            return
        thresholds = Thresholds(unhealthy=check.unhealthy_threshold, healthy=check.healthy_threshold)
        self._set_health(service_id, present, step(present.health, result, thresholds))

    def said(self, service_id: str, status: str, note: str) -> None:
        """The application says how it is: passing, warning, critical. Raises NOT_FOUND without a time-to-live check."""
        present = self._services.get(service_id)
        if present is None or present.service.check is None or not present.service.check.ttl_s:
            raise MeshError(ErrorCode.NOT_FOUND, "no such time-to-live check", subject=service_id)
        now = self._clock.monotonic()
        present.ttl = present.ttl.said(status, note, now, present.service.check.ttl_s)
        self._set_health(service_id, present, present.ttl.at(now))

    def sweep(self, exposed: frozenset[int]) -> None:
        """Every second or so: times to live run out, critical services leave, bypasses are noted."""
        now = self._clock.monotonic()
        for service_id, present in list(self._services.items()):
            check = present.service.check
            if check is not None and check.ttl_s:
                self._set_health(service_id, present, present.ttl.at(now))
            self._note_bypass(service_id, present, exposed)
            self._deregister_critical(service_id, present)

    def _deregister_critical(self, service_id: str, present: Registered) -> None:
        check = present.service.check
        if check is None or not check.deregister_after_s or present.health.healthy or present.from_file:
            return
        if self._clock.wall() - present.since >= check.deregister_after_s:
            try:
                self.deregister(service_id, reason=f"critical for {check.deregister_after_s:g} s")
            except MeshError as error:  # tried again with the next sweep
                _log.warning("a critical service stays registered", id=service_id, reason=str(error))

    def _note_bypass(self, service_id: str, present: Registered, exposed: frozenset[int]) -> None:
        found = any(port in exposed for port in present.inbound)
        if found != present.bypass_possible:
            present.bypass_possible = found
            if found:
                _log.warning("the application listens beyond loopback and can be called past the mesh", id=service_id)
            self._on_change()

    def _set_health(self, service_id: str, present: Registered, health: Health) -> None:
        before, present.health = present.health, health
        if health.healthy != before.healthy or not before.decided:
            present.since = self._clock.wall()
            _log.info("health changed", id=service_id, health=health.status.value, reason=health.reason)
        if (health.healthy, health.reason, health.decided) != (before.healthy, before.reason, before.decided):
            self._on_change()

    # --- the disk ---------------------------------------------------------------------------------------------

    def _stored(self, problems: list[str]) -> list[Any]:
        path = self._state_dir / FILE
        try:
            value = json.loads(path.read_bytes())
            if value["schema"] != SCHEMA:
                raise ValueError(f"found schema {value['schema']}, expected {SCHEMA}")
            return list(value["services"])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path} is ignored: {error}")
            return []

    def _save(self) -> None:
        """Write registrations and ports. Raises UNAVAILABLE."""
        path = self._state_dir / FILE
        tables = [table_of(item.service) for item in self._services.values() if not item.from_file]
        try:
            replace_file(path, json.dumps({"schema": SCHEMA, "services": tables}).encode())
            ports.save(self._state_dir, (self._inbound, self._outbound))
        except OSError as error:
            raise MeshError(ErrorCode.UNAVAILABLE, f"not stored: {error}", subject=str(path)) from error

    def _save_ports(self) -> None:
        try:
            ports.save(self._state_dir, (self._inbound, self._outbound))
        except OSError as error:
            _log.error("chosen ports are not stored", reason=str(error))


def table_of(item: Service) -> dict[str, Any]:
    """A service as its table in the config file would be: what `settings.service` reads."""

    def plain(value: dict[str, Any]) -> dict[str, Any]:
        # Units are in the values of a file; a number there is seconds. 0 and None stand for what was not given.
        return {key.removesuffix("_s"): part for key, part in value.items() if part not in (None, "", 0, 0.0, ())}

    table = plain(asdict(item))
    table["labels"] = dict(item.labels)
    table["ports"] = [plain(asdict(port)) for port in item.ports]
    if item.check is not None:
        table["check"] = plain(asdict(item.check))
    return table


def _instance(item: Registered) -> LocalInstance:
    spec = item.service
    return LocalInstance(
        id=spec.id,
        service=spec.name,
        namespace=spec.namespace,
        service_account=spec.service_account,
        labels=spec.labels,
        app_address=spec.address,
        ports=tuple(
            LocalPort(name=port.name, port=port.port, protocol=port.protocol, inbound_port=item.inbound[port.port])
            for port in spec.ports
        ),
        weight=spec.weight,
        outbound_port=item.outbound_port,
        health=item.health.status,
        health_reason=item.health.reason,
        health_since_ms=int(item.since * 1000),
        bypass_possible=item.bypass_possible,
    )
