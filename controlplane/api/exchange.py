"""One HTTP exchange: what clients may send and how they want their answer, in one place.

Owns:   reading bodies (JSON, YAML), query flags, Accept; writing JSON, YAML, `Warning:` headers.
Not:    who asks (middleware), what it means (rest_objects, rest_state).
Source: Kubernetes API concepts: "Resource URIs", "Receiving resources as Tables", "Field validation", "Dry-run";
        RFC 9110 5.5 and RFC 7234 5.5 for Warning.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from aiohttp import web

from controlplane.api.documents import Document
from controlplane.api.writes import Caller
from controlplane.policy.manifests import load_documents
from mesh.errors import ErrorCode, MeshError

AUTHOR = web.RequestKey("author", str)
_WARNING_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Preferred:
    """What the client's Accept asks for. `pretty`: a person reads it in a browser."""

    table: bool = False
    yaml: bool = False
    pretty: bool = False


def preferred(request: web.Request) -> Preferred:
    """The first media type in Accept that we can serve; JSON when there is none."""
    pretty = "text/html" in request.headers.get("Accept", "").lower()
    for offer in request.headers.get("Accept", "").split(","):
        media, *parameters = (part.strip().lower() for part in offer.split(";"))
        if media in ("application/json", "*/*", "application/*"):
            wanted = dict(part.partition("=")[::2] for part in parameters)
            if wanted.get("as", "") == "table":
                return Preferred(table=True)
            if not wanted.get("as"):
                return Preferred(pretty=pretty)
        if media in ("application/yaml", "text/yaml", "application/x-yaml"):
            return Preferred(yaml=True)
    return Preferred(pretty=pretty)


def caller_of(request: web.Request, options: Mapping[str, Any] | None = None) -> Caller:
    """Author and flags. `options`: DeleteOptions in the body, which may ask for a dry run too."""
    dry_run = request.query.getall("dryRun", []) or (options or {}).get("dryRun") or []
    if any(value != "All" for value in dry_run):
        raise MeshError(ErrorCode.UNREADABLE, f"found {dry_run!r}, expected All", subject="dryRun")
    validation = request.query.get("fieldValidation", "Strict") or "Strict"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise MeshError(
            ErrorCode.UNREADABLE, f"found {validation!r}, expected Strict, Warn or Ignore", subject="fieldValidation"
        )
    return Caller(author=request[AUTHOR], dry_run=bool(dry_run), strict=validation == "Strict")


def flag(request: web.Request, name: str) -> bool:
    """A boolean query parameter; present without a value counts as true."""
    value = request.query.get(name)
    if value is None or value.lower() in ("false", "0", "no"):
        return False
    if value.lower() in ("", "true", "1", "yes"):
        return True
    raise MeshError(ErrorCode.UNREADABLE, f"found {value!r}, expected true or false", subject=name)


def number(request: web.Request, name: str, default: int = 0) -> int:
    """A whole number >= 0."""
    value = request.query.get(name, "")
    return whole(value, name) if value else default


def whole(text: str, name: str) -> int:
    """A whole number >= 0; nothing is 0."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        expected = "revision" if name == "revision" else "number"
        raise MeshError(ErrorCode.UNREADABLE, f"found {text[:40]!r}, expected a {expected}", subject=name)
    return int(text)


def duration_s(text: str, *, subject: str) -> float:
    """Seconds of `30s`, `500ms`, `2m`, `1h` or a bare number of seconds."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        if text.endswith(unit):
            digits = text.removesuffix(unit)
            try:
                value = float(digits) * factor
            except ValueError:
                continue
            if 0 <= value < 1e9:
                return value
    raise MeshError(ErrorCode.UNREADABLE, f"found {text[:40]!r}, expected a duration such as 30s", subject=subject)


async def read_manifest(request: web.Request) -> dict[str, Any]:
    """The one object in the body. Raises UNREADABLE when it is not one."""
    value = await read_value(request)
    if not isinstance(value, dict):
        raise MeshError(ErrorCode.UNREADABLE, f"found {type(value).__name__}, expected one object", subject="body")
    return value


async def read_value(request: web.Request) -> Any:
    """The one JSON or YAML document in the body."""
    documents = _documents(await request.read(), request.content_type)
    if len(documents) != 1:
        raise MeshError(
            ErrorCode.UNREADABLE,
            f"found {len(documents)} documents, expected one",
            subject="body",
            hint="POST several documents to /mesh/v1/batch",
        )
    return documents[0].manifest


async def read_documents(request: web.Request) -> list[Document]:
    """Every document in the body; a List and a JSON array count as their items."""
    return _documents(await request.read(), request.content_type, flatten=True)


def parse_documents(body: bytes, *, source: str = "body") -> list[Document]:
    """Every manifest of a YAML or JSON text, Lists flattened. Raises UNREADABLE with the line."""
    return _flattened(_loaded(body, source))


def _documents(body: bytes, content_type: str, *, flatten: bool = False) -> list[Document]:
    if "protobuf" in content_type or "cbor" in content_type:
        raise web.HTTPUnsupportedMediaType(text=f"found {content_type}, expected JSON or YAML")
    documents = _loaded(body, "body")
    return _flattened(documents) if flatten else documents


def _loaded(body: bytes, source: str) -> list[Document]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise MeshError(
            ErrorCode.UNREADABLE, f"found bytes that are not UTF-8: {error.reason}", subject=source
        ) from error
    return [
        Document(manifest=found.value, index=index, line=found.line, line_of=found.line_of)
        for index, found in enumerate(load_documents(text, source=source))
    ]


def _flattened(documents: Iterable[Document]) -> list[Document]:
    flat: list[Document] = []
    for document in documents:
        value: Any = document.manifest
        is_list = isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list)
        items = value["items"] if is_list else value if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, dict):
                raise MeshError(
                    ErrorCode.UNREADABLE,
                    f"found {type(item).__name__}, expected an object",
                    subject=f"document {document.index + 1}, line {document.line}",
                )
            # An array's items have lines of their own below it, which nobody looked up: the array's will do.
            line_of = document.line_of if item is value else None
            flat.append(Document(manifest=item, index=len(flat), line=document.line, line_of=line_of))
    return flat


def answer(
    request: web.Request,
    value: Any,
    *,
    status: int = 200,
    warnings: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """The value as JSON (indented for a browser), or YAML when the client prefers that."""
    wanted = preferred(request)
    as_yaml = wanted.yaml
    if as_yaml:
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    else:
        text = indented(value) if wanted.pretty else dumps(value)
    response = web.Response(
        text=text, status=status, content_type="application/yaml" if as_yaml else "application/json", headers=headers
    )
    for warning in _bounded(warnings):
        response.headers.add("Warning", warning)
    return response


def dumps(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def indented(value: Any) -> str:
    """JSON for people."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"


def _bounded(warnings: Iterable[str]) -> Iterable[str]:
    """As header values: 299, quoted, ASCII; together at most 4 KiB, as Kubernetes bounds them."""
    left = _WARNING_BYTES
    for warning in warnings:
        text = " ".join(warning.split()).encode("ascii", "backslashreplace").decode()
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        value = f'299 - "{quoted}"'
        left -= len(value)
        if left < 0:
            return
        yield value
