"""Label and field selectors of list and watch requests. Pure.

Source: Kubernetes "Labels and Selectors": `a=b`, `a==b`, `a!=b`, `a in (x,y)`, `a notin (x)`, `a`, `!a`, joined by
        commas that mean AND; fields `metadata.name` and `metadata.namespace` only, as for custom resources.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mesh.errors import ErrorCode, MeshError

_KEY = r"[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9._-]*"
_EQUALITY = re.compile(rf"\s*({_KEY})\s*(==|!=|=)\s*({_VALUE})\s*")
_SET = re.compile(rf"\s*({_KEY})\s+(in|notin)\s*\(([^()]*)\)\s*")
_EXISTS = re.compile(rf"\s*(!?)\s*({_KEY})\s*")
_FIELDS = ("metadata.name", "metadata.namespace")

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One term. `values` empty = only the key counts. `negated` also holds when the key is missing."""

    key: str
    values: frozenset[str]
    negated: bool

    def holds(self, labels: Labels) -> bool:
        found = labels.get(self.key)
        matches = found is not None and (not self.values or found in self.values)
        return matches != self.negated


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none = everything is selected."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def selects(self, manifest: Mapping[str, Any]) -> bool:
        metadata = manifest.get("metadata", {})
        named = {f"metadata.{key}": str(metadata.get(key, "")) for key in ("name", "namespace")}
        labels = metadata.get("labels") or {}
        return all(term.holds(labels) for term in self.labels) and all(term.holds(named) for term in self.fields)


def parse_selector(labels: str = "", fields: str = "") -> Selector:
    """Parse both. Raises UNREADABLE that quotes the term which is not one."""
    return Selector(
        tuple(_label_term(term) for term in _split(labels)), tuple(_field_term(term) for term in _split(fields))
    )


def _split(text: str) -> list[str]:
    """At the commas that are not within parentheses."""
    return [term for term in re.split(r",(?![^(]*\))", text) if term.strip()]


def _label_term(term: str) -> Requirement:
    if match := _SET.fullmatch(term):
        values = frozenset(value.strip() for value in match[3].split(","))
        return Requirement(match[1], values, match[2] == "notin")
    if match := _EQUALITY.fullmatch(term):
        return Requirement(match[1], frozenset((match[3],)), match[2] == "!=")
    if match := _EXISTS.fullmatch(term):
        return Requirement(match[2], frozenset(), bool(match[1]))
    raise _unreadable("labelSelector", term, "key=value, key!=value, key in (a,b), key notin (a,b), key or !key")


def _field_term(term: str) -> Requirement:
    match = _EQUALITY.fullmatch(term)
    if match is None or match[1] not in _FIELDS:
        raise _unreadable("fieldSelector", term, f"one of {', '.join(_FIELDS)} with = or !=")
    return Requirement(match[1], frozenset((match[3],)), match[2] == "!=")


def _unreadable(name: str, term: str, expected: str) -> MeshError:
    return MeshError(ErrorCode.UNREADABLE, f"found {term.strip()!r}, expected {expected}", subject=name)
