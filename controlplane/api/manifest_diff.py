"""The difference of two manifests as people read it: a unified diff of YAML without what the server writes. Pure.

Not:    meshctl's own diff of files against the mesh (controlplane.cli.commands.diff), which looks the same.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from controlplane.policy.secret import redacted

# What the server alone writes says nothing about what a user changed.
_SERVER_METADATA = frozenset({"uid", "resourceVersion", "creationTimestamp", "generation"})


def unified(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, names: tuple[str, str]) -> str:
    """The diff; empty when both say the same to a user. `names`: of the two sides, in the heading."""
    old = redacted(before) if before is not None else None
    new = redacted(after, before) if after is not None else None
    return "".join(difflib.unified_diff(_lines(old), _lines(new), *names))


def _lines(manifest: Mapping[str, Any] | None) -> list[str]:
    if manifest is None:
        return []
    text = yaml.safe_dump(_users_part(manifest), sort_keys=True, allow_unicode=True, default_flow_style=False)
    return text.splitlines(keepends=True)


def _users_part(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in manifest.items() if key != "status"}
    metadata = manifest.get("metadata")
    if isinstance(metadata, Mapping):
        kept["metadata"] = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
    return kept
