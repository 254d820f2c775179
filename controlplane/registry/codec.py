"""Instances, nodes and ejections as the store's JSON: canonical bytes, so that equal values are equal bytes.

Owns:   the stored form. Field names are those of the dataclasses; what has its default is left out.
Not:    keys (controlplane.store.keys), who may write what (controlplane.ca.grants).
Invariants: decode(encode(x)) == x. An unknown field (a newer replica wrote it) is ignored; anything else that does not
        fit raises ValueError.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar

from controlplane.registry.instances import Ejection, Instance, InstancePort, Node
from mesh.vocabulary import HealthStatus, Locality

T = TypeVar("T", Instance, InstancePort, Node, Ejection)


def encode_instance(instance: Instance) -> bytes:
    """The stored form."""
    return _encode(instance)


def decode_instance(data: bytes) -> Instance:
    """Raises ValueError."""
    value = _object(data)
    ports = value.get("ports", [])
    if not isinstance(ports, list):
        raise ValueError("found ports that are no list")
    return _build(Instance, {**value, "ports": tuple(_build(InstancePort, port) for port in ports)})


def encode_node(node: Node) -> bytes:
    """The stored form."""
    return _encode(node)


def decode_node(data: bytes) -> Node:
    """Raises ValueError."""
    return _build(Node, _object(data))


def encode_ejection(ejection: Ejection) -> bytes:
    """The stored form."""
    return _encode(ejection)


def decode_ejection(data: bytes) -> Ejection:
    """Raises ValueError."""
    return _build(Ejection, _object(data))


def _encode(value: Any) -> bytes:
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    match value:
        case Locality():
            return str(value)
        case Mapping():
            return dict(value)
        case tuple():
            return [_plain(item) for item in value]
        case str() | int() | bool():
            return value
    owned = ((item, getattr(value, item.name)) for item in fields(value))
    return {item.name: _plain(own) for item, own in owned if item.default is MISSING or own != item.default}


def _object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError(f"found a {type(value).__name__}, expected an object")
    return value


_EXPECTED: dict[Any, type] = {str: str, int: int, bool: bool, HealthStatus: str, Locality: str}


def _build(kind: type[T], value: Mapping[str, Any]) -> T:
    if not isinstance(value, Mapping):
        raise ValueError(f"found a {type(value).__name__}, expected an object")
    known: dict[str, Any] = {}
    for item in fields(kind):
        if item.name in value:
            known[item.name] = _parsed(kind.__name__, item.name, item.type, value[item.name])
        elif item.default is MISSING:
            raise ValueError(f"found no {item.name} in {kind.__name__}")
    return kind(**known)


def _parsed(kind: str, name: str, expected: Any, value: Any) -> Any:
    plain = _EXPECTED.get(expected)
    if plain is not None and type(value) is not plain:
        raise ValueError(f"found {name} of type {type(value).__name__} in {kind}, expected {plain.__name__}")
    if expected is Locality:
        return Locality.parse(value)
    if expected is HealthStatus:
        return HealthStatus(value)
    if name == "labels":
        if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
            raise ValueError(f"found labels in {kind} that are no object of strings")
        return dict(value)
    return value
