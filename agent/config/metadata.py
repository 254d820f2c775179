"""Metadata that the agent looks at: pairs of strings, and what Istio calls a service."""

from envoy.config.core.v3.base_pb2 import Metadata
from google.protobuf.struct_pb2 import Struct

from agent.config.fields import refuse

_ISTIO = "istio"


def string_pairs(message: Struct, path: str) -> tuple[tuple[str, str], ...]:
    """The pairs, sorted."""
    found = []
    for key in sorted(message.fields):
        value = message.fields[key]
        if value.WhichOneof("kind") != "string_value":
            raise refuse(f'{path}["{key}"]', value.WhichOneof("kind"), "a string")
        found.append((key, value.string_value))
    return tuple(found)


def service_label(message: Metadata) -> tuple[str, str, str] | None:
    """(host, name, namespace) of the first service that a cluster is of, None when nothing is said."""
    if _ISTIO not in message.filter_metadata:
        return None
    for entry in message.filter_metadata[_ISTIO].fields["services"].list_value.values[:1]:
        fields = entry.struct_value.fields
        return fields["host"].string_value, fields["name"].string_value, fields["namespace"].string_value
    return None
