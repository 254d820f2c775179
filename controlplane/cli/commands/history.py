"""`meshctl history`: who changed what, and what one revision changed.

Owns:   the list, the diff of one change.
Not:    what is kept and for how long (the server).
"""

import argparse
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.commands.diff import coloured
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.tables import one_line, pairs, table
from controlplane.cli.output.terminal import Terminal, terminal_of
from controlplane.cli.resources import wanted_of
from controlplane.cli.state import Item
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, ObjectRef

EPILOG = """\
examples:
  meshctl history                       the latest changes, newest first
  meshctl history vs/reviews -n shop    those of one object
  meshctl history 42                    what revision 42 changed, as a diff
  meshctl rollback 42                   make everything what it was then"""
_LIMIT = 50
_SHOWN_OBJECTS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`[KIND/NAME | KIND NAME | REVISION]`."""
    parser.add_argument("what", nargs="*", metavar="KIND NAME", help="an object, or a revision for its diff")
    flags.add_namespace(parser)
    parser.add_argument("--limit", type=int, default=_LIMIT, metavar="N", help=f"at most so many ({_LIMIT}; 0 = all)")
    flags.add_output(parser, ("table", "wide", "yaml", "json"))
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the list, or one change."""
    words = arguments.what
    if len(words) == 1 and words[0].isdecimal():
        return run_with_client(arguments, lambda client: _change(client, int(words[0]), arguments))
    query = {"object": _object(words, arguments.namespace)} if words else {}
    if arguments.limit < 0:
        raise MeshError(ErrorCode.SETTINGS, f"found {arguments.limit}, expected a number from 0", subject="--limit")
    return run_with_client(arguments, lambda client: _list(client, query, arguments))


def _object(words: list[str], namespace: str) -> str:
    wanted = wanted_of(words)
    if len(wanted) != 1 or len(wanted[0].names) != 1:
        raise MeshError(ErrorCode.SETTINGS, "expected one object or one revision", subject="NAME")
    kind, own = wanted[0].kind, namespace or DEFAULT_NAMESPACE
    return str(ObjectRef(kind.group, kind.kind, own if kind.namespaced else "", wanted[0].names[0]))


async def _list(client: Client, query: dict[str, str], arguments: argparse.Namespace) -> int:
    found, more = await _pages(client, query, arguments.limit)
    if arguments.output in ("json", "yaml"):
        sys.stdout.write(as_document({"items": found}, arguments.output))
        return EXIT_DONE
    terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
    sys.stdout.write(render(found, terminal, wide=arguments.output == "wide"))
    if more:
        print("there are older changes: --limit shows more", file=sys.stderr)
    return EXIT_DONE


async def _pages(client: Client, query: dict[str, str], limit: int) -> tuple[list[Item], bool]:
    """The newest `limit` records (0 = all), and whether there are older ones."""
    found: list[Item] = []
    query = dict(query)
    while True:
        if limit:
            query["limit"] = str(min(limit - len(found), 1000))
        answer = await client.get("/mesh/v1/history", query)
        found += answer["items"]
        token = answer.get("continue", "")
        if not token or (limit and len(found) >= limit):
            return found, bool(token)
        query["continue"] = token


def render(records: list[Item], terminal: Terminal, *, wide: bool = False) -> str:
    """A row for each change; `wide` names every object and the time itself."""
    if not records:
        return "no change is recorded\n"
    columns = ("revision", "at" if wide else "age", "author", "reason", "objects")
    rows = [
        (
            record["revision"],
            record["at"] if wide else state.age(record["at"]),
            record["author"],
            record.get("reason", ""),
            _objects(record["objects"], wide=wide),
        )
        for record in records
    ]
    return table(columns, rows, terminal=terminal)


def _objects(objects: list[Item], *, wide: bool) -> str:
    shown = objects if wide else objects[:_SHOWN_OBJECTS]
    named = ", ".join(f"{item['object']} {item['action']}" for item in shown)
    return named + (f", and {len(objects) - len(shown)} more" if len(objects) > len(shown) else "")


async def _change(client: Client, revision: int, arguments: argparse.Namespace) -> int:
    change = await client.get(f"/mesh/v1/history/{revision}")
    if arguments.output in ("json", "yaml"):
        sys.stdout.write(as_document(change, arguments.output))
    else:
        sys.stdout.write(render_change(change, terminal_of(sys.stdout, no_color=arguments.no_color)))
    return EXIT_DONE


def render_change(change: Any, terminal: Terminal) -> str:
    """Who, when and why, then the diff of each object."""
    head = (
        ("Revision", str(change["revision"])),
        ("Author", one_line(change["author"])),
        ("At", f"{change['at']} ({state.age(change['at'])} ago)"),
        ("Reason", one_line(change["reason"])),
    )
    return pairs((name, value) for name, value in head if value) + render_diffs(change["objects"], terminal)


def render_diffs(objects: list[Item], terminal: Terminal) -> str:
    """What happened to each object, with its diff."""
    text = ""
    for item in objects:
        text += f"{item['object']} {terminal.word(item['action'])}\n"
        text += coloured(item["diff"], terminal)
    return text
