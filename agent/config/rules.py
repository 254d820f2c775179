"""The rules that Envoy writes on its own messages: ranges, lengths, required fields, forms of header names.

Owns:   checking a whole message against the `validate.rules` of its descriptors, as Envoy does before it looks at it.
Not:    what Envoy checks by hand, which is the readers' part.
Source: validate/validate.proto (protoc-gen-validate).
Invariants: the first violation is refused with its path; messages inside an Any are checked when they are unpacked;
        a kind of rule that is not known here fails a test, which walks all descriptors that are read.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from validate import validate_pb2

from agent.config import durations
from agent.config.fields import Refused, item, refuse, shown, within

Check = Callable[[Any, str], None]  # (value, its path) -> raises Refused

NUMBERS = frozenset({"float", "double", "int32", "int64", "uint32", "uint64"})
STRINGS = frozenset(
    {
        "min_len",
        "max_len",
        "max_bytes",
        "pattern",
        "prefix",
        "suffix",
        "in",
        "well_known_regex",
        "strict",
        "ignore_empty",
    }
)
BYTES = frozenset({"min_len", "max_len"})
BOUNDS = frozenset({"const", "lt", "lte", "gt", "gte"})
# A name or value may be anything that does not end the line, unless the rule is strict.
_HEADERS = {
    (1, True): re.compile(r":?[0-9a-zA-Z!#$%&'*+.^_|~`-]+"),
    (1, False): re.compile(r"[^\x00\n\r]*"),
    (2, True): re.compile(r"[^\x00-\x08\x0A-\x1F\x7F]*"),
    (2, False): re.compile(r"[^\x00\n\r]*"),
}
_HEADER_WORDS = {1: "a header name", 2: "a header value"}


@dataclass(frozen=True, slots=True)
class _Field:
    """What is to be done with one field. `one`: the check of a value; `size`: that of a list or map."""

    name: str
    presence: bool
    repeated: bool
    required: bool
    map_values: bool
    one: Check | None
    size: Check | None
    key: Check | None
    nested: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    fields: tuple[_Field, ...]
    oneofs: tuple[tuple[str, str], ...]  # (name, its members)


def check(message: Message, path: str = "") -> None:
    """Refuse the first violation in `message` or anything below it. Raises Refused."""
    plan = _plan(message.DESCRIPTOR)
    for name, members in plan.oneofs:
        if message.WhichOneof(name) is None:
            raise Refused(within(path, name), f"found none, expected one of {members}")
    for field in plan.fields:
        if field.repeated:
            _check_many(message, field, path)
        elif not field.presence or message.HasField(field.name):
            _check_one(field, getattr(message, field.name), within(path, field.name))
        elif field.required:
            raise Refused(within(path, field.name), "found unset, expected a value")


def _check_one(field: _Field, value: Any, path: str) -> None:
    if field.one is not None:
        field.one(value, path)
    if field.nested:
        check(value, path)


def _check_many(message: Message, field: _Field, path: str) -> None:
    values = getattr(message, field.name)
    if field.size is not None:
        field.size(values, within(path, field.name))
    if field.map_values:
        for key in values:
            if field.key is not None:
                field.key(key, within(path, field.name))
            _check_one(field, values[key], f'{within(path, field.name)}["{key}"]')
    elif field.one is not None or field.nested:
        for index, value in enumerate(values):
            _check_one(field, value, item(path, field.name, index))


# --- plans, made once per message type ---------------------------------------------------------------------------


@cache
def _plan(descriptor: Descriptor) -> _Plan:
    required = [one for one in descriptor.oneofs if one.GetOptions().Extensions[validate_pb2.required]]
    fields = (_field(field) for field in descriptor.fields)
    return _Plan(
        fields=tuple(field for field in fields if field is not None),
        oneofs=tuple((one.name, ", ".join(field.name for field in one.fields)) for one in required),
    )


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """The rules on a field."""
    return field.GetOptions().Extensions[validate_pb2.rules]


def _field(field: FieldDescriptor) -> _Field | None:
    rules = rules_of(field)
    is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
    value = field.message_type.fields_by_name["value"] if is_map and field.message_type is not None else field
    one = _check_of(rules.map.values if is_map else rules.repeated.items if field.is_repeated else rules, value)
    nested = value.message_type is not None and _is_checked(value.message_type) and not rules.message.skip
    made = _Field(
        name=field.name,
        presence=field.has_presence,
        repeated=field.is_repeated,
        # Within a oneof it is required once it is chosen, and then it is there.
        required=field.containing_oneof is None and _is_required(rules),
        map_values=is_map,
        one=one,
        size=_size_check(rules),
        key=_check_of(rules.map.keys, field) if is_map else None,
        nested=nested,
    )
    return made if made.required or nested or any((made.one, made.size, made.key)) else None


def _is_required(rules: validate_pb2.FieldRules) -> bool:
    return rules.message.required or rules.duration.required or rules.any.required


def _is_checked(descriptor: Descriptor) -> bool:
    """Google's own messages have no rules; walking Struct and Any would only cost time."""
    return not descriptor.full_name.startswith("google.protobuf.")


