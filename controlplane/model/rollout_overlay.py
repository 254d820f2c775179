"""The candidate objects of a rollout laid over the mesh, for the proxies that are staged. Pure.

Owns:   who gets the overlay; the MeshState that those proxies see, folded from the same changes as the stored one.
Not:    when a rollout goes on (rollout_steps), compiling (controlplane.compiler).
Source: decision 24: staged proxies compile MeshState + overlay; endpoints flow to both.

Invariants: the overlay's objects stand in the candidate's mesh whatever the store says of them meanwhile; everything
        else is exactly as in the base.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from controlplane.model.mesh_state import Changes, MeshState
from controlplane.model.rollout_observation import place_of
from controlplane.policy.objects import PolicyObject
from mesh.vocabulary import ObjectRef


@dataclass(frozen=True, slots=True, eq=False)
class Overlay:
    """A rollout's objects and the limit below which nodes are staged. `epoch`: of the rollout's state."""

    rollout: str
    objects: Mapping[ObjectRef, PolicyObject]
    limit: int
    epoch: int

    def stages(self, node: str) -> bool:
        """Whether the node has the candidate."""
        return place_of(self.rollout, node) < self.limit


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """The mesh as the staged proxies see it."""

    overlay: Overlay
    mesh: MeshState


def followed(
    candidate: Candidate | None, overlay: Overlay | None, base: MeshState, changes: Changes
) -> Candidate | None:
    """The next candidate, at the revision of `changes`; `base` has them already. None without an overlay."""
    if overlay is None:
        return None
    if candidate is None or candidate.overlay.rollout != overlay.rollout:
        laid = Changes(revision=base.revision, objects=tuple(overlay.objects.values()))
        return Candidate(overlay, base.with_changes(laid))
    others = replace(
        changes,
        objects=tuple(item for item in changes.objects if item.ref not in overlay.objects),
        deleted_objects=tuple(ref for ref in changes.deleted_objects if ref not in overlay.objects),
    )
    return Candidate(overlay, candidate.mesh.with_changes(others))
