"""Metadata that the agent looks at: pairs of strings."""

from google.protobuf.struct_pb2 import Struct

from agent.config.fields import refuse


def string_pairs(message: Struct, path: str) -> tuple[tuple[str, str], ...]:
    """The pairs, sorted."""
    found = []
    for key in sorted(message.fields):
        value = message.fields[key]
        if value.WhichOneof("kind") != "string_value":
            raise refuse(f'{path}["{key}"]', value.WhichOneof("kind"), "a string")
        found.append((key, value.string_value))
    return tuple(found)
