"""What is wrong with a manifest: field paths as the user wrote them, and the report that collects them.

Invariants:
  A path is written as Kubernetes does: `spec.http[0].match[1].headers[x-user].exact`; a map's key stands in brackets.
  The report collects everything; a rule that fails because of something already reported says nothing more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.policy.scalars import shown


class Key(str):
    """A key of a map that the user chose, as opposed to a field's name."""

    __slots__ = ()


class Found(str):
    """Words for "found" that are not a quoted value."""

    __slots__ = ()


Part = str | int | Key
_SHOWN_KEY = 120


@dataclass(frozen=True, slots=True)
class Path:
    """Where in a manifest. Build with `path / "field"`, `path.at(3)`, `path.key("x-user")`."""

    parts: tuple[Part, ...] = ()

    def __truediv__(self, name: str) -> "Path":
        return Path((*self.parts, name))

    def at(self, index: int) -> "Path":
        return Path((*self.parts, index))

    def key(self, key: object) -> "Path":
        return Path((*self.parts, Key(key)))

    def starts_with(self, other: "Path") -> bool:
        """Whether `other` is this path or stands above it."""
        return self.parts[: len(other.parts)] == other.parts

    def __str__(self) -> str:
        text = ""
        for part in self.parts:
            if isinstance(part, int | Key):
                text += f"[{str(part)[:_SHOWN_KEY]}]"
            else:
                text += f".{part[:_SHOWN_KEY]}" if text else part[:_SHOWN_KEY]
        return text.encode("utf-8", "backslashreplace").decode()


SPEC = Path(("spec",))
METADATA = Path(("metadata",))


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong. `field` is empty when it is the whole document."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message


_MAX_VIOLATIONS = 1000


@dataclass(slots=True)
class Report:
    """Collects violations and warnings about one manifest, at most 1000 of each.

    `manifest` is what the user wrote, for "found"; `namespace` the object's own.
    """

    manifest: Mapping[str, Any]
    namespace: str = ""
    violations: list[Violation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    _spoiled: list[Path] = field(default_factory=list)

    def refuse(self, path: Path, expected: str, *, found: object = ...) -> None:
        """Record that `path` breaks a rule, with what stands there unless `found` says otherwise."""
        value = self.value_at(path) if found is ... else found
        words = value if isinstance(value, Found) else shown(value)
        self.add(path, f"found {words}, expected {expected}")

    def add(self, path: Path, message: str) -> None:
        """Record a complete message."""
        if len(self.violations) < _MAX_VIOLATIONS and not self._is_spoiled(path):
            self.violations.append(Violation(str(path), message))

    def warn(self, path: Path, message: str) -> None:
        """Record something that is allowed and probably not meant."""
        if len(self.warnings) < _MAX_VIOLATIONS and not self._is_spoiled(path):
            self.warnings.append(f"{path}: {message}")

    def spoil(self, paths: Iterable[Path]) -> None:
        """From now on be silent about these paths and everything above and below them: their values were taken out."""
        self._spoiled.extend(paths)

    def value_at(self, path: Path) -> object:
        """What the user wrote there, None when nothing."""
        value: object = self.manifest
        for part in path.parts:
            if isinstance(value, Mapping):
                value = value.get(str(part))
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def _is_spoiled(self, path: Path) -> bool:
        return any(path.starts_with(spoiled) or spoiled.starts_with(path) for spoiled in self._spoiled)
