"""Which cluster of a weighted split a request goes to.

Source: route_components.proto WeightedCluster: the share of a cluster is weight / total_weight.
"""

from agent.model.route import Forward, WeightedCluster
from mesh.resilience.backoff import Rng


def pick_cluster(forward: Forward, rng: Rng) -> WeightedCluster:
    """One of `forward.clusters`, by weight. A single cluster costs no random number."""
    clusters = forward.clusters
    if len(clusters) == 1:
        return clusters[0]
    left = int(rng() * forward.total_weight)
    for choice in clusters:
        left -= choice.weight
        if left < 0:
            return choice
    return clusters[-1]
