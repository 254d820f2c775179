"""`meshctl rollback REV`: every object as it was then, in one transaction.

Owns:   what is said about it.
Not:    what it takes (the server; meshctl history has the revisions).
"""

import argparse
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import waiting
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.commands.apply import show_results
from controlplane.cli.commands.history import render_diffs
from controlplane.cli.output.terminal import terminal_of
from mesh.errors import ErrorCode, MeshError

EPILOG = """\
examples:
  meshctl rollback 42 --dry-run    what would change, as a diff
  meshctl rollback 42 --wait       and wait until every proxy has it

A rollback is a change like any other: it has a revision of its own, and can be rolled back."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`REVISION`."""
    parser.add_argument("revision", metavar="REVISION", help="as meshctl history shows it; objects become as after it")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, change nothing")
    waiting.add_wait(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Roll back, or show what that would change."""
    if not (arguments.revision.isascii() and arguments.revision.isdigit() and int(arguments.revision)):
        raise MeshError(ErrorCode.SETTINGS, f"found {arguments.revision!r}, expected a revision", subject="REVISION")
    return run_with_client(arguments, lambda client: _rollback(client, arguments))


async def _rollback(client: Client, arguments: argparse.Namespace) -> int:
    query = {"dryRun": "All"} if arguments.dry_run else {}
    body = {"revision": int(arguments.revision)}
    done: Any = (await client.send("POST", "/mesh/v1/rollback", query=query, body=body)).value
    if not done["results"]:
        print(f"nothing has changed since revision {arguments.revision}")
        return EXIT_DONE
    if arguments.dry_run:
        terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
        sys.stdout.write(render_diffs(done["results"], terminal))
        return EXIT_DONE
    show_results(done, arguments)
    if arguments.wait is None:
        return EXIT_DONE
    return await waiting.wait(client, done["revision"], arguments.wait, no_color=arguments.no_color)
