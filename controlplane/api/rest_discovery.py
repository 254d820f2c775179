"""The documents by which kubectl and editors learn what is served: /api, /apis, /openapi/v3, /version.

Source: Kubernetes API concepts, "API discovery" (the unaggregated form, which every client falls back to); decision 25.
Invariant: documents are made once; their hash in /openapi/v3 changes when they do, so clients may cache for ever.
"""

import hashlib
import platform
import sys
from functools import cache
from importlib import metadata
from typing import Any

from aiohttp import web

from controlplane.api.exchange import dumps
from controlplane.api.openapi import group_version_document, group_versions, kinds_of, whole_document
from controlplane.policy.kinds import KINDS, KindInfo
from mesh.errors import ErrorCode, MeshError

_VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


def server_version() -> str:
    """The version of this distribution."""
    try:
        return metadata.version("gossamer")
    except metadata.PackageNotFoundError:
        return "0.0.0"


def routes() -> list[web.RouteDef]:
    """Discovery and OpenAPI."""
    return [
        web.get("/version", version),
        web.get("/api", core_versions),
        web.get("/api/{version:v1}", resources),
        web.get("/apis", groups),
        web.get("/apis/{group}", group),
        web.get("/apis/{group}/{version}", resources),
        web.get("/openapi/v3", openapi_index),
        web.get("/openapi/v3/api/{version}", openapi_of),
        web.get("/openapi/v3/apis/{group}/{version}", openapi_of),
        web.get("/openapi.json", openapi_whole),
    ]


async def version(_: web.Request) -> web.Response:
    """Kubernetes' version object; `major` and `minor` are those of the API conventions that we follow."""
    return _json(
        {
            "major": "1",
            "minor": "30",
            "gitVersion": f"v1.30.0+gossamer-{server_version()}",
            "gossamerVersion": server_version(),
            "platform": f"{sys.platform}/{platform.machine()}",
        }
    )


async def core_versions(_: web.Request) -> web.Response:
    """GET /api."""
    return _json({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})


async def groups(_: web.Request) -> web.Response:
    """GET /apis."""
    names = sorted({kind.group for kind in KINDS if kind.group})
    return _json({"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in names]})


async def group(request: web.Request) -> web.Response:
    """GET /apis/{group}."""
    name = request.match_info["group"]
    if not any(kind.group == name for kind in KINDS):
        raise MeshError(ErrorCode.NOT_FOUND, "the server does not serve this group", subject=name)
    return _json({"kind": "APIGroup", "apiVersion": "v1", **_group(name)})


def _group(name: str) -> dict[str, Any]:
    kinds = [kind for kind in KINDS if kind.group == name]
    # In the order of preference: the stored version first.
    versions = list(dict.fromkeys(version for kind in kinds for version in (kind.storage_version, *kind.versions)))
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


async def resources(request: web.Request) -> web.Response:
    """GET /api/v1 and /apis/{group}/{version}."""
    group_name, version_name = request.match_info.get("group", ""), request.match_info["version"]
    kinds = _kinds(group_name, version_name)
    return _json(
        {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": kinds[0].api_version(version_name),
            "resources": [_resource(kind) for kind in kinds],
        }
    )


def _resource(kind: KindInfo) -> dict[str, Any]:
    return {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": _VERBS,
        "shortNames": list(kind.short_names),
        "categories": ["all", "gossamer"],
    }


def _kinds(group_name: str, version_name: str) -> list[KindInfo]:
    kinds = kinds_of(group_name, version_name)
    if not kinds:
        raise MeshError(
            ErrorCode.NOT_FOUND, "the server does not serve this version", subject=f"{group_name}/{version_name}"
        )
    return kinds


async def openapi_index(_: web.Request) -> web.Response:
    """GET /openapi/v3: where each group and version is, with a hash for caches."""
    paths = {}
    for group_name, version_name in group_versions():
        path = f"apis/{group_name}/{version_name}" if group_name else f"api/{version_name}"
        digest = hashlib.sha256(_document(group_name, version_name).encode()).hexdigest()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest[:32].upper()}"}
    return _json({"paths": paths})


async def openapi_of(request: web.Request) -> web.Response:
    """GET /openapi/v3/... of one group and version."""
    group_name, version_name = request.match_info.get("group", ""), request.match_info["version"]
    _kinds(group_name, version_name)
    return web.Response(text=_document(group_name, version_name), content_type="application/json")


async def openapi_whole(_: web.Request) -> web.Response:
    """GET /openapi.json."""
    return web.Response(text=_whole(), content_type="application/json")


@cache
def _document(group_name: str, version_name: str) -> str:
    return dumps(group_version_document(group_name, version_name))


@cache
def _whole() -> str:
    return dumps(whole_document(server_version()))


def _json(value: Any) -> web.Response:
    return web.Response(text=dumps(value), content_type="application/json")
