"""Endpoints and hosts of a cluster, for tests of load balancing and what uses it."""

from typing import Any

from agent.cluster.hosts import Host
from agent.model.cluster import Endpoint
from mesh.vocabulary import HealthStatus, Locality


def endpoint(number: int, **properties: Any) -> Endpoint:
    """10.0.0.<number>:80. `zone`: the zone of its locality."""
    zone = properties.pop("zone", "")
    return Endpoint(address=f"10.0.0.{number}", port=80, locality=Locality("r", zone), **properties)


def host(number: int, **properties: Any) -> Host:
    return Host(endpoint(number, **properties))


def hosts(*weights: int) -> list[Host]:
    """One host per weight, numbered from 1."""
    return [host(number, weight=weight) for number, weight in enumerate(weights, 1)]


def level(priority: int, healthy: int, unhealthy: int = 0, degraded: int = 0) -> list[Host]:
    """The hosts of a priority level; host numbers begin at 100 times the priority."""
    states = [HealthStatus.HEALTHY] * healthy + [HealthStatus.DEGRADED] * degraded
    states += [HealthStatus.UNHEALTHY] * unhealthy
    return [host(100 * priority + number, priority=priority, health=health) for number, health in enumerate(states)]
