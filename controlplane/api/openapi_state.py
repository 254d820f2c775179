"""OpenAPI of /mesh/v1 and of the pages beside the objects. Pure.

Owns:   their paths and operations.
Not:    schemas (openapi_state_schemas), which views there are (state_catalog), the objects' paths (openapi).
"""

from collections.abc import Mapping
from typing import Any

from controlplane.api.openapi_schemas import ACCEPTED, META, WAIT, Schema, ref
from controlplane.api.openapi_state_schemas import NAME, SCHEMAS, items_of
from controlplane.api.state_catalog import PARAMETERS, VIEWS

_JSON = "application/json"
_YAML = "application/yaml"
_TEXT: Schema = {"type": "string"}
_ANY: Schema = {"type": "object", "additionalProperties": True}


def state_schemas() -> dict[str, Schema]:
    """The components of /mesh/v1."""
    schemas = {NAME + name: schema for name, schema in SCHEMAS.items()}
    listed = {view.schema: view.paged for view in VIEWS.values() if view.listed}
    lists = {f"{NAME}{name}List": items_of(name, paged=paged) for name, paged in sorted(listed.items())}
    return {**schemas, **lists}


def state_paths() -> dict[str, Schema]:
    """The paths of /mesh/v1, and the pages."""
    paths: dict[str, Schema] = {}
    for view in VIEWS.values():
        schema = ref(f"{NAME}{view.schema}{'List' if view.listed else ''}")
        paths[f"/mesh/v1/{view.path}"] = {"get": _operation(view.path, view.summary, schema, view.parameters)}
    paths["/mesh/v1/tokens"]["post"] = _write("create token", "Mint a join token", "NewToken", "MintedToken", 201)
    paths["/mesh/v1/tokens/{id}"] = {"delete": _operation("tokens/{id}", "Revoke a token", ref(f"{META}.Status"), ())}
    paths["/mesh/v1/batch"] = {"post": _objects("batch", "Create or replace objects in one transaction, or none")}
    paths["/mesh/v1/delete"] = {"post": _objects("delete", "Delete objects in one transaction, or none", _MISSING)}
    paths["/mesh/v1/diff"] = {"post": _objects("diff", "What a batch would change; nothing is stored", answer="Diff")}
    paths["/mesh/v1/rollback"] = {"post": _rollback()}
    paths["/mesh/v1/analyze"] = {
        "post": _objects("analyze", "What is wrong with the mesh, with these objects laid over it", answer="Analysis")
    }
    paths["/mesh/v1/rollouts"]["post"] = _begin_rollout()
    for verb, summary in (("promote", "On to the next stage now"), ("abort", "Take the candidate away again")):
        paths[f"/mesh/v1/rollouts/{{id}}/{verb}"] = {"post": _move_rollout(verb, summary)}
    paths["/mesh/v1/certificates/rotation"] = {
        "post": _rotation("begin", "Put a new root beside the present one, which it will replace", 201),
        "delete": _rotation("abort", "Drop the new root, as long as it does not sign", 200),
    }
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


_Parameters = tuple[tuple[str, str], ...]
_MISSING: _Parameters = (("ignoreNotFound", "true: what is not there is no failure"),)
_WRITES: _Parameters = (("dryRun", "All: check and answer, change nothing"), ("wait", WAIT))


def _query(parameters: _Parameters) -> list[Schema]:
    return [{"name": name, "in": "query", "description": said, "schema": _TEXT} for name, said in parameters]


def _objects(identifier: str, summary: str, more: _Parameters = (), *, answer: str = "Batch") -> Schema:
    """An operation on many manifests."""
    manifests = {"schema": {"description": "manifests: YAML documents, JSON values or a List", **_ANY}}
    query: _Parameters = (
        ("namespace", "of objects that name none; default `default`"),
        ("fieldValidation", "unknown fields: Strict (default) refuses, Warn and Ignore drop them"),
    )
    writes = answer == "Batch"
    return {
        "operationId": identifier,
        "summary": summary,
        "tags": ["mesh/v1"],
        "parameters": _query((*query, *more, *(_WRITES if writes else ()))),
        "requestBody": {"required": True, "content": {_YAML: manifests, _JSON: manifests}},
        "responses": {**_responses(ref(NAME + answer), 200), **(_accepted(ref(NAME + answer)) if writes else {})},
    }


def _rollback() -> Schema:
    summary = "Make every object what it was as of a revision, in one transaction"
    operation = _write("rollback", summary, "NewRollback", "Rollback", 200)
    responses = {**operation["responses"], **_accepted(ref(NAME + "Rollback"))}
    return {**operation, "parameters": _query(_WRITES), "responses": responses}


_PLAN: _Parameters = (
    ("stages", "numbers of proxies, then shares, each larger than the last, up to 100%: 1,10%,100%"),
    ("pause", "how long each stage is watched at least; default 30s"),
    ("minRequests", "of the staged proxies in each stage before it is judged; default 100"),
    ("maxErrorPoints", "how far their share of 5xx may lie above the others', in percent points; default 5"),
    ("waitLimit", "for acknowledgements, and beyond the pause for requests; default 5m"),
    ("dryRun", "All: check and answer, begin nothing"),
)


def _begin_rollout() -> Schema:
    operation = _objects("beginRollout", "Begin a staged rollout of objects", _PLAN, answer="BegunRollout")
    content = operation["responses"]["200"]["content"]
    begun = {"201": {"description": "it has begun", "content": content}}
    return {**operation, "responses": {**operation["responses"], **begun}}


def _move_rollout(verb: str, summary: str) -> Schema:
    operation = _operation("rollouts/{id}", summary, ref(NAME + "Rollout"), ())
    return {**operation, "operationId": f"{verb}Rollout"}


def _rotation(verb: str, summary: str, status: int) -> Schema:
    operation = _operation("certificates/rotation", summary, ref(NAME + "Rotation"), ())
    return {
        **operation,
        "operationId": f"{verb}Rotation",
        "responses": _responses(ref(NAME + "Rotation"), status),
    }


def _accepted(schema: Schema) -> dict[str, Any]:
    return {"202": {"description": ACCEPTED, "content": {_JSON: {"schema": schema}, _YAML: {"schema": schema}}}}


def _page(summary: str, media: str) -> Schema:
    return {
        "summary": summary,
        "tags": ["pages"],
        "responses": {"200": {"description": "OK", "content": {media: {"schema": _TEXT}}}},
    }