def _check_of(rules: validate_pb2.FieldRules, field: FieldDescriptor) -> Check | None:
    kind = rules.WhichOneof("type")
    if kind in NUMBERS:
        return _all(_bounds(getattr(rules, kind)))
    match kind:
        case "string":
            return _all(_string_checks(rules.string))
        case "bytes":
            return _all(_length_checks(rules.bytes, "bytes"))
        case "bool":
            return _all(_bounds(rules.bool))
        case "enum":
            return _all(_enum_checks(rules.enum, field))
        case "duration":
            return _all(_duration_checks(rules.duration))
    return None


def _all(checks: Iterator[Check]) -> Check | None:
    found = tuple(checks)
    if len(found) < 2:
        return found[0] if found else None

    def run(value: Any, path: str) -> None:
        for one in found:
            one(value, path)

    return run


def _expecting(good: Callable[[Any], bool], expected: str) -> Check:
    def run(value: Any, path: str) -> None:
        plain = getattr(value, "value", value)  # a wrapper's
        if not good(plain):
            raise refuse(path, plain, expected)

    return run


def _bounds(rules: Any) -> Iterator[Check]:
    for field, limit in rules.ListFields():
        if field.name in BOUNDS:
            yield _bound(field.name, limit)


def _bound(name: str, limit: Any) -> Check:
    # Written so that NaN is always refused.
    match name:
        case "lt":
            return _expecting(lambda value: value < limit, f"less than {limit}")
        case "lte":
            return _expecting(lambda value: value <= limit, f"at most {limit}")
        case "gt":
            return _expecting(lambda value: value > limit, f"more than {limit}")
        case "gte":
            return _expecting(lambda value: value >= limit, f"at least {limit}")
    return _expecting(lambda value: value == limit, shown(limit))


def _enum_checks(rules: validate_pb2.EnumRules, field: FieldDescriptor) -> Iterator[Check]:
    if rules.defined_only and field.enum_type is not None:
        known = field.enum_type.values_by_number
        yield _expecting(lambda value: value in known, f"a {field.enum_type.name}")
    if rules.not_in:
        refused = frozenset(rules.not_in)
        yield _expecting(lambda value: value not in refused, "another value")


def _duration_checks(rules: validate_pb2.DurationRules) -> Iterator[Check]:
    for name in ("gt", "gte", "lt", "lte"):
        if rules.HasField(name):
            yield _duration_bound(name, getattr(rules, name))


def _duration_bound(name: str, limit: Duration) -> Check:
    bound = limit.seconds + limit.nanos / 1e9
    words = {"gt": "more than", "gte": "at least", "lt": "less than", "lte": "at most"}[name]

    def run(value: Duration, path: str) -> None:
        found = durations.seconds(value, path)
        good = {"gt": found > bound, "gte": found >= bound, "lt": found < bound, "lte": found <= bound}[name]
        if not good:
            raise Refused(path, f"found {found:g}s, expected {words} {bound:g}s")

    return run


def _length_checks(rules: Any, unit: str) -> Iterator[Check]:
    least, most = rules.min_len, rules.max_len
    if least:
        yield _expecting(lambda value: len(value) >= least, f"at least {least} {unit}")
    if most:
        yield _expecting(lambda value: len(value) <= most, f"at most {most} {unit}")


def _string_checks(rules: validate_pb2.StringRules) -> Iterator[Check]:
    for one in (*_length_checks(rules, "characters"), *_form_checks(rules)):
        yield _unless_empty(one) if rules.ignore_empty else one


def _unless_empty(inner: Check) -> Check:
    def run(value: Any, path: str) -> None:
        if getattr(value, "value", value):
            inner(value, path)

    return run


def _form_checks(rules: validate_pb2.StringRules) -> Iterator[Check]:
    if rules.max_bytes:
        most = rules.max_bytes
        yield _expecting(lambda value: len(value.encode()) <= most, f"at most {most} bytes")
    if rules.pattern:
        pattern = re.compile(rules.pattern)
        yield _expecting(lambda value: pattern.search(value) is not None, f"a match of {rules.pattern}")
    if rules.prefix or rules.suffix:
        prefix, suffix = rules.prefix, rules.suffix
        yield _expecting(lambda value: value.startswith(prefix) and value.endswith(suffix), f"{prefix}...{suffix}")
    allowed = tuple(getattr(rules, "in"))
    if allowed:
        yield _expecting(lambda value: value in allowed, f"one of {', '.join(allowed)}")
    if rules.well_known_regex:
        form = _HEADERS[rules.well_known_regex, rules.strict]
        yield _expecting(lambda value: form.fullmatch(value) is not None, _HEADER_WORDS[rules.well_known_regex])


def _size_check(rules: validate_pb2.FieldRules) -> Check | None:
    least = max(rules.repeated.min_items, rules.map.min_pairs)
    most = rules.repeated.max_items
    if not least and not most:
        return None

    def run(values: Any, path: str) -> None:
        if len(values) < least:
            raise Refused(path, f"found {len(values)} entries, expected at least {least}")
        if most and len(values) > most:
            raise Refused(path, f"found {len(values)} entries, expected at most {most}")

    return run
