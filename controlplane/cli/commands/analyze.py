"""`meshctl analyze`: what is wrong with objects together: in files, in the mesh, or in the mesh with the files.

Owns:   which of the three; the places in the files; suppressing; the threshold of the exit code.
Not:    what is found: controlplane.compiler.analysis, here for files alone, in the server for the mesh.
Exit codes: 0 nothing at or above the threshold; 1 something is.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.tables import one_line, table
from controlplane.cli.output.terminal import BAD, FAINT, WARN, Terminal, terminal_of
from controlplane.cli.resources import kind_of_manifest, name_of
from controlplane.cli.sources import Batch, read_batch
from controlplane.compiler.analysis import Finding, analyse
from controlplane.compiler.messages import CATALOGUE, Severity
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.policy.admission import Rejected, admit
from controlplane.policy.manifests import Document
from controlplane.policy.objects import PolicyObject
from controlplane.settings import MeshSettings
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, ObjectRef

EPILOG = """\
examples:
  meshctl analyze                          the mesh as it is
  meshctl analyze -f policies/ -R          files alone, without a server
  meshctl analyze -f policies/ -R --live   the mesh as it would be with them
  meshctl analyze --suppress IST0173 --suppress 'IST0109=VirtualService shop/*'
  meshctl analyze --list                   every code

