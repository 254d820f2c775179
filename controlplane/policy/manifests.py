"""Files of manifests: YAML and JSON, many documents, every field with its line.

Owns:   reading text into documents (decision 32), and finding the line of a field.
Not:    what the documents mean (controlplane.policy.admission).
Source: YAML 1.2's core schema for plain scalars: `yes`, `on` and `22:22` are strings, 010 is ten. Anchors, aliases and
        `<<` are taken, since Kubernetes' tools take them.
Differs: built on PyYAML's events, not on its constructor: a key that stands twice is refused, aliases cannot grow a
        small file into a large one, and nesting is limited.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from controlplane.policy.scalars import shown
from mesh.errors import ErrorCode, MeshError

MAX_TEXT_BYTES = 32 * 1024 * 1024
MAX_DOCUMENTS = 10_000
MAX_VALUES = 500_000  # in one document, aliases expanded
MAX_DEPTH = 64

# The C parser is ten times as fast; a build of PyYAML without it works too.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"null|Null|NULL|~|")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,4000}|0o[0-7]{1,4000}|0x[0-9a-fA-F]{1,4000}", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_PLAIN = "tag:yaml.org,2002:"
_JSON = re.compile(r"\s*(#[^\n]*\n\s*)*[\[{]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document. `index` counts from 0 in its source, `line` from 1; `item` is "items[3]" inside a List."""

    source: str
    index: int
    line: int
    value: Any
    item: str = ""
    lines: dict[str, int] = field(default_factory=dict, repr=False, compare=False)  # {dotted path: line}

    def line_of(self, path: str) -> int:
        """The line of a field by its path (`spec.http[0].route`), or of the nearest thing around it."""
        wanted = _dotted(f"{self.item}.{path}" if self.item and path else path or self.item)
        while wanted:
            if wanted in self.lines:
                return self.lines[wanted]
            wanted = wanted.rpartition(".")[0]
        return self.line

    @property
    def where(self) -> str:
        """`file:line`, for messages."""
        return f"{self.source}:{self.line}"


def _dotted(path: str) -> str:
    """A path with its indices and keys as if they were fields: `http[0].headers[a]` is `http.0.headers.a`."""
    return path.replace("[", ".").replace("]", "")


def load_documents(text: str, *, source: str) -> list[Document]:
    """Read YAML or JSON; empty documents are left out, a `List` becomes its items.

    Raises MeshError UNREADABLE that names the source, the document, line and column.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise _unreadable(source, 0, 1, f"found {len(text)} characters, expected at most {MAX_TEXT_BYTES}")
    documents = _json_documents(text, source) if _JSON.match(text) else None
    if documents is None:
        documents = list(_Reader(text, source).documents())
    return [item for document in documents for item in _items(document)]


def _items(document: Document) -> Iterator[Document]:
    value = document.value
    if not (isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list)):
        yield document
        return
    for number, item in enumerate(value["items"]):
        path = f"items[{number}]"
        yield Document(
            source=document.source,
            index=document.index,
            line=document.line_of(path),
            value=item,
            item=path,
            lines=document.lines,
        )


def _unreadable(source: str, index: int, line: int, message: str, *, column: int = 0, hint: str = "") -> MeshError:
    place = f"line {line}" + (f", column {column}" if column else "")
    return MeshError(ErrorCode.UNREADABLE, f"document {index + 1}, {place}: {message}", subject=source, hint=hint)


def _json_documents(text: str, source: str) -> list[Document] | None:
    """One or more JSON values, or None when the text is YAML after all (flow style)."""
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_constant)
    documents: list[Document] = []
    position = len(text) - len(text.lstrip())
    while position < len(text):
        try:
            value, end = decoder.raw_decode(text, position)
            plain = _without_duplicates(value)
        except _DuplicateKey as error:
            line = text.count("\n", 0, position) + 1
            raise _unreadable(
                source, len(documents), line, f"found the key {shown(error.key)} twice in one object, expected it once"
            ) from None
        except (ValueError, RecursionError):
            return None
        line = text.count("\n", 0, position) + 1
        lines = _json_lines(text[position:end], line)
        documents.append(Document(source=source, index=len(documents), line=line, value=plain, lines=lines))
        position = end + len(text[end:]) - len(text[end:].lstrip())
    return documents


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, still with their duplicates."""


class _DuplicateKey(ValueError):
    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _no_constant(name: str) -> float:
    raise ValueError(f"found {name}, which is no JSON")


def _without_duplicates(value: Any) -> Any:
    if isinstance(value, _Pairs):
        plain: dict[str, Any] = {}
        for key, item in value:
            if key in plain:
                raise _DuplicateKey(key)
            plain[key] = _without_duplicates(item)
        return plain
    return [_without_duplicates(item) for item in value] if isinstance(value, list) else value


def _json_lines(text: str, first_line: int) -> dict[str, int]:
    """Lines of the fields of one JSON value. JSON is YAML but for its tabs, which no string of it may hold."""
    try:
        document = next(_Reader(text.replace("\t", " "), "").documents(), None)
    except MeshError:
        # The values were read already; without lines a message names the document's first.
        return {}
    return {} if document is None else {path: line + first_line - 1 for path, line in document.lines.items()}


@dataclass(slots=True)
class _Anchored:
    value: Any
    size: int


