"""Kinds and objects as users name them on a command line, and the REST paths that they mean. Pure.

vs   virtualservice   VirtualServices   virtualservices.networking.istio.io   vs/reviews   vs,dr   all

A word that two groups have means Istio's kind: gateways. Of the Gateway API: gateways.gateway.networking.k8s.io, gtw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from controlplane.policy.kinds import KINDS, KindInfo
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE


@dataclass(frozen=True, slots=True)
class Wanted:
    """Objects of one kind: those of `names`, or all when it is empty."""

    kind: KindInfo
    names: tuple[str, ...] = ()


def kind_of(word: str) -> KindInfo:
    """The kind that a word names. Raises SETTINGS with the nearest word."""
    kind = KINDS.by_word(word)
    if kind is None:
        near = KINDS.nearest(word.removesuffix("s"))
        hint = f"did you mean {near.plural}?" if near else f"known: {', '.join(sorted(map(KINDS.resource, KINDS)))}"
        raise MeshError(ErrorCode.SETTINGS, f"found {word!r}, expected a kind", subject="KIND", hint=hint)
    return kind


def wanted_of(words: Sequence[str]) -> list[Wanted]:
    """What `KIND[,KIND...] [NAME...]` or `KIND/NAME ...` asks for. Raises SETTINGS."""
    if any("/" in word for word in words):
        return _named(words)
    kinds = [kind for word in words[0].split(",") if word for kind in _kinds(word)]
    if len(words) > 1 and len(kinds) != 1:
        raise MeshError(ErrorCode.SETTINGS, "found names behind several kinds", subject="NAME", hint="use KIND/NAME")
    return [Wanted(kind, tuple(words[1:])) for kind in dict.fromkeys(kinds)]


def _kinds(word: str) -> list[KindInfo]:
    return list(KINDS) if word.lower() == "all" else [kind_of(word)]


def _named(words: Sequence[str]) -> list[Wanted]:
    found: dict[KindInfo, list[str]] = {}
    for word in words:
        kind, slash, name = word.partition("/")
        if not slash or not name or "/" in name:
            raise MeshError(
                ErrorCode.SETTINGS, f"found {word!r} among KIND/NAME words, expected KIND/NAME", subject="NAME"
            )
        found.setdefault(kind_of(kind), []).append(name)
    return [Wanted(kind, tuple(names)) for kind, names in found.items()]


def collection_path(kind: KindInfo, namespace: str, version: str = "") -> str:
    """The path of the objects of a kind; `namespace` empty = in every namespace."""
    version = version or kind.storage_version
    root = f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"
    scope = f"/namespaces/{quote(namespace, safe='')}" if namespace and kind.namespaced else ""
    return f"{root}{scope}/{kind.plural}"


def object_path(kind: KindInfo, namespace: str, name: str, version: str = "") -> str:
    """The path of one object."""
    return f"{collection_path(kind, namespace or DEFAULT_NAMESPACE, version)}/{quote(name, safe='')}"


def qualified(kind: KindInfo, name: str) -> str:
    """`virtualservice.networking.istio.io/reviews`, as kubectl's `-o name`."""
    return f"{kind.singular}.{kind.group}/{name}" if kind.group else f"{kind.singular}/{name}"


def kind_of_manifest(manifest: Mapping[str, Any]) -> KindInfo | None:
    """The kind that a manifest's head names; None when it is not one that this version knows."""
    return KINDS.by_api_version(str(manifest.get("apiVersion")), str(manifest.get("kind")))


def name_of(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """(namespace, name) of a manifest, as far as it says them."""
    metadata = manifest.get("metadata")
    found = metadata if isinstance(metadata, Mapping) else {}
    return str(found.get("namespace") or ""), str(found.get("name") or "")