exit codes: 0 nothing at or above the threshold; 1 something is"""
_STYLES = {Severity.ERROR.value: BAD, Severity.WARNING.value: WARN, Severity.INFO.value: FAINT}

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Suppressed:
    """A code, or `*`, at objects whose names fit a pattern."""

    code: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> "_Suppressed":
        code, _, pattern = text.partition("=")
        if code != "*" and code not in CATALOGUE:
            raise MeshError(
                ErrorCode.SETTINGS, f"found {code[:40]!r}, expected a code", subject="--suppress",
                hint="meshctl analyze --list has them",
            )  # fmt: skip
        return cls(code, pattern or "*")

    def holds(self, item: Item) -> bool:
        return self.code in ("*", item["code"]) and fnmatchcase(item["object"], self.pattern)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-f`, `--live` and what is shown."""
    flags.add_files(parser, required=False)
    parser.add_argument("--live", action="store_true", help="lay the files over what the mesh has")
    flags.add_namespace(parser)
    parser.add_argument(
        "--suppress", "-S", action="append", default=[], metavar="CODE[=OBJECT]",
        help="leave it out, everywhere or at one object (`Kind namespace/name`, * fits anything); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--failure-threshold", choices=[item.value.lower() for item in Severity], default="error",
        help="the least severity that makes it exit 1 (default error)",
    )  # fmt: skip
    parser.add_argument(
        "--output-threshold", choices=[item.value.lower() for item in Severity], default="info",
        help="the least severity that is shown (default info)",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print every code and what it means")
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings."""
    if arguments.list:
        return _list_codes(arguments)
    suppressed = [_Suppressed.parse(text) for text in arguments.suppress]
    batch = _read(arguments)
    invalid, objects = _admitted(batch, arguments.namespace)
    if arguments.live or not arguments.filename:

        async def ask(client: Client) -> int:
            found = await _live(client, objects.values(), arguments.namespace)
            return _show([*invalid, *found], batch, objects, suppressed, arguments)

        return run_with_client(arguments, ask)
    found = [_json(item) for item in analyse(_mesh_of([item for item, _ in objects.values()]), only_files=True)]
    return _show([*invalid, *found], batch, objects, suppressed, arguments)


def _read(arguments: argparse.Namespace) -> Batch:
    if not arguments.filename:
        return Batch(())
    return read_batch(arguments.filename, recursive=arguments.recursive, namespace=arguments.namespace)


Objects = dict[ObjectRef, tuple[PolicyObject, Document]]


def _admitted(batch: Batch, namespace: str) -> tuple[list[Item], Objects]:
    """What admission would refuse, as findings; the other objects by name, the later of two of one name."""
    invalid: list[Item] = []
    objects: Objects = {}
    for document in batch.documents:
        verdict = admit(document.value, default_namespace=namespace or DEFAULT_NAMESPACE)
        if isinstance(verdict, Rejected):
            invalid += (_invalid(document, namespace, item.field, item.message) for item in verdict.violations)
        elif (earlier := objects.get(verdict.object.ref)) is not None:
            message = f"it stands a second time in {earlier[1].source}:{earlier[1].line}"
            invalid.append(_invalid(document, namespace, "metadata.name", message))
        else:
            objects[verdict.object.ref] = (verdict.object, document)
    return invalid, objects


def _invalid(document: Document, namespace: str, path: str, message: str) -> Item:
    known = CATALOGUE["IST0106"]
    kind = kind_of_manifest(document.value)
    own, name = name_of(document.value)
    word = kind.kind if kind is not None else str(document.value.get("kind") or "?")
    ref = ObjectRef(kind.group if kind is not None else "", word, own or namespace or DEFAULT_NAMESPACE, name or "?")
    found = _json(
        Finding(code=known.code, name=known.name, severity=known.severity, ref=ref, message=message, path=path)
    )
    return {**found, **_place(document, path)}


def _mesh_of(objects: Sequence[PolicyObject]) -> MeshState:
    """The files as a mesh: of two objects the earlier one counts as the older."""
    stamped = [
        item.stamped(uid=f"{number}", creation_timestamp=f"{number:08}", generation=1)
        for number, item in enumerate(objects)
    ]
    return MeshState.empty(MeshSettings.model_validate({})).with_changes(Changes(revision=1, objects=tuple(stamped)))


async def _live(client: Client, objects: Iterable[tuple[PolicyObject, Document]], namespace: str) -> list[Item]:
    query = {"namespace": namespace} if namespace else {}
    body = [item.manifest() for item, _ in objects]
    answer = await client.send("POST", "/mesh/v1/analyze", query=query, body=body)
    return list(answer.value["items"])


def _json(finding: Finding) -> Item:
    ref = finding.ref
    return {
        "code": finding.code, "type": finding.name, "severity": finding.severity.value, "object": str(ref),
        "group": ref.group, "kind": ref.kind, "namespace": ref.namespace, "name": ref.name, "path": finding.path,
        "message": finding.message,
    }  # fmt: skip


def _place(document: Document, path: str) -> Item:
    return {"file": document.source, "line": document.line_of(path), "document": document.index + 1}


# --- what is shown


def _show(
    found: Sequence[Item],
    batch: Batch,
    objects: Mapping[ObjectRef, tuple[PolicyObject, Document]],
    suppressed: Sequence[_Suppressed],
    arguments: argparse.Namespace,
) -> int:
    kept = [item for item in found if not any(rule.holds(item) for rule in suppressed)]
    if arguments.namespace:
        kept = [item for item in kept if item["namespace"] == arguments.namespace]
    placed = [_placed(item, objects) for item in kept]
    shown = [item for item in placed if _rank(item) <= _threshold(arguments.output_threshold)]
    if arguments.output == "table":
        sys.stdout.write(
            render(shown, terminal_of(sys.stdout, no_color=arguments.no_color), _subject(batch, arguments))
        )
    else:
        sys.stdout.write(as_document({"items": shown}, arguments.output))
    failed = any(_rank(item) <= _threshold(arguments.failure_threshold) for item in kept)
    return EXIT_FAILED if failed else EXIT_DONE


def _placed(item: Item, objects: Mapping[ObjectRef, tuple[PolicyObject, Document]]) -> Item:
    known = objects.get(ObjectRef(item["group"], item["kind"], item["namespace"], item["name"]))
    return item if known is None or "file" in item else {**item, **_place(known[1], item["path"])}


def _rank(item: Item) -> int:
    return Severity(item["severity"]).rank


def _threshold(word: str) -> int:
    return Severity(word.capitalize()).rank


def _subject(batch: Batch, arguments: argparse.Namespace) -> str:
    count = len(batch.documents)
    files = f"{count} {'document' if count == 1 else 'documents'}" if count else ""
    return files if files and not arguments.live else f"the mesh with {files}" if files else "the mesh"


def render(found: Sequence[Item], terminal: Terminal, subject: str) -> str:
    """A line for each: severity, code, object, where it stands, what it is; and how many there are."""
    if not found:
        return f"no finding in {subject}\n"
    lines = (
        f"{terminal.paint(item['severity'], _STYLES[item['severity']])} [{item['code']}] ({item['object']}"
        f"{_where(item)}) {_said(item)}\n"
        for item in found
    )
    counts = [(word.value.lower(), sum(item["severity"] == word.value for item in found)) for word in Severity]
    total = ", ".join(
        f"{count} {word}{'s' if count != 1 and word != 'info' else ''}" for word, count in counts if count
    )
    return "".join(lines) + f"\n{total} in {subject}\n"


def _where(item: Item) -> str:
    return f" {one_line(item['file'])}:{item['line']}" if "file" in item else ""


def _said(item: Item) -> str:
    message, path = one_line(item["message"]), item["path"]
    # Many messages begin with the field, or with the rule that it is in.
    return message if not path or message.startswith(path.split(".route", 1)[0]) else f"{path}: {message}"


def _list_codes(arguments: argparse.Namespace) -> int:
    listed = [
        {"code": item.code, "type": item.name, "severity": item.severity.value, "summary": item.summary}
        for item in CATALOGUE.values()
    ]
    if arguments.output == "table":
        rows = [tuple(item.values()) for item in listed]
        terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
        sys.stdout.write(table(("code", "type", "severity", "summary"), rows, terminal=terminal))
    else:
        sys.stdout.write(as_document({"items": listed}, arguments.output))
    return EXIT_DONE
