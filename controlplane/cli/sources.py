"""What `-f` names: files, folders and standard input, read into documents that know where they stand.

Owns:   finding the files, their order, the namespace of `-n`, the place that an error names.
Not:    YAML and JSON (controlplane.policy.manifests), what the documents mean (the server).
Invariant: nothing is sent before everything was read.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlplane.cli.refusals import Cause, Refusal
from controlplane.cli.resources import kind_of_manifest
from controlplane.policy.manifests import MAX_TEXT_BYTES, Document, load_documents
from mesh.errors import ErrorCode, MeshError

_SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "standard input"


@dataclass(frozen=True, slots=True)
class Batch:
    """The documents of one command, in order."""

    documents: tuple[Document, ...]

    @property
    def manifests(self) -> list[Any]:
        """What is sent."""
        return [document.value for document in self.documents]

    def explain(self, refusal: Refusal) -> list[str]:
        """Each cause with file, line, document and field."""
        return [self._line(cause) for cause in refusal.causes]

    def _line(self, cause: Cause) -> str:
        if not 0 <= cause.document < len(self.documents):
            return ": ".join(part for part in (cause.object, cause.field, cause.message) if part)
        document = self.documents[cause.document]
        return ": ".join(
            part for part in (place(document, cause.field), cause.object, cause.field, cause.message) if part
        )


def place(document: Document, field: str = "") -> str:
    """`reviews.yaml:12 (document 2)`, with the line of the field."""
    item = f", {document.item}" if document.item else ""
    return f"{document.source}:{document.line_of(field)} (document {document.index + 1}{item})"


def read_batch(paths: Sequence[str], *, recursive: bool = False, namespace: str = "") -> Batch:
    """Every document of every path. `namespace` is given to those without. Raises UNREADABLE, SETTINGS."""
    if list(paths).count("-") > 1:
        raise MeshError(ErrorCode.SETTINGS, "found - twice, expected it once", subject="-f")
    documents = [
        document
        for path in paths
        for source, text in _texts(path, recursive=recursive)
        for document in load_documents(text, source=source)
    ]
    if not documents:
        raise MeshError(ErrorCode.UNREADABLE, "found no object", subject=", ".join(paths))
    for document in documents:
        _check(document, namespace)
    return Batch(tuple(documents))


def _texts(path: str, *, recursive: bool) -> Iterator[tuple[str, str]]:
    if path == "-":
        yield STDIN, _text(STDIN, sys.stdin.buffer.read(MAX_TEXT_BYTES + 1))
        return
    found = Path(path)
    try:
        files = sorted(_below(found, recursive=recursive)) if found.is_dir() else [found]
        if not files:
            hint = "" if recursive else "-R looks into its folders too"
            raise MeshError(ErrorCode.UNREADABLE, f"found no file *{', *'.join(_SUFFIXES)}", subject=path, hint=hint)
        for file in files:
            with file.open("rb") as stream:
                yield str(file), _text(str(file), stream.read(MAX_TEXT_BYTES + 1))
    except OSError as error:
        raise MeshError(
            ErrorCode.UNREADABLE, f"cannot read: {error.strerror}", subject=error.filename or path
        ) from error


def _below(folder: Path, *, recursive: bool) -> Iterator[Path]:
    for path in folder.rglob("*") if recursive else folder.iterdir():
        if path.suffix in _SUFFIXES and path.is_file():
            yield path


def _text(source: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MeshError(ErrorCode.UNREADABLE, f"line {line}: found bytes that are not UTF-8", subject=source) from error


def _check(document: Document, namespace: str) -> None:
    if not isinstance(document.value, dict):
        raise MeshError(
            ErrorCode.UNREADABLE,
            f"found {type(document.value).__name__}, expected an object with apiVersion, kind and metadata",
            subject=place(document),
        )
    metadata = document.value.get("metadata")
    kind = kind_of_manifest(document.value)
    if not namespace or not isinstance(metadata, dict) or kind is None or not kind.namespaced:
        return
    if metadata.setdefault("namespace", namespace) != namespace:
        raise MeshError(
            ErrorCode.INVALID,
            f"found {metadata['namespace']!r}, but -n says {namespace!r}",
            subject=f"{place(document, 'metadata.namespace')}: metadata.namespace",
        )
