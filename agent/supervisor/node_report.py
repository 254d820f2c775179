"""What this node tells the control plane of itself: its instances with their identities, its verdicts, its xDS state.

Owns:   which instances are told, and as what while the agent ends; which identities they need; when the first report
        has something to say.
Not:    the stream (agent.report), the services themselves (agent.workloads), the verdicts (ejections, breakers).
Source: decisions 13, 14, 36; agent.report.client.Source.

    SERVING: what has its certificate, or was refused one --drain--> the same, all DRAINING --leave--> nothing

Invariant: an instance whose identity is not decided is not told: a peer that knows it calls it, and gets no answer.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from envoy.config.core.v3.base_pb2 import Node

from agent.identity.renewal import IdentityKeeper
from agent.model.reports import EjectedHost, LocalInstance, ShownBreaker
from agent.settings import GatewaySettings, Settings
from agent.supervisor.breakers import Breakers
from agent.supervisor.ejections import Ejections
from agent.supervisor.node import announced, gateway_instance
from agent.workloads.registry import Workloads
from agent.xds.session import AdsSession
from agent.xds.status import client_config
from mesh.identity.spiffe import workload_id
from mesh.vocabulary import HealthStatus


class Announcements:
    """The instances of this node. `changed` is called when something else may be told of them."""

    def __init__(
        self, settings: Settings, workloads: Workloads, keeper: IdentityKeeper, *, changed: Callable[[], None]
    ) -> None:
        self._gateway = settings.gateway
        self._trust_domain = settings.control_plane.trust_domain
        self._workloads = workloads
        self._keeper = keeper
        self._changed = changed
        self._draining = False
        self._gone = False
        self.settled = asyncio.Event()  # every health check has had a result, every identity is held or refused

    def workloads_changed(self) -> None:
        """The services are others, or their health is: ask for the identities that they need, and no others."""
        pairs = {*self._workloads.service_accounts(), *_own_account(self._gateway)}
        self._keeper.want(str(workload_id(self._trust_domain, namespace, account)) for namespace, account in pairs)
        self.look()

    def look(self) -> None:
        """What is told of them may have changed."""
        local = self._local()
        if self._workloads.settled and len(self._announced(local)) == len(local):
            self.settled.set()
        self._changed()

    def drain(self) -> None:
        """Tell peers to call none of them any more."""
        self._draining = True
        self._changed()

    def leave(self) -> None:
        """There is none any more. It is told by who waits for that."""
        self._gone = True

    def instances(self) -> tuple[LocalInstance, ...]:
        """What is told now."""
        if self._gone:
            return ()
        found = self._announced(self._local())
        if not self._draining:
            return found
        return tuple(replace(item, health=HealthStatus.DRAINING, health_reason="the agent ends") for item in found)

    def _local(self) -> tuple[LocalInstance, ...]:
        return (*self._workloads.instances(), *gateway_instance(self._gateway))

    def _announced(self, local: tuple[LocalInstance, ...]) -> tuple[LocalInstance, ...]:
        return announced(local, self._trust_domain, self._keeper.decided)


class NodeReport:
    """agent.report.client.Source."""

    def __init__(
        self, announcements: Announcements, ejections: Ejections, breakers: Breakers, session: AdsSession, node: Node
    ) -> None:
        self._announcements = announcements
        self._ejections = ejections
        self._breakers = breakers
        self._session = session
        self._node = node

    def instances(self) -> tuple[LocalInstance, ...]:
        return self._announcements.instances()

    def ejections(self) -> tuple[EjectedHost, ...]:
        return self._ejections.ejections()

    def breakers(self) -> tuple[ShownBreaker, ...]:
        return self._breakers.shown()

    def client_status(self, *, contents: bool) -> bytes:
        return client_config(self._session, self._node, contents=contents).SerializeToString()


def _own_account(gateway: GatewaySettings) -> tuple[tuple[str, str], ...]:
    return ((gateway.namespace, gateway.service_account),) if gateway.enabled else ()
