"""`meshctl ca status|rotate|abort`: the mesh's roots, and replacing the one that signs."""

import argparse
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.tables import pairs, table

_PATH = "/mesh/v1/certificates/rotation"
_PHASES = {
    "Distributing": "the new root is given to every proxy; the old one signs",
    "Signing": "the new root signs; the old one is trusted until what it signed has expired",
}
EPILOG = """\
examples:
  meshctl ca rotate    a new root beside the present one; the rest goes by itself
  meshctl ca status    how far it is

It takes a little more than twice the life of a certificate (24h unless certificate_ttl_s says otherwise)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="the roots, and the rotation that is under way")
    flags.add_output(status)
    flags.add_connection(status)
    for action, what in (("rotate", "replace the root that signs"), ("abort", "as long as the new root does not sign")):
        flags.add_connection(actions.add_parser(action, help=what))


def run(arguments: argparse.Namespace) -> int:
    """The sub-command."""
    work = _status if arguments.action == "status" else _change
    return run_with_client(arguments, lambda client: work(client, arguments))


async def _status(client: Client, arguments: argparse.Namespace) -> int:
    found: Any = await client.get("/mesh/v1/certificates")
    shown = {name: found[name] for name in ("trust_domain", "roots", "rotation")}
    sys.stdout.write(render(shown) if arguments.output == "table" else as_document(shown, arguments.output))
    return EXIT_DONE


async def _change(client: Client, arguments: argparse.Namespace) -> int:
    method = "POST" if arguments.action == "rotate" else "DELETE"
    found: Any = (await client.send(method, _PATH)).value
    if arguments.action == "rotate":
        print(f"root {found['new']} will replace {found['old']}; meshctl ca status shows how far it is")
    else:
        print(f"root {found['new']} is dropped; {found['old']} signs as before")
    return EXIT_DONE


def render(found: Any) -> str:
    """The roots, the signing one first, and what is under way."""
    rows = [(root["fingerprint_sha256"][:16], root["subject"], root["not_after"]) for root in found["roots"]]
    text = table(("root", "subject", "until"), rows)
    rotation = found["rotation"]
    if rotation is None:
        return text
    head = [
        ("Rotation", f"{rotation['old']} to {rotation['new']}, by {rotation['author']}"),
        ("Phase", f"{rotation['phase']}, for {state.age(rotation['since'])}: {_PHASES[rotation['phase']]}"),
    ]
    return f"{text}\n{pairs(head)}"
