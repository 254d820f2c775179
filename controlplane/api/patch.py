"""The three kinds of patch that clients send. Pure: a new value, nothing is changed in place.

Owns:   RFC 7386 merge patch, RFC 6902 JSON patch, and strategic merge for Service.
Not:    server-side apply (field managers), admission of the result.
Source: RFC 7386; RFC 6902; Kubernetes strategic merge patch for core/v1 ServiceSpec (ports merge by `port`).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mesh.errors import ErrorCode, MeshError

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON = "application/json-patch+json"

# Lists of maps that strategic merge joins by a key; every other list is replaced, as for atomic lists.
_MERGE_KEYS = {"ports": "port"}
_MAX_OPERATIONS = 1000


def apply_patch(media_type: str, target: Mapping[str, Any], patch: Any) -> dict[str, Any]:
    """The patched object. Raises UNREADABLE for a patch that is not one, INVALID for a JSON patch that cannot apply."""
    if media_type == JSON:
        result = json_patch(target, patch)
    elif not isinstance(patch, Mapping):
        raise _bad(f"found {type(patch).__name__}, expected an object for {media_type}")
    elif media_type == STRATEGIC:
        result = strategic_merge(target, patch)
    else:
        result = merge_patch(target, patch)
    if not isinstance(result, dict):
        raise _bad("the patched value is not an object")
    return result


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, objects merge, everything else replaces."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any) -> Any:
    """Merge patch with `$patch: replace|delete`, `$deleteFromPrimitiveList`, `$setElementOrder` and keyed lists."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    if patch.get("$patch") == "replace":
        return {key: copy.deepcopy(value) for key, value in patch.items() if key != "$patch"}
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name) or [] if item not in value]
        elif key.startswith("$"):
            continue  # $setElementOrder is for the end; $retainKeys has no meaning for the kinds that we serve
        elif value is None:
            result.pop(key, None)
        elif key in _MERGE_KEYS and isinstance(value, list):
            result[key] = _merge_list(result.get(key) or [], value, _MERGE_KEYS[key])
        else:
            result[key] = strategic_merge(result.get(key), value)
    for name, merge_key in _MERGE_KEYS.items():
        if isinstance(result.get(name), list) and f"$setElementOrder/{name}" in patch:
            result[name] = _ordered(result[name], patch[f"$setElementOrder/{name}"], merge_key)
    return result


def _merge_list(old: Sequence[Any], patch: Sequence[Any], key: str) -> list[Any]:
    merged = list(old)
    for item in patch:
        if not isinstance(item, Mapping) or key not in item:
            raise _bad(f"found a list item without its merge key {key!r}")
        at = next((index for index, present in enumerate(merged) if _key_of(present, key) == item[key]), None)
        if item.get("$patch") == "delete":
            merged = [present for present in merged if _key_of(present, key) != item[key]]
        elif at is None:
            merged.append(copy.deepcopy(dict(item)))
        else:
            merged[at] = strategic_merge(merged[at], item)
    return merged


def _ordered(items: Sequence[Any], order: Sequence[Any], key: str) -> list[Any]:
    places = {_key_of(item, key): index for index, item in enumerate(order)}
    return sorted(items, key=lambda item: places.get(_key_of(item, key), len(places)))


def _key_of(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, Mapping) else None


def json_patch(target: Any, patch: Any) -> Any:
    """RFC 6902. All operations or none."""
    if not isinstance(patch, list) or len(patch) > _MAX_OPERATIONS:
        raise _bad(f"found {type(patch).__name__}, expected a list of at most {_MAX_OPERATIONS} operations")
    value = copy.deepcopy(target)
    for index, step in enumerate(patch):
        if not isinstance(step, Mapping) or not isinstance(step.get("path"), str) or step.get("op") not in _STEPS:
            raise _bad(f"found something else at [{index}], expected an object with op and path of RFC 6902")
        try:
            value = _STEPS[str(step["op"])](value, step)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise MeshError(
                ErrorCode.INVALID,
                f"operation [{index}] {step['op']} {step['path']!r} cannot be applied",
                subject="patch",
            ) from error
    return value


def _add(document: Any, pointer: str, value: Any) -> Any:
    parts = _parts(pointer)
    if not parts:
        return value
    parent = _walk(document, parts[:-1])
    if isinstance(parent, list):
        index = len(parent) if parts[-1] == "-" else _index(parts[-1], len(parent) + 1)
        parent.insert(index, value)
    else:
        parent[parts[-1]] = value
    return document


def _remove(document: Any, pointer: str) -> Any:
    parts = _parts(pointer)
    parent = _walk(document, parts[:-1])
    del parent[_index(parts[-1], len(parent)) if isinstance(parent, list) else parts[-1]]
    return document


def _replace(document: Any, step: Mapping[str, Any]) -> Any:
    if step["path"]:
        _remove(document, step["path"])
    return _add(document, step["path"], step["value"])


def _move(document: Any, step: Mapping[str, Any]) -> Any:
    value = _walk(document, _parts(step["from"]))
    return _add(_remove(document, step["from"]), step["path"], value)


def _copy(document: Any, step: Mapping[str, Any]) -> Any:
    return _add(document, step["path"], copy.deepcopy(_walk(document, _parts(step["from"]))))


def _test(document: Any, step: Mapping[str, Any]) -> Any:
    if _walk(document, _parts(step["path"])) != step["value"]:
        raise ValueError("the test does not hold")
    return document


_STEPS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "add": lambda document, step: _add(document, step["path"], copy.deepcopy(step["value"])),
    "remove": lambda document, step: _remove(document, step["path"]),
    "replace": _replace,
    "move": _move,
    "copy": _copy,
    "test": _test,
}


def _parts(pointer: str) -> list[str]:
    if pointer and not pointer.startswith("/"):
        raise ValueError(pointer)
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _walk(document: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        document = document[_index(part, len(document)) if isinstance(document, list) else part]
    return document


def _index(text: str, bound: int) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= bound or (len(text) > 1 and text[0] == "0"):
        raise IndexError(text)
    return int(text)


def _bad(message: str) -> MeshError:
    return MeshError(ErrorCode.UNREADABLE, message, subject="patch")