class _Reader:
    """Builds documents from PyYAML's events."""

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self._source = source
        self._index = 0
        self._line = 1
        self._values = 0
        self._lines: dict[str, int] = {}
        self._anchors: dict[str, _Anchored] = {}
        self._events: Iterator[Any] = iter(())

    def documents(self) -> Iterator[Document]:
        """Every document that holds something, in order."""
        try:
            self._events = yaml.parse(self._text, Loader=_LOADER)
            for event in self._events:
                if isinstance(event, yaml.DocumentStartEvent):
                    document = self._document()
                    if document.value is not None:
                        yield document
                    self._index += 1
        except yaml.MarkedYAMLError as error:
            raise self._unreadable(error) from error
        except yaml.YAMLError as error:
            raise self._fail(self._line, str(error).splitlines()[0][:200]) from error
        except (ValueError, RecursionError) as error:
            raise self._fail(self._line, f"found {str(error)[:200]}, expected YAML or JSON") from error

    def _unreadable(self, error: yaml.MarkedYAMLError) -> MeshError:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.context, error.problem) if part)
        if mark is None:
            return self._fail(self._line, message)
        row = self._text.splitlines()[mark.line : mark.line + 1]
        tab = bool(row) and row[0][: mark.column + 1].endswith("\t")
        hint = "indent with blanks, not with tabs" if tab else ""
        return self._fail(mark.line + 1, message, column=mark.column + 1, hint=hint)

    def _fail(self, line: int, message: str, *, column: int = 0, hint: str = "") -> MeshError:
        return _unreadable(self._source, self._index, line, message, column=column, hint=hint)

    def _document(self) -> Document:
        if self._index >= MAX_DOCUMENTS:
            raise self._fail(self._line, f"found more than {MAX_DOCUMENTS} documents")
        self._values, self._lines, self._anchors = 0, {}, {}
        event = next(self._events)
        line = event.start_mark.line + 1
        value = self._value(event, "", 0)
        return Document(source=self._source, index=self._index, line=line, value=value, lines=self._lines)

    def _value(self, event: Any, path: str, depth: int) -> Any:
        self._line = event.start_mark.line + 1
        self._lines.setdefault(path, self._line)
        self._count(1)
        if depth > MAX_DEPTH:
            raise self._fail(self._line, f"found more than {MAX_DEPTH} levels, expected at most that many")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        before = self._values
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._check_tag(event, "seq")
            value = self._sequence(path, depth)
        else:
            self._check_tag(event, "map")
            value = self._mapping(path, depth)
        if event.anchor:
            self._anchors[event.anchor] = _Anchored(value, self._values - before + 1)
        return value

    def _count(self, more: int) -> None:
        self._values += more
        if self._values > MAX_VALUES:
            raise self._fail(
                self._line, f"found more than {MAX_VALUES} values with aliases expanded, expected at most that many"
            )

    def _alias(self, event: Any) -> Any:
        anchored = self._anchors.get(event.anchor)
        if anchored is None:
            raise self._fail(self._line, f"found the alias *{event.anchor}, expected an anchor of that name before it")
        self._count(anchored.size)
        return anchored.value

    def _sequence(self, path: str, depth: int) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, f"{path}.{len(items)}", depth + 1))
        return items

    def _mapping(self, path: str, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line, is_merge = self._key(event)
            if key in own:
                raise self._fail(line, f"found the key {shown(key)} twice in one object, expected it once")
            inner = f"{path}.{_dotted(key)}" if path else _dotted(key)
            self._lines[inner] = line
            value = self._value(next(self._events), inner, depth + 1)
            if is_merge:
                self._merge(merged, value, line)
            else:
                own[key] = value
        return {**merged, **own}

    def _key(self, event: Any) -> tuple[str, int, bool]:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            key = self._alias(event)
        elif isinstance(event, yaml.ScalarEvent):
            # Numbers and booleans become the strings that they are written as, as in JSON's objects.
            key = event.value
        else:
            raise self._fail(line, "found a list or an object as a key, expected a string")
        if not isinstance(key, str):
            raise self._fail(line, f"found {shown(key)} as a key, expected a string")
        return key, line, key == "<<" and isinstance(event, yaml.ScalarEvent) and event.implicit[0]

    def _merge(self, merged: dict[str, Any], value: Any, line: int) -> None:
        for source in value if isinstance(value, list) else [value]:
            if not isinstance(source, dict):
                raise self._fail(line, f"found {shown(source)} after <<, expected an object")
            for key, item in source.items():
                merged.setdefault(key, item)

    def _scalar(self, event: Any) -> Any:
        text: str = event.value
        tag = (event.tag or "").removeprefix(_PLAIN)
        if tag == "str" or (not tag and not event.implicit[0]):
            return text
        self._check_tag(event, "null", "bool", "int", "float")
        return self._plain(text)

    def _check_tag(self, event: Any, *known: str) -> None:
        if (event.tag or "").removeprefix(_PLAIN) not in ("", "!", *known):
            raise self._fail(self._line, f"found the tag {shown(event.tag)}, expected plain YAML")

    def _plain(self, text: str) -> Any:
        if _NULL.fullmatch(text):
            return None
        if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
            return text[0] in "tT"
        if _INTEGER.fullmatch(text):
            return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL.fullmatch(text):
            raise self._fail(self._line, f"found {text}, expected a finite number")
        return text
