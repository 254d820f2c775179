"""Which of the workloads that a node claims it may run. Sans-io.

Owns:   splitting a claim by the node's grant, and the words for what is refused.
Not:    the grant itself (ca.grants), what happens to what is permitted (presence).
Source: decision 13: Register enforces what the join token said.
"""

from collections.abc import Iterable

from controlplane.ca.grants import NodeGrant
from controlplane.registry.instances import Instance


def permitted(grant: NodeGrant | None, node: str, claimed: Iterable[Instance]) -> tuple[list[Instance], list[str]]:
    """(what may be registered, a problem for each of the others). Without a grant nothing may."""
    allowed: list[Instance] = []
    problems: list[str] = []
    for instance in claimed:
        if grant is not None and grant.permits_workload(instance.namespace, instance.service_account):
            allowed.append(instance)
        else:
            who = f"namespace {instance.namespace}, service account {instance.service_account}"
            problems.append(f"instance {instance.id}: node {node} may not run {who}")
    return allowed, problems
