"""What RequestAuthentication and AuthorizationPolicy have in common: whom they are for.

Source: istio validation.go validateOneOfSelectorType, validatePolicyTargetReferences.
"""

from collections.abc import Sequence

from controlplane.policy.rules.fields import check_selector
from controlplane.policy.selector import WorkloadSelector
from controlplane.policy.syntax import LOWER_SUBDOMAIN, is_lower_subdomain
from controlplane.policy.target_reference import KNOWN_TARGETS, PolicyTargetReference
from controlplane.policy.violations import Found, Path, Report

MAX_TARGETS = 16


def check_targets(
    report: Report, path: Path, selector: WorkloadSelector | None, targets: Sequence[PolicyTargetReference]
) -> None:
    """A selector or references, not both; references name what there is here."""
    if selector is not None:
        check_selector(report, path / "selector" / "matchLabels", selector.match_labels)
    own = path / "targetRefs"
    if selector is not None and targets:
        report.refuse(own, "only one of selector and targetRefs", found=Found("both"))
    if len(targets) > MAX_TARGETS:
        report.refuse(own, f"at most {MAX_TARGETS} entries", found=Found(f"{len(targets)} entries"))
    for index, target in enumerate(targets):
        _check_target(report, own.at(index), target)


def _check_target(report: Report, path: Path, target: PolicyTargetReference) -> None:
    if target.kind not in KNOWN_TARGETS:
        report.refuse(path / "kind", f"one of {', '.join(KNOWN_TARGETS)}")
    elif target.group not in KNOWN_TARGETS[target.kind]:
        groups = ", ".join(repr(group) for group in sorted(KNOWN_TARGETS[target.kind]))
        report.refuse(path / "group", f"one of {groups} for a {target.kind}")
    if not is_lower_subdomain(target.name):
        report.refuse(path / "name", LOWER_SUBDOMAIN)
    if target.namespace and target.namespace != report.namespace:
        report.refuse(path / "namespace", f"the policy's own namespace {report.namespace}, or none")


def check_entries(report: Report, path: Path, values: Sequence[str], what: str) -> None:
    """No entry is empty."""
    for index, value in enumerate(values):
        if not value:
            report.refuse(path.at(index), f"{what} that is not empty")
