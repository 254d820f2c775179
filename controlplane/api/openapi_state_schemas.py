"""OpenAPI schemas of what /mesh/v1 answers, as state_json shapes it; a test compares them with real answers. Pure."""

from collections.abc import Mapping

from controlplane.api.openapi_schemas import Schema, ref

NAME = "mesh.gossamer.state."

_TEXT: Schema = {"type": "string"}
_TIME: Schema = {"type": "string", "description": "RFC 3339, empty when there is none"}
_WHOLE: Schema = {"type": "integer", "format": "int64"}
_NUMBER: Schema = {"type": "number"}
_FLAG: Schema = {"type": "boolean"}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_TEXT_MAP: Schema = {"type": "object", "additionalProperties": _TEXT}
_ANY: Schema = {"type": "object", "additionalProperties": True}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(item: Schema) -> Schema:
    return {"type": "array", "items": item}


def _said(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def _one_of(*values: str) -> Schema:
    return {"type": "string", "enum": list(values)}


_SYNC = _one_of("synced", "pending", "rejected")
_COUNTS = _object(total=_WHOLE, healthy=_WHOLE, unhealthy=_WHOLE, ejected=_WHOLE)
_READY = _said(_TEXT_MAP, "subsystem -> why it is not ready; empty = it is")

_REVISION = _said(_WHOLE, "ask /mesh/v1/revisions/{revision} how far it has come")
_DIFF = _said(_TEXT, "unified diff of YAML, without what the server writes")
_NAMED = {"object": _TEXT, "group": _TEXT, "kind": _TEXT, "namespace": _TEXT, "name": _TEXT}
_APPLY = {
    "id": _TEXT,
    "revision": _WHOLE,
    "author": _TEXT,
    "reason": _said(_TEXT, "why, when it was not the author's own manifests: rollback to 42"),
    "at": _TIME,
}
_APPLIED = {**_NAMED, "action": _one_of("created", "configured", "deleted"), "generation": _WHOLE}
_RESULT = {
    **_NAMED,
    "action": _one_of("created", "configured", "deleted", "unchanged"),
    "generation": _WHOLE,
    "resource_version": _TEXT,
    "warnings": _TEXTS,
}


_ROTATION: dict[str, Schema] = {
    "phase": _one_of("Distributing", "Signing"),
    "old": _said(_TEXT, "id of the root that is replaced"),
    "new": _said(_TEXT, "id of the new root"),
    "since": _TIME,
    "author": _TEXT,
    "revision": _said(_WHOLE, "with which the phase began: /mesh/v1/revisions says which proxies have not answered it"),
}


def _waited(**properties: Schema) -> Schema:
    """The answer to a write: `wait` is there when it was waited for."""
    schema = _object(**properties)
    return {**schema, "properties": {**schema["properties"], "wait": ref(NAME + "Wait")}}


_REQUESTS = _object(requests=_WHOLE, errors=_WHOLE, error_ratio=_said(_NUMBER, "0 to 1"))
_STAGED: Mapping[str, Schema] = {
    **dict.fromkeys(("object", "group", "kind", "namespace", "name", "action"), _TEXT),
    "generation": _WHOLE,
}
_ROLLOUTS: Mapping[str, Schema] = {
    "Rollout": _object(
        id=_TEXT,
        author=_TEXT,
        phase=_one_of("Spreading", "Watching", "Finishing", "Finished", "Aborted"),
        reason=_said(_one_of("", "Rejected", "ErrorRate", "Inconclusive", "Requested", "Conflict"), "of the abort"),
        message=_said(_TEXT, "why it was aborted"),
        stage=_said(_WHOLE, "from 1"),
        since=_said(_TIME, "when the phase began"),
        revision=_said(_WHOLE, "that stored the objects; 0 before"),
        plan=_object(
            stages=_TEXTS, pause_s=_NUMBER, min_requests=_WHOLE, max_error_points=_NUMBER, wait_s=_NUMBER
        ),
        objects=_list(_object(**_STAGED)),
        progress={
            "nullable": True,
            "description": "null when it has ended",
            **_object(
                interested=_said(_WHOLE, "connected proxies that the candidate changes"),
                staged=_WHOLE,
                acknowledged=_WHOLE,
                pending=_TEXTS,
                rejected=_list(_object(node=_TEXT, resource=_TEXT, reason=_TEXT)),
                missing_replicas=_said(_TEXTS, "that have not acted on the phase yet"),
                staged_requests=_REQUESTS,
                other_requests=_REQUESTS,
            ),
        },
        log=_list(_object(at=_TIME, text=_TEXT)),
    ),
    "Analysis": _object(items=_list(ref(NAME + "Finding"))),
    "Finding": _object(
        code=_said(_TEXT, "Istio's message code, or GSM and a number"),
        type=_TEXT,
        severity=_one_of("Error", "Warning", "Info"),
        object=_TEXT,
        group=_TEXT,
        kind=_TEXT,
        namespace=_TEXT,
        name=_TEXT,
        path=_said(_TEXT, "the field, empty for the whole object"),
        message=_TEXT,
    ),
    "BegunRollout": _object(
        rollout={
            "nullable": True,
            "description": "null after a dry run, or when every object is as stored",
            "allOf": [ref(NAME + "Rollout")],
        },
        dry_run=_FLAG,
        results=_list(_object(**_STAGED, warnings=_TEXTS)),
    ),
}  # fmt: skip

SCHEMAS: Mapping[str, Schema] = {
    **_ROLLOUTS,
    "Status": _object(
        replica=_TEXT,
        revision=_said(_WHOLE, "of the store"),
        published=_said(_WHOLE, "what every stream has been told"),
        ready=_READY,
        mesh=_ANY,
        nodes=_object(total=_WHOLE, connected=_WHOLE),
        services=_WHOLE,
        endpoints=_COUNTS,
        proxies=_object(total=_WHOLE, synced=_WHOLE, pending=_WHOLE, rejected=_WHOLE),
        objects={"type": "object", "additionalProperties": _WHOLE},
        problems=_list(ref(NAME + "Problem")),
    ),
    "Problem": _object(object=_TEXT, type=_TEXT, reason=_TEXT, message=_TEXT, code=_TEXT),
    "Node": _object(
        name=_TEXT,
        address=_TEXT,
        locality=_said(_TEXT, "region/zone/subzone"),
        dialect=_one_of("gossamer", "envoy", "grpc"),
        version=_TEXT,
        identity=_said(_TEXT, "SPIFFE id"),
        outbound=_TEXT,
        instances=_WHOLE,
        connected=_FLAG,
        sync=_said(_TEXT, "synced, pending or rejected; empty when it is not connected"),
    ),
    "Service": _object(
        host=_TEXT,
        name=_TEXT,
        namespace=_TEXT,
        origin=_one_of("Service", "ServiceEntry", "registration"),
        definition=_said(_TEXT, "the object that defines it; empty for a registration"),
        external=_FLAG,
        ports=_list(
            _object(number=_WHOLE, name=_TEXT, protocol=_TEXT, target={"description": "a number or a port's name"})
        ),
        selector={"type": "object", "nullable": True, "additionalProperties": _TEXT},
        endpoints=_COUNTS,
        virtual_services=_TEXTS,
        destination_rules=_TEXTS,
    ),
    "Endpoint": _object(
        address=_said(_TEXT, "host:port"),
        service=_TEXT,
        ports=_said(_list(_WHOLE), "ports of the service that lead here"),
        node=_TEXT,
        id=_TEXT,
        namespace=_TEXT,
        service_account=_TEXT,
        identity=_TEXT,
        labels=_TEXT_MAP,
        locality=_TEXT,
        weight=_WHOLE,
        tls=_said(_FLAG, "takes the mesh's mutual TLS"),
        health=_one_of("UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED"),
        health_reason=_TEXT,
        health_since=_TIME,
        bypass_possible=_said(_FLAG, "the application can be called past the mesh"),
        warnings=_TEXTS,
        ejections=_list(ref(NAME + "Ejection")),
    ),
    "Ejection": _object(
        node=_said(_TEXT, "who ejects"),
        cluster=_TEXT,
        subset=_TEXT,
        reason=_TEXT,
        detail=_TEXT,
        times=_said(_WHOLE, "in a row"),
        since=_TIME,
        until=_TIME,
        enforced=_said(_FLAG, "false: detected, not ejected"),
        blocked_by=_TEXT,
    ),
    "Proxy": _object(
        node=_TEXT,
        stream=_WHOLE,
        replica=_TEXT,
        dialect=_one_of("gossamer", "envoy", "grpc"),
        user_agent=_TEXT,
        address=_TEXT,
        namespace=_TEXT,
        locality=_TEXT,
        delta=_FLAG,
        connected_since=_TIME,
        sync=_SYNC,
        rollout=_said(_TEXT, "the rollout whose candidate it has; empty when it has what is stored"),
        unasked=_said(_TEXT, "what its first state lacks and it has not asked for: CDS, EDS NAME, anything; or empty"),
        types={"type": "object", "additionalProperties": ref(NAME + "TypeState"), "description": "CDS, EDS, ..."},
    ),
    "TypeState": _object(
        state=_SYNC,
        resources=_said(_WHOLE, "that the proxy has accepted"),
        version=_TEXT,
        revision=_WHOLE,
        error=_TEXT,
        rejected=_list(_object(name=_TEXT, reason=_TEXT)),
        waits_for=_list(_object(name=_TEXT, waits_for=_TEXT)),
    ),
    "ConfigDump": _object(
        node=_TEXT,
        replica=_TEXT,
        revision=_WHOLE,
        resources={"type": "object", "additionalProperties": _list(ref(NAME + "Resource"))},
    ),
    "ClientStatus": _object(
        node=_TEXT,
        user_agent=_TEXT,
        replica=_TEXT,
        scope=_said(_TEXT, "which of the node's streams"),
        types={
            "type": "object",
            "additionalProperties": _list(
                _object(
                    name=_TEXT,
                    version=_said(_TEXT, "of what the proxy uses"),
                    client=_said(_TEXT, "ACKED, NACKED, REQUESTED or DOES_NOT_EXIST, as the proxy says"),
                    server=_said(_TEXT, "SYNCED, STALE, NOT_SENT or ERROR, as the control plane knows"),
                    error=_TEXT,
                    error_version=_TEXT,
                )
            ),
        },
    ),
    "Resource": _object(
        name=_TEXT,
        version=_TEXT,
        sources=_list(_object(object=_TEXT, generation=_WHOLE)),
        resource=_said(_ANY, "the xDS message, with the wire's field names"),
    ),
    "Rotation": _object(**_ROTATION),
    "Certificates": _object(
        trust_domain=_TEXT,
        rotation={**_object(**_ROTATION), "nullable": True, "description": "of the root; null = none is under way"},
        roots=_list(_object(subject=_TEXT, serial=_TEXT, fingerprint_sha256=_TEXT, not_before=_TIME, not_after=_TIME)),
        identities=_list(_object(identity=_TEXT, instances=_TEXTS)),
        grants=_list(_object(node=_TEXT, namespaces=_TEXTS, service_accounts=_TEXTS, token_id=_TEXT, joined=_TIME)),
    ),
    "Traffic": _object(
        cluster=_TEXT,
        service=_TEXT,
        port=_WHOLE,
        subset=_TEXT,
        locality=_TEXT,
        reporters=_WHOLE,
        requests_per_s=_NUMBER,
        errors_per_s=_NUMBER,
        success_ratio=_said(_NUMBER, "0 to 1"),
        in_progress=_WHOLE,
    ),
    "CircuitBreaker": _object(
        name=_TEXT,
        namespace=_TEXT,
        node=_TEXT,
        caller=_said(_TEXT, "whose it is; empty = everybody's on the node"),
        state=_said(_TEXT, "CLOSED, OPEN, HALF_OPEN, FORCED_OPEN or DISABLED"),
        since=_TIME,
        why=_TEXT,
        opened=_said(_WHOLE, "how often, since the agent began"),
    ),
    "Event": _object(at=_TIME, type=_TEXT, subject=_TEXT, message=_TEXT, replica=_TEXT),
    "Apply": _object(**_APPLY, objects=_list(_object(**_APPLIED))),
    "Change": _object(
        **_APPLY,
        objects=_list(
            _object(
                **_APPLIED,
                before={**_ANY, "nullable": True, "description": "the stored object; null = it did not exist"},
                after={**_ANY, "nullable": True},
                diff=_DIFF,
            )
        ),
    ),
    "Revision": _object(
        revision=_WHOLE,
        published=_said(_FLAG, "every stream that it touches has been told"),
        settled=_said(_FLAG, "no proxy is still to answer"),
        acked=_TEXTS,
        pending=_TEXTS,
        waits_for=_said(
            _list(_object(node=_TEXT, type=_TEXT, name=_TEXT, waits_for=_TEXT)),
            "what pending proxies wait for, bounded; type and name are empty for what has not been sent yet",
        ),
        rejected=_list(_object(node=_TEXT, reasons=_list(_object(name=_TEXT, reason=_TEXT)))),
        partial=_FLAG,
    ),
    "Replica": _object(
        replica=_TEXT,
        rest=_TEXT,
        started=_TIME,
        here=_FLAG,
        reachable=_FLAG,
        revision={**_WHOLE, "nullable": True},
        published={**_WHOLE, "nullable": True},
        proxies={**_WHOLE, "nullable": True},
        ready={**_READY, "nullable": True},
    ),
    "Token": _object(
        id=_TEXT,
        node=_said(_TEXT, "a name, or a prefix with * behind it"),
        namespaces=_TEXTS,
        service_accounts=_TEXTS,
        expires=_TIME,
        uses_left=_WHOLE,
        created=_TIME,
        created_by=_TEXT,
        redeemed_by=_TEXTS,
    ),
    "NewToken": {
        "type": "object",
        "required": ["node"],
        "properties": {
            "node": _said(_TEXT, "a name, or a prefix with * behind it"),
            "namespaces": _said(_TEXTS, "default: [default]"),
            "service_accounts": _said(_TEXTS, "default: any"),
            "ttl": _said(_TEXT, "such as 1h; default 1h"),
            "ttl_s": _said(_WHOLE, "the same in seconds"),
            "uses": _said(_WHOLE, "default 1"),
        },
    },
    "MintedToken": {"allOf": [ref(NAME + "Token"), _object(token=_said(_TEXT, "shown this once"))]},
    "Batch": _waited(revision=_REVISION, dry_run=_FLAG, results=_list(_object(**_RESULT))),
    "Rollback": _waited(
        revision=_REVISION,
        dry_run=_FLAG,
        to=_said(_WHOLE, "the revision that was asked for"),
        results=_list(_object(**_RESULT, diff=_DIFF)),
    ),
    "NewRollback": _object(revision=_said(_WHOLE, "every object becomes what it was as of it")),
    "Wait": {
        "allOf": [
            _object(outcome=_one_of("acknowledged", "rejected", "timeout")),
            ref(NAME + "Revision"),
        ],
        "description": "how the wait ended, and how far the revision had come",
    },
    "Diff": _object(
        objects=_list(_object(object=_TEXT, action=_TEXT, warnings=_TEXTS)),
        changes=_list(
            _object(
                type=_TEXT,
                name=_TEXT,
                change=_one_of("added", "changed", "removed"),
                before={**_ANY, "nullable": True},
                after={**_ANY, "nullable": True},
                nodes=_TEXTS,
            )
        ),
        unaffected=_TEXTS,
        partial=_FLAG,
    ),
}


def items_of(name: str, *, paged: bool = False) -> Schema:
    """A list of one of the SCHEMAS, as views answer it."""
    more = {"continue": _said(_TEXT, "ask with it for what is older; absent on the last page")} if paged else {}
    return {
        "type": "object",
        "required": ["items", "partial"],
        "properties": {
            "items": _list(ref(NAME + name)),
            "partial": _said(_FLAG, "a replica did not answer"),
            "silent": _list(_object(replica=_TEXT, reason=_TEXT)),
            **more,
        },
    }
