"""The subsets of a service: where they are defined, which instances they have, defining those that are missing. Pure.

Owns:   what stands in the way of sending requests to a subset; the edit of a DestinationRule.
Not:    which subset gets how much (rules).
Invariant: an existing subset is never changed; a missing one becomes the instances with the label `version: NAME`.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from controlplane.cli.splits.rules import name_of
from controlplane.cli.splits.target import Target
from controlplane.cli.state import Item
from controlplane.policy.kinds import DESTINATION_RULE
from mesh.errors import ErrorCode, MeshError

LABEL = "version"
WELL = ("HEALTHY", "UNKNOWN")  # nobody checks the latter, and Envoy takes it for healthy


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """A subset as it is. `ejected`: instances that some node ejects; `defined`: some DestinationRule has it."""

    name: str
    labels: Mapping[str, str]
    defined: bool
    total: int
    healthy: int
    ejected: int


def all_of(target: Target) -> tuple[Subset, ...]:
    """Every subset that is defined, in the order of the rules."""
    return tuple(_subset(target, name, labels, defined=True) for name, labels in _defined(target).items())


def whole(target: Target) -> Subset:
    """All instances, without a subset."""
    return _subset(target, "", {}, defined=True)


def find(target: Target, name: str) -> Subset:
    """The subset of that name, or what it would be."""
    labels = _defined(target).get(name)
    return _subset(target, name, {LABEL: name} if labels is None else labels, defined=labels is not None)


def _defined(target: Target) -> dict[str, Mapping[str, str]]:
    """Labels by name; of several with one name the first counts, as when the mesh merges the rules."""
    found: dict[str, Mapping[str, str]] = {}
    for rule in target.destination_rules:
        if target.is_named(rule["spec"].get("host", ""), rule["metadata"]["namespace"]):
            for subset in rule["spec"].get("subsets", ()):
                found.setdefault(subset["name"], subset.get("labels", {}))
    return found


def _subset(target: Target, name: str, labels: Mapping[str, str], *, defined: bool) -> Subset:
    own = [item for item in target.endpoints if labels.items() <= item["labels"].items()]
    return Subset(
        name=name,
        labels=labels,
        defined=defined,
        total=len(own),
        healthy=sum(item["health"] in WELL for item in own),
        ejected=sum(any(ejection["enforced"] for ejection in item["ejections"]) for item in own),
    )


def obstacles(target: Target, names: Sequence[str]) -> Iterator[str]:
    """Why a subset could not serve: one line each."""
    for subset in (find(target, name) for name in names):
        labels = ",".join(f"{key}={value}" for key, value in subset.labels.items())
        if not subset.total:
            what = f"no instance has {labels}" if labels else "there is no instance"
            known = "" if subset.defined else f"; {_known(target)}"
            yield f"subset {subset.name}: {what}{known}"
        elif not subset.healthy:
            yield f"subset {subset.name}: none of its {subset.total} instances is healthy"


def concerns(target: Target, names: Sequence[str]) -> Iterator[str]:
    """What is worth knowing of subsets that can serve."""
    for subset in (find(target, name) for name in names):
        if 0 < subset.healthy < subset.total:
            yield f"subset {subset.name}: {subset.healthy} of its {subset.total} instances are healthy"
        if subset.healthy and subset.ejected:
            yield f"subset {subset.name}: {subset.ejected} of its {subset.total} instances are ejected by some node"


def _known(target: Target) -> str:
    versions = {item["labels"][LABEL] for item in target.endpoints if LABEL in item["labels"]}
    known = sorted({*_defined(target), *versions})
    return f"there are {', '.join(known)}" if known else "the service has no subset and no instance with a version"


def defining(target: Target, names: Sequence[str]) -> tuple[Item | None, Item] | None:
    """(the DestinationRule as it is or None, with these subsets); None when all are defined. Raises INVALID."""
    missing = [find(target, name) for name in names if not find(target, name).defined]
    if not missing:
        return None
    before = _editable(target)
    after = copy.deepcopy(before) if before is not None else _new(target)
    own = after["spec"].setdefault("subsets", [])
    own += [{"name": subset.name, "labels": dict(subset.labels)} for subset in missing]
    return before, after


def _editable(target: Target) -> Item | None:
    """The rule that gets new subsets: the first for exactly this service, one that has some already before others."""
    exact = [
        rule
        for rule in target.destination_rules
        if target.is_named(rule["spec"].get("host", ""), rule["metadata"]["namespace"])
        and rule["metadata"]["namespace"] == target.namespace
        and "workloadSelector" not in rule["spec"]
    ]
    if exact:
        return next((rule for rule in exact if rule["spec"].get("subsets")), exact[0])
    if target.destination_rules:
        # A new rule would be more specific than they are, and would switch their trafficPolicy off.
        names = ", ".join(f"{name_of(rule)} for {rule['spec'].get('host')}" for rule in target.destination_rules)
        raise MeshError(
            ErrorCode.INVALID, f"found DestinationRule {names}, which gets no subsets from here", subject=target.host,
            hint="define the subsets in a DestinationRule for this host, with the trafficPolicy that it shall have",
        )  # fmt: skip
    return None


def _new(target: Target) -> Item:
    return {
        "apiVersion": DESTINATION_RULE.storage_api_version,
        "kind": DESTINATION_RULE.kind,
        "metadata": {"name": target.name, "namespace": target.namespace},
        "spec": {"host": target.short},
    }
