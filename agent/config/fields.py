"""What every reader of a message needs: paths, refusals, and which fields may be set at all.

Owns:   Rejected (the answer for a resource that is not taken), Refused (how a reader gives up inside), `only`.
Not:    the rules that Envoy writes on its messages (agent.config.rules), the meaning of any field.
Invariant: a field that is set and that no reader knows is refused: what the agent cannot do is never passed over.
        Fields that this build's messages do not have are not seen at all, as in Envoy.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.wrappers_pb2 import BoolValue

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_SHOWN = 80
NOT_ENFORCED = "the agent does not enforce it"
_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Resource `name` is not taken: `path` is the field in the message ("" = the whole), `reason` says why."""

    name: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class Refused(Exception):
    """A reader gives up: `path`, `reason` as in Rejected. Never leaves agent.config."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason


def within(path: str, name: str) -> str:
    """The path of a field of the message at `path`."""
    return f"{path}.{name}" if path else name


def item(path: str, name: str, index: int) -> str:
    """The path of one entry of a repeated field."""
    return f"{within(path, name)}[{index}]"


def shown(value: object) -> str:
    """A value as a reason shows it: short, on one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def refuse(path: str, found: object, expected: str) -> Refused:
    """The refusal of a value, to be raised."""
    return Refused(path, f"found {shown(found)}, expected {expected}")


def beyond(path: str, found: str, expected: str = "it unset") -> Refused:
    """The refusal of something that the agent cannot do; `found` is put as it is."""
    return Refused(path, f"found {found}, expected {expected}: {NOT_ENFORCED}")


def only(message: Message, path: str, known: AbstractSet[str], off: AbstractSet[str] = _NONE) -> None:
    """Refuse every field that is set but for `known`; those in `off` may say false, which is what they default to."""
    for field, value in message.ListFields():
        if field.name in known or (field.name in off and isinstance(value, BoolValue) and not value.value):
            continue
        raise beyond(within(path, field.name), _kind(field, value))


def value_or(message: Message, name: str, default: T) -> T:
    """What a wrapper field (UInt32Value, BoolValue, Percent) holds, or the default when it is unset."""
    found: T = getattr(message, name).value if message.HasField(name) else default
    return found


def enum_name(message: Message, name: str, path: str) -> str:
    """The name of the value in an enum field; a number without a name is refused."""
    number, kind = getattr(message, name), message.DESCRIPTOR.fields_by_name[name].enum_type
    if kind is None or number not in kind.values_by_number:
        raise refuse(within(path, name), number, f"a {kind.name if kind is not None else name}")
    return str(kind.values_by_number[number].name)


def unpacked(packed: AnyMessage, kind: type[M], path: str) -> M:
    """The message in an Any of that type."""
    if type_of(packed) != kind.DESCRIPTOR.full_name:
        raise refuse(path, type_of(packed), kind.DESCRIPTOR.full_name)
    return parsed(packed.value, kind, path)


def parsed(body: bytes, kind: type[M], path: str) -> M:
    """The message that the bytes hold."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise Refused(path, f"found bytes that are no {kind.DESCRIPTOR.full_name}") from error


def type_of(packed: AnyMessage) -> str:
    """The full name of the packed message."""
    return packed.type_url.rpartition("/")[2]


def _kind(field: Any, value: Any) -> str:
    if field.is_repeated:
        return f"{len(value)} entries" if len(value) > 1 else "an entry"
    if field.message_type is not None:
        return shown(value.value) if field.message_type.full_name.endswith("Value") else "a value"
    if field.enum_type is not None and value in field.enum_type.values_by_number:
        return str(field.enum_type.values_by_number[value].name)
    return shown(value)
