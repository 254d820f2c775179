"""OpenAPI schemas of the kinds, from the models that admission uses. Pure.

Owns:   component names, the envelope around a spec, Kubernetes' meta types; pydantic's JSON Schema as OpenAPI 3.0 has
        it (no `null` types, `$defs` moved to components).
Source: OpenAPI 3.0.3 "Schema Object"; Kubernetes' x-kubernetes-group-version-kind.
"""

import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic.json_schema import PydanticJsonSchemaWarning

from controlplane.policy.kinds import KindInfo

Schema = dict[str, Any]

COMPONENTS = "#/components/schemas/"
# Of every write: the parameter, and what is answered when the wait did not end well.
WAIT = "wait until every proxy has it, such as 30s; at most a minute, 30s without a value"
ACCEPTED = (
    "it is stored, but after `wait` a proxy refuses it or has not answered; `Gossamer-Outcome` is rejected or timeout, "
    "and `Warning` names the proxies"
)
META = "io.k8s.apimachinery.pkg.apis.meta.v1"


def ref(name: str) -> Schema:
    """A reference to a component."""
    return {"$ref": COMPONENTS + name}


def component(kind: KindInfo, version: str) -> str:
    """`io.istio.networking.v1.VirtualService`: the group reversed, as Kubernetes names them."""
    group = ".".join(reversed(kind.group.split("."))) if kind.group else "io.k8s.api.core"
    return f"{group}.{version}.{kind.kind}"


def kind_schemas(kind: KindInfo, version: str) -> dict[str, Schema]:
    """The components of one kind in one version: object, list, spec and what the spec is made of."""
    name = component(kind, version)
    spec, parts = _spec(kind)
    schemas = {f"{name}.{part}": _moved(schema, name) for part, schema in parts.items()}
    schemas[f"{name}.Spec"] = _moved(spec, name)
    gvk = {"group": kind.group, "version": version, "kind": kind.kind}
    properties = {
        "apiVersion": {"type": "string", "enum": [kind.api_version(version)]},
        "kind": {"type": "string", "enum": [kind.kind]},
        "metadata": {"allOf": [ref(f"{META}.ObjectMeta")], "description": "name, namespace, labels, annotations"},
        "spec": {"allOf": [ref(f"{name}.Spec")], "description": spec.get("description", "")},
        "status": {"allOf": [ref("mesh.gossamer.Status")], "description": "what the mesh says about the object"},
    }
    if kind.at_root:
        del properties["spec"]
        properties |= schemas[f"{name}.Spec"]["properties"]
    required = ["apiVersion", "kind", "metadata", *(["spec"] if kind.spec_required else [])]
    schemas[name] = {
        "type": "object",
        "description": spec.get("description", kind.kind),
        "required": required,
        "properties": properties,
        "x-kubernetes-group-version-kind": [gvk],
    }
    schemas[f"{name}List"] = {
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": ref(f"{META}.ListMeta"),
            "items": {"type": "array", "items": ref(name)},
        },
        "x-kubernetes-group-version-kind": [{**gvk, "kind": kind.list_kind}],
    }
    return schemas


@cache
def _spec(kind: KindInfo) -> tuple[Schema, Mapping[str, Schema]]:
    with warnings.catch_warnings():
        # An empty FrozenMap as a default is no JSON value; the schema is complete without it.
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
        schema = kind.spec_model.model_json_schema(by_alias=True, mode="validation")
    return schema, schema.pop("$defs", {})


