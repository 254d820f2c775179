"""From JSON to a typed spec, with every error at the path that the user wrote.

Owns:   parsing by the pydantic models, translating their errors, taking out what cannot be parsed so that the rules
        between fields can still run on the rest.
Not:    those rules (controlplane.policy.rules).
"""

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from controlplane.policy.scalars import found_expected, shown
from controlplane.policy.spec import Spec
from controlplane.policy.violations import SPEC, Path

Loc = tuple[int | str, ...]
_KEY_MARK = "[key]"
# What cannot be parsed is taken out and the rest parsed again; every field is optional, so two rounds are enough.
_ROUNDS = 4
_EXPECTED = {"model_type": "an object", "dict_type": "an object", "mapping_type": "an object", "tuple_type": "a list"}


@dataclass(frozen=True, slots=True)
class ShapeError:
    """`nearest` is the path of the known field that an unknown one resembles."""

    loc: Loc
    path: Path
    message: str
    unknown: bool = False
    nearest: Path | None = None


def parse(model: type[Spec], raw: dict[str, Any], root: Path = SPEC) -> tuple[Spec | None, list[ShapeError]]:
    """Parse `raw`, which is changed: whatever is wrong is removed from it. `root`: where it stands in the manifest.

    Returns the spec of what is left, None when nothing can be parsed, and the errors.
    """
    found: list[ShapeError] = []
    for _ in range(_ROUNDS):
        try:
            return model.model_validate(raw, by_alias=True, by_name=False), found
        except ValidationError as error:
            errors = [_translate(model, detail, root) for detail in error.errors(include_url=False)]
            found.extend(errors)
            for item in errors:
                remove(raw, item.loc)
    return None, found


def parse_known(model: type[Spec], raw: Mapping[str, Any]) -> Spec:
    """Parse what was admitted before; unknown fields are ignored. Raises ValueError for anything else."""
    try:
        return model.model_validate(raw, by_alias=True, by_name=False)
    except ValidationError:
        spec, errors = parse(model, deep_copy(raw))
        serious = [error for error in errors if not error.unknown]
        if spec is None or serious:
            raise ValueError("; ".join(f"{error.path}: {error.message}" for error in serious[:3])) from None
        return spec


def known_fields(model: type[BaseModel]) -> tuple[str, ...]:
    """The JSON names of a message's fields."""
    return tuple(info.alias or name for name, info in model.model_fields.items())


def unknown_field(name: str, known: typing.Iterable[str], owner: str) -> tuple[str, str | None]:
    """The message about a field that does not exist, and the name of the one that may be meant."""
    names = sorted(known)
    nearest = _nearest(name, names)
    if nearest is not None:
        return f"found the unknown field {shown(name)}, expected a field of {owner}: did you mean {nearest}?", nearest
    return f"found the unknown field {shown(name)}, expected one of {', '.join(names)}", None


def _nearest(name: str, names: list[str]) -> str | None:
    folded = {known.lower(): known for known in names}
    wanted = name[:64].replace("_", "").replace("-", "").lower()
    close = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def _translate(model: type[Spec], detail: ErrorDetails, root: Path) -> ShapeError:
    loc = detail["loc"]
    if loc and loc[-1] == _KEY_MARK and len(loc) > 1:
        loc = loc[:-1]
    path, owner = _locate(model, loc, root)
    kind = detail["type"]
    if kind == "extra_forbidden" and owner is not None:
        message, nearest = unknown_field(str(loc[-1]), known_fields(owner), owner.__name__)
        above = Path(path.parts[:-1])
        return ShapeError(loc, path, message, unknown=True, nearest=above / nearest if nearest else None)
    if kind == "policy":
        return ShapeError(loc, path, detail["msg"])
    return ShapeError(loc, path, found_expected(detail["input"], _EXPECTED.get(kind, detail["msg"])))


def _locate(model: type[Spec], loc: Loc, root: Path) -> tuple[Path, type[BaseModel] | None]:
    """The path of a pydantic location, and the message that its last part is a field of."""
    path, owner = root, None
    current: Any = model
    for part in loc:
        current, owner = _bare(current), None
        if isinstance(current, type) and issubclass(current, BaseModel):
            owner = current
            path = path / str(part)
            current = next((info.annotation for info in owner.model_fields.values() if info.alias == part), None)
        elif typing.get_origin(current) is tuple:
            path = path.at(int(part))
            current = typing.get_args(current)[0]
        else:
            arguments = typing.get_args(current)
            path = path.key(part)
            current = arguments[1] if len(arguments) == 2 else None
    return path, owner


def _bare(annotation: Any) -> Any:
    """Without Annotated and without `| None`."""
    if typing.get_origin(annotation) is Annotated:
        return _bare(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return _bare(next(item for item in typing.get_args(annotation) if item is not type(None)))
    return annotation


def remove(raw: Any, loc: Loc) -> None:
    """Take out the value at `loc`; of a list's element the whole list, since later indices must not move."""
    while loc:
        parent = raw
        for part in loc[:-1]:
            try:
                parent = parent[part]
            except (KeyError, IndexError, TypeError):
                return
        if isinstance(parent, dict):
            parent.pop(loc[-1], None)
            return
        loc = loc[:-1]
    raw.clear()


def deep_copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: deep_copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [deep_copy(item) for item in value]
    return value
