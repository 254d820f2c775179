"""The local registration API on the node's services: agent.admin's protocol, filled by agent.workloads."""

from typing import Any

from agent.workloads import consul
from agent.workloads.registry import Workloads


class LocalRegistrations:
    """agent.admin.routes.Registrations."""

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads

    def register(self, body: Any) -> None:
        """Register or replace a service from Consul's JSON. Raises MeshError."""
        self._workloads.register(consul.read(body))

    def deregister(self, service_id: str) -> None:
        """Raises NOT_FOUND or CONFLICT."""
        self._workloads.deregister(service_id)

    def services(self) -> dict[str, Any]:
        return consul.services_view(self._workloads.services)

    def checks(self) -> dict[str, Any]:
        return consul.checks_view(self._workloads.services)

    def said(self, check_id: str, status: str, note: str) -> None:
        """Raises NOT_FOUND."""
        self._workloads.said(consul.service_id_of(check_id), status, note)
