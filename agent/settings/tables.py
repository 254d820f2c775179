"""A frozen dataclass from a table of the settings: its fields say how they are read.

Owns:   what a key is, unknown and missing keys, where an error is.
Not:    the keys there are (keys), the forms of values (values).
Invariant: whatever is wrong raises SETTINGS naming the key, and the nearest known one where it is unknown.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

from mesh.errors import ErrorCode, MeshError

_T = TypeVar("_T")


def setting(parse: Callable[[Any], Any], default: Any = MISSING) -> Any:
    """A key: how its value is read, and its default (none = it must be given)."""
    return field(metadata={"parse": parse}, **({} if default is MISSING else {"default": default}))


def error(subject: str, message: str, hint: str = "") -> MeshError:
    return MeshError(ErrorCode.SETTINGS, message, subject=subject, hint=hint)


def key_of(item: "Field[Any]") -> str:
    """How a field is written by users: units are in the value there."""
    return item.name.removesuffix("_s")


def build(cls: type[_T], table: Any, where: str) -> _T:
    """A dataclass of keys from a table. Raises SETTINGS naming the key."""
    if not isinstance(table, Mapping):
        raise error(where, f"found {table!r}, expected a table")
    known = {key_of(item): item for item in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise error(f"{where}.{key}", "unknown key", nearest(str(key), known))
    values: dict[str, Any] = {}
    for key, item in known.items():
        if key in table:
            values[item.name] = _parsed(item, table[key], f"{where}.{key}")
        elif item.default is MISSING:
            raise error(f"{where}.{key}", "found nothing, a value is required")
    try:
        return cls(**values)
    except ValueError as problem:
        raise error(where, str(problem)) from problem


def _parsed(item: "Field[Any]", value: Any, where: str) -> Any:
    try:
        return item.metadata["parse"](value)
    except MeshError as problem:  # of a table within: named from here on
        outer = where.removesuffix(key_of(item))
        raise error(f"{outer}{problem.subject}", problem.message, problem.hint) from problem
    except ValueError as problem:
        raise error(where, str(problem)) from problem


def nearest(word: str, known: Any) -> str:
    """A hint at what was meant."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
