"""The OpenAPI documents: one per group and version for kubectl, and /openapi.json with everything. Pure.

Owns:   paths and operations.
Not:    schemas of kinds (openapi_schemas), those of /mesh/v1 (openapi_state).
Source: OpenAPI 3.0.3; decision 25: kubectl looks for `fieldValidation` on the PATCH operation of a kind.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from controlplane.api import patch
from controlplane.api.openapi_schemas import ACCEPTED, META, SHARED, WAIT, Schema, component, kind_schemas, ref
from controlplane.api.openapi_state import state_paths, state_schemas
from controlplane.policy.kinds import KINDS, KindInfo

_JSON = "application/json"
_YAML = "application/yaml"


def group_versions() -> list[tuple[str, str]]:
    """Every served (group, version), the core first."""
    return sorted({(kind.group, version) for kind in KINDS for version in kind.versions})


def kinds_of(group: str, version: str) -> list[KindInfo]:
    """The kinds of a group that are served in a version."""
    return [kind for kind in KINDS if kind.group == group and version in kind.versions]


def group_version_document(group: str, version: str) -> Schema:
    """The document of one group and version, as kubectl reads it."""
    paths: Schema = {}
    schemas: Schema = dict(SHARED)
    for kind in kinds_of(group, version):
        paths.update(_kind_paths(kind, version))
        schemas.update(kind_schemas(kind, version))
    return _document(paths, schemas)


def whole_document(server_version: str) -> Schema:
    """Everything that the server answers."""
    paths: Schema = dict(state_paths())
    schemas: Schema = {**SHARED, **state_schemas()}
    for group, version in group_versions():
        for kind in kinds_of(group, version):
            paths.update(_kind_paths(kind, version))
            schemas.update(kind_schemas(kind, version))
    document = _document(paths, schemas)
    document["info"]["version"] = server_version
    document["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "one of --api-token-file; none on plain loopback"}
    }
    document["security"] = [{"token": []}, {}]
    return document


def _document(paths: Mapping[str, Any], schemas: Mapping[str, Any]) -> Schema:
    return {
        "openapi": "3.0.3",
        "info": {"title": "Gossamer", "version": "v1", "description": "Policies and state of the mesh."},
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": dict(sorted(schemas.items()))},
    }


def _kind_paths(kind: KindInfo, version: str) -> Schema:
    root = f"/apis/{kind.group}/{version}" if kind.group else f"/api/{version}"
    if not kind.namespaced:
        collection = f"{root}/{kind.plural}"
        return {collection: _collection(kind, version, ()), f"{collection}/{{name}}": _item(kind, version, ())}
    namespace = (_path("namespace"),)
    collection = f"{root}/namespaces/{{namespace}}/{kind.plural}"
    return {
        collection: _collection(kind, version, namespace),
        f"{collection}/{{name}}": _item(kind, version, namespace),
        f"{root}/{kind.plural}": {"get": _list(kind, version, (), "AllNamespaces")},
    }


def _collection(kind: KindInfo, version: str, scope: Sequence[Schema]) -> Schema:
    name = component(kind, version)
    return {
        "get": _list(kind, version, scope, ""),
        "post": _operation(
            kind, version, "create", "post", "Create one", [*scope, *_WRITE], body=name, answers={201: name}
        ),
    }


def _list(kind: KindInfo, version: str, scope: Sequence[Schema], suffix: str) -> Schema:
    name = component(kind, version)
    operation = _operation(
        kind,
        version,
        f"list{suffix}",
        "list",
        "List, or watch with ?watch=1",
        [*scope, *_LIST],
        answers={200: f"{name}List"},
    )
    operation["responses"]["410"] = _failure("the resourceVersion or continue token is no longer kept: list again")
    return operation


def _item(kind: KindInfo, version: str, scope: Sequence[Schema]) -> Schema:
    name = component(kind, version)
    parameters = [*scope, _path("name")]
    patched = _operation(
        kind,
        version,
        "patch",
        "patch",
        "Change fields",
        [*parameters, *_WRITE],
        body=f"{META}.Patch",
        answers={200: name},
    )
    content = patched["requestBody"]["content"].pop(_JSON)
    patched["requestBody"]["content"] = {media: content for media in (patch.MERGE, patch.STRATEGIC, patch.JSON)}
    # A JSON patch is a list of operations.
    patched["requestBody"]["content"][patch.JSON] = {"schema": {"type": "array", "items": {"type": "object"}}}
    return {
        "get": _operation(kind, version, "read", "get", "Read one", parameters, answers={200: name}),
        "put": _operation(
            kind, version, "replace", "put", "Replace one", [*parameters, *_WRITE], body=name, answers={200: name}
        ),
        "patch": patched,
        "delete": _operation(
            kind, version, "delete", "delete", "Delete one",
            [*parameters, _query("dryRun", "All: change nothing"), _query("wait", WAIT)],
            answers={200: f"{META}.Status"},
        ),
    }  # fmt: skip


def _operation(
    kind: KindInfo,
    version: str,
    verb: str,
    action: str,
    summary: str,
    parameters: Sequence[Schema],
    *,
    body: str = "",
    answers: Mapping[int, str],
) -> Schema:
    responses = {
        str(code): {"description": "OK", "content": {_JSON: {"schema": ref(name)}, _YAML: {"schema": ref(name)}}}
        for code, name in answers.items()
    }
    if any(parameter["name"] == "wait" for parameter in parameters):
        schema = {"schema": ref(next(iter(answers.values())))}
        responses["202"] = {"description": ACCEPTED, "content": {_JSON: schema, _YAML: schema}}
    responses["default"] = _failure("a failure; `details.causes` names every field that is wrong")
    group = kind.group.partition(".")[0].capitalize() or "Core"
    operation: Schema = {
        "operationId": f"{verb}{group}{version.capitalize()}{kind.kind}",
        "summary": f"{summary}: {kind.kind}",
        "tags": [kind.api_version(version)],
        "parameters": parameters,
        "responses": responses,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": version, "kind": kind.kind},
    }
    if body:
        schema = {"schema": ref(body)}
        media = {_JSON: schema} if action == "patch" else {_JSON: schema, _YAML: schema}
        operation["requestBody"] = {"required": True, "content": media}
    return operation


def _failure(description: str) -> Schema:
    return {"description": description, "content": {_JSON: {"schema": ref(f"{META}.Status")}}}


def _path(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _query(name: str, description: str, type_: str = "string") -> Schema:
    return {"name": name, "in": "query", "description": description, "schema": {"type": type_}}


_WRITE = (
    _query("dryRun", "All: check and answer, change nothing"),
    _query("fieldValidation", "unknown fields: Strict (default) refuses, Warn and Ignore drop them"),
    _query("wait", WAIT),
)
_LIST = (
    _query("labelSelector", "app=users,version in (v1,v2),!legacy"),
    _query("fieldSelector", "metadata.name=... and metadata.namespace=..."),
    _query("limit", "at most so many; `metadata.continue` names the rest", "integer"),
    _query("continue", "from an earlier answer"),
    _query("watch", "stream changes as JSON lines", "boolean"),
    _query("resourceVersion", "with watch: only what changed after it"),
    _query("allowWatchBookmarks", "with watch: tell the revision now and then", "boolean"),
    _query("sendInitialEvents", "with watch: begin with what is there", "boolean"),
    _query("timeoutSeconds", "with watch: end after so long", "integer"),
)
