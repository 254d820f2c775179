"""`meshctl rollout status|list|promote|abort`: staged rollouts that `meshctl apply --stage` began.

Exit codes of `status`: 0 under way or finished; 1 aborted.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from controlplane.cli import arguments as flags
from controlplane.cli import rollouts, state
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.tables import one_line, pairs, table
from controlplane.cli.output.terminal import Terminal, terminal_of
from controlplane.cli.state import Item
from controlplane.cli.views import show
from mesh.errors import ErrorCode, MeshError

EPILOG = """\
examples:
  meshctl rollout status --follow    the newest one, until it ends
  meshctl rollout promote            on to the next stage, whatever the pause and the requests say
  meshctl rollout abort              every proxy gets the stored configuration again

Without an ID: the one that is under way, for status the newest."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="how far it is, and why it ended")
    status.add_argument("id", nargs="?", default="", metavar="ID")
    status.add_argument("--follow", action="store_true", help="until it ends")
    flags.add_output(status)
    flags.add_connection(status)
    listing = actions.add_parser("list", help="those that are kept, newest first")
    flags.add_output(listing)
    flags.add_connection(listing)
    for action, what in (("promote", "on to the next stage now"), ("abort", "take the candidate away from everybody")):
        verb = actions.add_parser(action, help=what)
        verb.add_argument("id", nargs="?", default="", metavar="ID")
        flags.add_connection(verb)


def run(arguments: argparse.Namespace) -> int:
    """The sub-command."""
    if arguments.action == "list":
        return show(arguments, "rollouts", render_list)
    work = _status if arguments.action == "status" else _move
    return run_with_client(arguments, lambda client: work(client, arguments))


async def _status(client: Client, arguments: argparse.Namespace) -> int:
    id_ = arguments.id or await _newest(client, active=False)
    terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
    if arguments.follow and arguments.output == "table":
        return rollouts.end_of(await rollouts.watch(client, quote(id_, safe=""), terminal))
    found = await client.get(f"/mesh/v1/rollouts/{quote(id_, safe='')}")
    if arguments.output == "table":
        sys.stdout.write(render(found, terminal))
    else:
        sys.stdout.write(as_document(found, arguments.output))
    return EXIT_FAILED if found["phase"] == "Aborted" else EXIT_DONE


async def _move(client: Client, arguments: argparse.Namespace) -> int:
    id_ = arguments.id or await _newest(client, active=True)
    moved: Any = (await client.send("POST", f"/mesh/v1/rollouts/{quote(id_, safe='')}/{arguments.action}")).value
    print(f"rollout {id_}: {one_line(moved['log'][-1]['text'])}")
    return EXIT_DONE


async def _newest(client: Client, *, active: bool) -> str:
    found = await state.items(client, "rollouts")
    wanted = [item for item in found if not active or item["phase"] in rollouts.ACTIVE]
    if not wanted:
        what = "no rollout is under way" if active else "there was no rollout yet"
        raise MeshError(ErrorCode.NOT_FOUND, what, subject="rollout", hint="meshctl apply --stage begins one")
    return str(wanted[0]["id"])


def render_list(found: Sequence[Item], terminal: Terminal) -> str:
    """A row per rollout."""
    if not found:
        return "there was no rollout yet\n"
    rows = [
        (
            item["id"],
            item["phase"],
            item["reason"],
            f"{item['stage']}/{len(item['plan']['stages'])}",
            item["author"],
            state.age(item["log"][0]["at"]) if item["log"] else "",
            ", ".join(own["object"] for own in item["objects"]),
        )
        for item in found
    ]
    return table(("id", "phase", "reason", "stage", "author", "age", "objects"), rows, terminal=terminal)


def render(found: Any, terminal: Terminal) -> str:
    """Where it stands and what has happened."""
    plan = found["plan"]
    head = [
        ("Rollout", found["id"]),
        ("Phase", " ".join(part for part in (found["phase"], found["reason"]) if part)),
        ("Objects", ", ".join(f"{item['object']} {item['action']}" for item in found["objects"])),
        ("Stages", ", ".join(plan["stages"])),
        (
            "Judged by",
            f"{plan['pause_s']:g} s and {plan['min_requests']} requests a stage, "
            f"at most {plan['max_error_points']:g} points more errors than the others",
        ),
    ]
    if found["phase"] in rollouts.ACTIVE:
        head.append(("Now", one_line(rollouts.progress(found))))
    if found["message"]:
        head.append(("Why", one_line(found["message"])))
    if found["revision"]:
        head.append(("Revision", str(found["revision"])))
    rows = [(state.clock(line["at"]), line["text"]) for line in found["log"]]
    return pairs(head) + "\n" + table(("time", "what"), rows, terminal=terminal)
