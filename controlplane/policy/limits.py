"""How large a manifest may be, before anything else looks at it.

Owns:   a private, bounded copy of what was posted: strings as keys, plain dicts and
        lists, nothing that JSON cannot say.
Not:    limits that one field has of its own (controlplane.policy.rules).
"""

import math
from collections.abc import Mapping
from typing import Any

from controlplane.policy.scalars import found_expected
from controlplane.policy.violations import Key, Path

MAX_DEPTH = 32
MAX_LIST_ITEMS = 4096
MAX_MAP_ITEMS = 4096
MAX_VALUES = 200_000
MAX_TEXT = 1024 * 1024  # a direct response's body may have 1 MiB
MAX_KEY = 512
# What the server owns is neither read nor bounded.
IGNORED = frozenset({("status",), ("metadata", "managedFields")})

Breach = tuple[Path, str]


def bounded_copy(value: object) -> tuple[Any, list[Breach]]:
    """A copy, and what was beyond the limits; such a value is None in the copy."""
    copier = _Copier()
    return copier.copy(value, ()), copier.breaches


class _Copier:
    __slots__ = ("breaches", "values")

    def __init__(self) -> None:
        self.breaches: list[Breach] = []
        self.values = 0

    def copy(self, value: object, path: tuple[str | int, ...]) -> Any:
        self.values += 1
        if path in IGNORED:
            return None
        if self.values > MAX_VALUES:
            if self.values == MAX_VALUES + 1:
                self._breach(path, f"found more than {MAX_VALUES} values, expected at most that many in one manifest")
            return None
        match value:
            case None | bool():
                return value
            case int():
                return self._number(value, path, fits=-(1 << 64) < value < 1 << 64)
            case float():
                return self._number(value, path, fits=math.isfinite(value))
            case str():
                return self._text(value, path)
            case Mapping() | list() | tuple():
                return self._container(value, path)
        self._breach(path, found_expected(value, "a JSON value"))
        return None

    def _number(self, value: float, path: tuple[str | int, ...], *, fits: bool) -> float | None:
        if not fits:
            self._breach(path, "found a number out of range, expected a finite one of 64 bits")
            return None
        return value

    def _text(self, value: str, path: tuple[str | int, ...]) -> str | None:
        if len(value) > MAX_TEXT:
            self._breach(path, f"found a string of {len(value)} characters, expected at most {MAX_TEXT}")
            return None
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                self._breach(path, "found half a surrogate pair, expected a string that UTF-8 can write")
                return None
        return str(value)

    def _container(self, value: Any, path: tuple[str | int, ...]) -> Any:
        if len(path) >= MAX_DEPTH:
            self._breach(path, f"found more than {MAX_DEPTH} levels, expected at most that many")
            return None
        if isinstance(value, Mapping):
            return self._map(value, path)
        if len(value) > MAX_LIST_ITEMS:
            self._breach(path, f"found {len(value)} items, expected at most {MAX_LIST_ITEMS}")
            return None
        return [self.copy(item, (*path, index)) for index, item in enumerate(value)]

    def _map(self, value: Mapping[Any, Any], path: tuple[str | int, ...]) -> dict[str, Any] | None:
        if len(value) > MAX_MAP_ITEMS:
            self._breach(path, f"found {len(value)} keys, expected at most {MAX_MAP_ITEMS}")
            return None
        copied: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str) or len(key) > MAX_KEY or self._text(key, path) is None:
                self._breach(path, f"{found_expected(key, f'keys that are strings of at most {MAX_KEY} characters')}")
            else:
                copied[str(key)] = self.copy(item, (*path, key))
        return copied

    def _breach(self, path: tuple[str | int, ...], message: str) -> None:
        if len(self.breaches) < MAX_LIST_ITEMS:
            self.breaches.append((_as_path(path), message))


def _as_path(path: tuple[str | int, ...]) -> Path:
    """A path without the schema: a key that is no plain word is shown as a map's key."""
    return Path(tuple(Key(part) if isinstance(part, str) and not part.isalnum() else part for part in path))
