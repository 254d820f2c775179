"""`meshctl token create|list|revoke`: join tokens for nodes.

Invariant: a token's text goes to standard output or to a file of mode 0600, once, and nowhere else.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.bootstrap.files import write_private
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show
from mesh.errors import ErrorCode, MeshError

EPILOG = """\
examples:
  meshctl token create --node node-1 --output-file join-token
  meshctl token create --node 'edge-*' --namespaces shop,default --service-accounts web --uses 10 --ttl 12h"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="make a token; it is shown this once")
    create.add_argument("--node", required=True, help="the node's name, or a prefix with * behind it")
    create.add_argument(
        "--namespaces",
        "--namespace",
        action="append",
        metavar="NAMES",
        help="that its workloads may be of (default default)",
    )
    create.add_argument(
        "--service-accounts",
        "--service-account",
        action="append",
        metavar="NAMES",
        help="that they may have (default any)",
    )
    create.add_argument("--ttl", type=flags.duration, default=3600.0, metavar="DURATION", help="(default 1h)")
    create.add_argument("--uses", type=int, default=1, help="how many nodes may join with it (default 1)")
    create.add_argument("--output-file", type=Path, metavar="FILE", help="write it there (0600), print nothing")
    flags.add_connection(create)
    listing = actions.add_parser("list", help="the tokens, without their secrets")
    flags.add_output(listing)
    flags.add_connection(listing)
    revoke = actions.add_parser("revoke", help="delete a token; nodes that have joined with it stay")
    revoke.add_argument("id", nargs="+", help="the token's id: its first part")
    flags.add_connection(revoke)


def run(arguments: argparse.Namespace) -> int:
    """Create, list or revoke."""
    if arguments.action == "list":
        return show(arguments, "tokens", render)
    work = _create if arguments.action == "create" else _revoke
    return run_with_client(arguments, lambda client: work(client, arguments))


async def _create(client: Client, arguments: argparse.Namespace) -> int:
    body = {
        "node": arguments.node,
        "namespaces": flags.names(arguments.namespaces) or ["default"],
        "service_accounts": flags.names(arguments.service_accounts) or ["*"],
        "ttl_s": int(arguments.ttl),
        "uses": arguments.uses,
    }
    if arguments.output_file is not None and arguments.output_file.is_dir():
        raise MeshError(ErrorCode.SETTINGS, f"{arguments.output_file} is a folder", subject="--output-file")
    made = (await client.send("POST", "/mesh/v1/tokens", body=body)).value
    if arguments.output_file is None:
        print(made["token"])
    else:
        write_private(arguments.output_file, f"{made['token']}\n".encode())
        print(
            f"token {made['id']} for {made['node']}, until {made['expires']}: {arguments.output_file}", file=sys.stderr
        )
    return EXIT_DONE


async def _revoke(client: Client, arguments: argparse.Namespace) -> int:
    for text in arguments.id:
        token_id = text.partition(".")[0]  # of a whole token only the id is sent
        await client.send("DELETE", f"/mesh/v1/tokens/{quote(token_id, safe='')}")
        print(f"token {token_id} revoked")
    return EXIT_DONE


def render(tokens: Sequence[Item], _: Terminal) -> str:
    """A row per token."""
    if not tokens:
        return "no token\n"
    rows = [
        (
            item["id"],
            item["node"],
            ",".join(item["namespaces"]),
            ",".join(item["service_accounts"]),
            str(item["uses_left"]),
            state.left(item["expires"]),
            item["created_by"],
            ",".join(item["redeemed_by"]),
        )
        for item in tokens
    ]
    return table(("id", "node", "namespaces", "service accounts", "uses left", "expires in", "by", "used by"), rows)
