"""Selectors of workloads by their labels.

Source: istio.io/api type/v1beta1 WorkloadSelector (`matchLabels`) and networking/v1 WorkloadSelector (`labels`).
"""

from collections.abc import Mapping

from controlplane.policy.frozen import EMPTY
from controlplane.policy.scalars import TextMap
from controlplane.policy.spec import Spec


class WorkloadSelector(Spec):
    """Of DestinationRule and the security kinds; no labels = every workload of the namespace."""

    match_labels: TextMap = EMPTY


class LabelSelector(Spec):
    """Of ServiceEntry; the same with an older name."""

    labels: TextMap = EMPTY


def selects(wanted: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether `labels` hold every pair of `wanted`. An empty `wanted` selects all."""
    return all(labels.get(key) == value for key, value in wanted.items())
