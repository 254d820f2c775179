"""The manifests of a batch: admission of all of them with every problem named, and what they name to be deleted.

Owns:   Document, where its fields stand, one object twice in a batch.
Not:    reading bodies (exchange), admission of one object (changes), committing (writes).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from controlplane.api.changes import Admission, Delete, admit_manifest, name_of
from controlplane.api.errors import FieldProblem, InvalidObjects
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.policy.syntax import is_lower_dns_label
from controlplane.store.keys import ObjectKey
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import ObjectRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One manifest of a batch; `index` counts from 0, `line` is where it begins, 0 = unknown.

    `line_of` gives the line of a field by its path, or of the nearest thing around it.
    """

    manifest: Mapping[str, Any]
    index: int = 0
    line: int = 0
    line_of: Callable[[str], int] | None = None

    def problem(self, field: str, message: str, name: str = "") -> FieldProblem:
        """What is wrong with a field of it, and where."""
        line = self.line_of(field) if self.line_of is not None else self.line
        return FieldProblem(field=field, message=message, object=name, document=self.index, line=line)


def check_batch(documents: Sequence[Document], namespace: str) -> None:
    """Raise UNREADABLE for a batch without objects, or a namespace that is none."""
    if not documents:
        raise MeshError(ErrorCode.UNREADABLE, "found no object, expected at least one", subject="body")
    if not is_lower_dns_label(namespace):
        raise MeshError(ErrorCode.UNREADABLE, f"found {namespace[:64]!r}, expected a DNS label", subject="namespace")


def admit_all(documents: Sequence[Document], namespace: str, *, strict: bool) -> list[Admission]:
    """Every document's admission, or every problem of all of them."""
    check_batch(documents, namespace)
    problems: list[FieldProblem] = []
    admissions: list[Admission] = []
    first: dict[ObjectKey, Document] = {}
    for document in documents:
        try:
            admission = admit_manifest(
                document.manifest, namespace=namespace, strict=strict, document=document.index, line=document.line
            )
        except InvalidObjects as error:
            problems.extend(_located(problem, document) for problem in error.problems)
            continue
        problems += _twice(first, admission.key, document, str(admission.object.ref))
        admissions.append(admission)
    if problems:
        raise InvalidObjects(problems)
    return admissions


def deletions(documents: Sequence[Document], namespace: str, *, missing_ok: bool) -> list[Delete]:
    """What the documents name, to be deleted in whatever version it is; only their heads are read."""
    check_batch(documents, namespace)
    problems: list[FieldProblem] = []
    found: list[Delete] = []
    first: dict[ObjectKey, Document] = {}
    for document in documents:
        manifest = document.manifest
        kind = KINDS.by_api_version(str(manifest.get("apiVersion")), str(manifest.get("kind")))
        metadata = manifest.get("metadata")
        name = metadata.get("name") if isinstance(metadata, Mapping) else None
        if kind is None:
            problems.append(document.problem("kind", _unknown(manifest), name_of(manifest, namespace)))
        elif not isinstance(metadata, Mapping) or not isinstance(name, str) or not name:
            problems.append(document.problem("metadata.name", f"found {name!r}, expected a name", kind.kind))
        else:
            delete = _deletion(kind, metadata, namespace, missing_ok=missing_ok)
            problems += _twice(first, delete.key, document, str(delete.ref))
            found.append(delete)
    if problems:
        raise InvalidObjects(problems)
    return found


def _deletion(kind: KindInfo, metadata: Mapping[str, Any], namespace: str, *, missing_ok: bool) -> Delete:
    own = str(metadata.get("namespace") or namespace) if kind.namespaced else ""
    name = str(metadata["name"])
    return Delete(
        key=ObjectKey(kind.group, kind.plural, own, name),
        ref=ObjectRef(kind.group, kind.kind, own, name),
        missing_ok=missing_ok,
    )


def _unknown(manifest: Mapping[str, Any]) -> str:
    return f"found {manifest.get('apiVersion')!s} {manifest.get('kind')!s}, expected a served kind"[:256]


def _twice(
    first: dict[ObjectKey, Document], key: ObjectKey, document: Document, name: str
) -> list[FieldProblem]:  # fmt: skip
    earlier = first.setdefault(key, document)
    if earlier is document:
        return []
    message = f"found the object twice, in documents {earlier.index} and {document.index}, expected once"
    problem = FieldProblem(
        field="metadata.name", message=message, object=name, document=document.index, line=document.line
    )  # fmt: skip
    return [problem]


def _located(problem: FieldProblem, document: Document) -> FieldProblem:
    return replace(problem, line=document.line_of(problem.field)) if document.line_of is not None else problem
