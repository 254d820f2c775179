"""OpenAPI of /mesh/v1 and of the pages beside the objects. Pure.

Owns:   their paths and operations.
Not:    schemas (openapi_state_schemas), which views there are (state_catalog), the objects' paths (openapi).
"""

from collections.abc import Mapping
from typing import Any

from controlplane.api.openapi_schemas import META, Schema, ref
from controlplane.api.openapi_state_schemas import NAME, SCHEMAS, items_of
from controlplane.api.state_catalog import PARAMETERS, VIEWS

_JSON = "application/json"
_YAML = "application/yaml"
_TEXT: Schema = {"type": "string"}
_ANY: Schema = {"type": "object", "additionalProperties": True}


def state_schemas() -> dict[str, Schema]:
    """The components of /mesh/v1."""
    schemas = {NAME + name: schema for name, schema in SCHEMAS.items()}
    listed = {view.schema for view in VIEWS.values() if view.listed}
    return {**schemas, **{f"{NAME}{name}List": items_of(name) for name in sorted(listed)}}


def state_paths() -> dict[str, Schema]:
    """The paths of /mesh/v1, and the pages."""
    paths: dict[str, Schema] = {}
    for view in VIEWS.values():
        schema = ref(f"{NAME}{view.schema}{'List' if view.listed else ''}")
        paths[f"/mesh/v1/{view.path}"] = {"get": _operation(view.path, view.summary, schema, view.parameters)}
    paths["/mesh/v1/tokens"]["post"] = _write("create token", "Mint a join token", "NewToken", "MintedToken", 201)
    paths["/mesh/v1/tokens/{id}"] = {"delete": _operation("tokens/{id}", "Revoke a token", ref(f"{META}.Status"), ())}
    paths["/mesh/v1/batch"] = {"post": _objects("Create or replace objects in one transaction, or none", "Batch")}
    paths["/mesh/v1/diff"] = {"post": _objects("What a batch would change; nothing is stored", "Diff")}
    paths["/mesh/v1/certificates/bundle"] = {"get": _page("The trust bundle, as PEM", "application/x-pem-file")}
    paths.update({path: {"get": _page(summary, media)} for path, (summary, media) in _PAGES.items()})
    return paths


_PAGES: Mapping[str, tuple[str, str]] = {
    "/healthz": ("The process answers", "text/plain"),
    "/livez": ("The process answers", "text/plain"),
    "/readyz": ("Everything that must be up is; 503 says what is not", "text/plain"),
    "/metrics": ("Prometheus", "text/plain"),
    "/version": ("The server's version", _JSON),
}


def _operation(path: str, summary: str, schema: Schema, parameters: tuple[str, ...]) -> Schema:
    named = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    return {
        "operationId": _identifier(path, "delete" if schema == ref(f"{META}.Status") else "get"),
        "summary": summary,
        "tags": ["mesh/v1"],
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": _TEXT} for name in named),
            *({"name": name, "in": "query", "description": PARAMETERS[name], "schema": _TEXT} for name in parameters),
        ],
        "responses": _responses(schema, 200),
    }


def _identifier(path: str, verb: str) -> str:
    words = path.replace("{", "").replace("}", "").replace("_", "/").split("/")
    return verb + "".join(word.capitalize() for word in words)


def _responses(schema: Schema, status: int) -> dict[str, Any]:
    return {
        str(status): {"description": "OK", "content": {_JSON: {"schema": schema}, _YAML: {"schema": schema}}},
        "default": {
            "description": "a failure; `details.causes` names every field that is wrong",
            "content": {_JSON: {"schema": ref(f"{META}.Status")}},
        },
    }


def _write(identifier: str, summary: str, body: str, answer: str, status: int) -> Schema:
    content = {"schema": ref(NAME + body)}
    return {
        "operationId": "".join(
            word if not index else word.capitalize() for index, word in enumerate(identifier.split())
        ),
        "summary": summary,
        "tags": ["mesh/v1"],
        "requestBody": {"required": True, "content": {_JSON: content, _YAML: content}},
        "responses": _responses(ref(NAME + answer), status),
    }


def _objects(summary: str, answer: str) -> Schema:
    """An operation on many manifests."""
    manifests = {"schema": {"description": "manifests: YAML documents, JSON values or a List", **_ANY}}
    query = (
        ("namespace", "of objects that name none; default `default`"),
        ("dryRun", "All: check and answer, change nothing"),
        ("fieldValidation", "unknown fields: Strict (default) refuses, Warn and Ignore drop them"),
    )
    return {
        "operationId": answer.lower(),
        "summary": summary,
        "tags": ["mesh/v1"],
        "parameters": [
            {"name": name, "in": "query", "description": description, "schema": _TEXT} for name, description in query
        ],
        "requestBody": {"required": True, "content": {_YAML: manifests, _JSON: manifests}},
        "responses": _responses(ref(NAME + answer), 200),
    }


def _page(summary: str, media: str) -> Schema:
    return {
        "summary": summary,
        "tags": ["pages"],
        "responses": {"200": {"description": "OK", "content": {media: {"schema": _TEXT}}}},
    }