def _moved(schema: Any, prefix: str) -> Any:
    """`$defs` references as components, `X or null` as X, no titles and no null defaults."""
    if isinstance(schema, list):
        return [_moved(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return ref(f"{prefix}.{str(schema['$ref']).rpartition('/')[2]}")
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    if "anyOf" in schema and len(choices) < len(schema["anyOf"]):
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default", "title")}
        if len(choices) == 1:
            only = _moved(choices[0], prefix)
            return {"allOf": [only], **rest} if rest and "$ref" in only else {**only, **rest}
        schema = {**rest, "anyOf": choices}
    return {
        key: _properties(value, prefix) if key == "properties" else _moved(value, prefix)
        for key, value in schema.items()
        if key != "title" or not isinstance(value, str)
    }


def _properties(properties: Mapping[str, Any], prefix: str) -> Schema:
    # A property may be called `title` or `default`: only schemas are rewritten, not their names.
    return {name: _moved(schema, prefix) for name, schema in properties.items()}


def _text(description: str = "") -> Schema:
    return {"type": "string", "description": description} if description else {"type": "string"}


_TEXT_MAP: Schema = {"type": "object", "additionalProperties": {"type": "string"}}

SHARED: Mapping[str, Schema] = {
    f"{META}.ObjectMeta": {
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": _text(),
            "namespace": _text("default when it is missing"),
            "labels": _TEXT_MAP,
            "annotations": _TEXT_MAP,
            "uid": _text("set by the server"),
            "resourceVersion": _text("set by the server; on an update: refuse it when the object changed since"),
            "creationTimestamp": {"type": "string", "format": "date-time", "description": "set by the server"},
            "generation": {
                "type": "integer",
                "format": "int64",
                "description": "set by the server; grows with the spec",
            },
        },
    },
    f"{META}.ListMeta": {
        "type": "object",
        "properties": {
            "resourceVersion": _text(),
            "continue": _text(),
            "remainingItemCount": {"type": "integer", "format": "int64"},
        },
    },
    f"{META}.Status": {
        "type": "object",
        "properties": {
            "kind": _text(),
            "apiVersion": _text(),
            "metadata": ref(f"{META}.ListMeta"),
            "status": {"type": "string", "enum": ["Success", "Failure"]},
            "message": _text(),
            "reason": _text(),
            "code": {"type": "integer", "format": "int32"},
            "details": {
                "type": "object",
                "properties": {
                    "name": _text(),
                    "group": _text(),
                    "kind": _text(),
                    "uid": _text(),
                    "causes": {"type": "array", "items": ref(f"{META}.StatusCause")},
                },
            },
        },
        "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Status"}],
    },
    f"{META}.StatusCause": {
        "type": "object",
        "properties": {
            "reason": _text(),
            "message": _text("what was found and what was expected"),
            "field": _text("the field's path: spec.http[0].route[1].weight"),
            "object": _text("the object: VirtualService default/reviews"),
            "document": {"type": "integer", "description": "index in the batch, from 0"},
            "line": {"type": "integer", "description": "where the field stands, from 1"},
        },
    },
    f"{META}.Patch": {"type": "object", "description": "the changes to make"},
    f"{META}.DeleteOptions": {
        "type": "object",
        "properties": {
            "dryRun": {"type": "array", "items": {"type": "string"}},
            "preconditions": {
                "type": "object",
                "properties": {"uid": _text(), "resourceVersion": _text()},
            },
        },
    },
    "mesh.gossamer.Status": {
        "type": "object",
        "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": {"type": "array", "items": ref("mesh.gossamer.Condition")},
            "addresses": {"type": "array", "items": {"type": "object"}, "description": "of a Gateway's proxies"},
            "listeners": {
                "type": "array",
                "items": ref("mesh.gossamer.ListenerStatus"),
                "description": "of a Gateway of the Gateway API",
            },
            "parents": {
                "type": "array",
                "items": ref("mesh.gossamer.ParentStatus"),
                "description": "of a route of the Gateway API",
            },
            "proxies": {
                "type": "object",
                "description": "the connected proxies that use the object, by what they said about its present form",
                "properties": {
                    name: {"type": "integer"} for name in ("interested", "acknowledged", "pending", "rejected")
                },
            },
        },
    },
    "mesh.gossamer.ListenerStatus": {
        "type": "object",
        "properties": {
            "name": _text(),
            "supportedKinds": {"type": "array", "items": {"type": "object"}},
            "attachedRoutes": {"type": "integer", "format": "int32"},
            "conditions": {"type": "array", "items": ref("mesh.gossamer.Condition")},
        },
    },
    "mesh.gossamer.ParentStatus": {
        "type": "object",
        "properties": {
            "parentRef": {"type": "object", "description": "as the route names it"},
            "controllerName": _text(),
            "conditions": {"type": "array", "items": ref("mesh.gossamer.Condition")},
        },
    },
    "mesh.gossamer.Condition": {
        "type": "object",
        "required": ["type", "status"],
        "properties": {
            "type": _text("Programmed, Conflict, ReferencedResourceNotFound, NotEnforced, Rejected, ..."),
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": _text(),
            "message": _text(),
            "code": _text("Istio's message code, such as IST0101"),
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64", "description": "of the Gateway API's kinds"},
            "replicas": {"type": "integer", "description": "how many replicas of the control plane say so"},
        },
    },
}
