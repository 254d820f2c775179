"""`meshctl diff`: what apply would change, as a unified diff: object by object, or at the proxies.

Owns:   which objects differ, the text that is compared.
Not:    what an object becomes: the server's dry run says it; what proxies would get: its /mesh/v1/diff.
Exit codes: 0 no difference, 1 differences, 2 it could not be compared.
"""

import argparse
import difflib
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DIFFERENT, EXIT_DONE, EXIT_NOT_COMPARED
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.commands.apply import post, show_refusal
from controlplane.cli.output.documents import as_yaml
from controlplane.cli.output.tables import one_line
from controlplane.cli.output.terminal import BAD, FAINT, GOOD, STRONG, Terminal, terminal_of
from controlplane.cli.refusals import Refusal
from controlplane.cli.resources import collection_path, object_path
from controlplane.cli.sources import Batch, read_batch
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.policy.secret import redacted
from mesh.errors import ErrorCode, MeshError

EPILOG = """\
examples:
  meshctl diff -f reviews.yaml              the objects, as they are and as they would be
  meshctl diff -f reviews.yaml --proxies    the xDS resources of each proxy that would change

exit codes: 0 no difference; 1 differences; 2 it could not be compared"""
# What the server alone writes says nothing about what the user changes.
_SERVER_METADATA = ("uid", "resourceVersion", "creationTimestamp", "generation")
_STYLES = (("---", STRONG), ("+++", STRONG), ("@@", FAINT), ("-", BAD), ("+", GOOD))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-f`."""
    flags.add_files(parser, required=True)
    flags.add_namespace(parser)
    parser.add_argument("--proxies", action="store_true", help="what would change at which proxies, not at the objects")
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the differences."""
    try:
        batch = read_batch(arguments.filename, recursive=arguments.recursive, namespace=arguments.namespace)
        work = _diff_proxies if arguments.proxies else _diff
        return run_with_client(arguments, lambda client: work(client, batch, arguments))
    except MeshError as error:
        if error.code is ErrorCode.SETTINGS:
            raise
        print(f"meshctl: {error}", file=sys.stderr)
        return EXIT_NOT_COMPARED


async def _diff(client: Client, batch: Batch, arguments: argparse.Namespace) -> int:
    terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
    try:
        planned = await post(client, batch, namespace=arguments.namespace, dry_run=True)
    except Refusal as refusal:
        show_refusal(refusal, batch)
        return EXIT_NOT_COMPARED
    different = False
    for result, manifest in zip(planned["results"], batch.manifests, strict=True):
        kind = KINDS.by_group_kind(result["group"], result["kind"])
        if kind is None or result["action"] == "unchanged":
            continue
        before, after = await _sides(client, kind, result, manifest)
        text = unified(result["object"], before, after)
        different = different or bool(text)
        sys.stdout.write(coloured(text, terminal))
    return EXIT_DIFFERENT if different else EXIT_DONE


async def _sides(client: Client, kind: KindInfo, result: Any, manifest: Any) -> tuple[Any, Any]:
    """The object as it is (None = not there) and as it would be, both in the version that is stored."""
    namespace, name = result["namespace"], result["name"]
    dry_run = {"dryRun": "All"}
    if result["action"] == "created":
        path = collection_path(kind, namespace)
        return None, (await client.send("POST", path, query=dry_run, body=manifest)).value
    path = object_path(kind, namespace, name)
    return await client.get(path), (await client.send("PUT", path, query=dry_run, body=manifest)).value


async def _diff_proxies(client: Client, batch: Batch, arguments: argparse.Namespace) -> int:
    query = {"namespace": arguments.namespace} if arguments.namespace else {}
    try:
        found = (await client.send("POST", "/mesh/v1/diff", query=query, body=batch.manifests)).value
    except Refusal as refusal:
        show_refusal(refusal, batch)
        return EXIT_NOT_COMPARED
    for silent in found.get("silent", ()):
        print(f"Warning: {silent['replica']} does not answer; its proxies are missing here", file=sys.stderr)
    sys.stdout.write(render_proxies(found, terminal_of(sys.stdout, no_color=arguments.no_color)))
    return EXIT_DIFFERENT if found["changes"] else EXIT_DONE


def render_proxies(found: Any, terminal: Terminal) -> str:
    """Each resource that would differ with the proxies that have it, then who keeps what it has."""
    text = ""
    for change in found["changes"]:
        nodes = ", ".join(one_line(node) for node in change["nodes"])
        head = f"{change['type']} {one_line(change['name'])} {change['change']} at {nodes}"
        before, after = _resource_lines(change["before"]), _resource_lines(change["after"])
        text += terminal.paint(head, STRONG) + "\n"
        text += coloured("".join(list(difflib.unified_diff(before, after))[2:]), terminal)
    if found["unaffected"]:
        text += f"unaffected: {', '.join(one_line(node) for node in found['unaffected'])}\n"
    return text


def _resource_lines(resource: Any) -> list[str]:
    return as_yaml(_sorted(resource)).splitlines(keepends=True) if resource else []


def unified(name: str, before: Any, after: Any) -> str:
    """The diff of two manifests; empty when they say the same."""
    old = redacted(before) if before else before
    new = redacted(after, before) if after else after
    lines = difflib.unified_diff(_lines(old), _lines(new), f"live {name}", f"applied {name}")
    return "".join(lines)


def _lines(manifest: Any) -> list[str]:
    return as_yaml(users_part(manifest)).splitlines(keepends=True) if manifest else []


def users_part(manifest: Any) -> dict[str, Any]:
    """A manifest without what the server writes, its keys sorted."""
    metadata = {key: value for key, value in manifest["metadata"].items() if key not in _SERVER_METADATA}
    kept = {key: value for key, value in manifest.items() if key != "status"}
    return dict(_sorted({**kept, "metadata": metadata}))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def coloured(text: str, terminal: Terminal) -> str:
    """Each line in the colour of what it says."""
    return "".join(_line(line, terminal) + "\n" for line in text.splitlines())


def _line(line: str, terminal: Terminal) -> str:
    return next((terminal.paint(line, style) for sign, style in _STYLES if line.startswith(sign)), line)
