"""`meshctl config-dump NODE`: the xDS resources that a node's proxy is to have, and the objects that they come from."""

import argparse
import sys
from typing import Any
from urllib.parse import quote

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.tables import table

TYPES = ("CDS", "EDS", "LDS", "RDS", "VHDS", "SDS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`NODE`."""
    parser.add_argument("node", help="the node's name")
    parser.add_argument("--type", type=str.upper, choices=TYPES, default="", help="only resources of this type")
    parser.add_argument("--name", default="", help="only the resource of this name")
    parser.add_argument(
        "-o", "--output", choices=("json", "yaml", "table"), default="json", help="table: names, versions, sources"
    )
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration."""

    async def work(client: Client) -> int:
        asked = {"type": arguments.type, "name": arguments.name}
        query = {key: text for key, text in asked.items() if text}
        found = await client.get(f"/mesh/v1/proxies/{quote(arguments.node, safe='')}/config_dump", query)
        sys.stdout.write(render(found) if arguments.output == "table" else as_document(found, arguments.output))
        return EXIT_DONE

    return run_with_client(arguments, work)


def render(found: Any) -> str:
    """A row per resource."""
    rows = [
        (type_, item["name"], item["version"], ", ".join(source["object"] for source in item["sources"]))
        for type_, items in found["resources"].items()
        for item in items
    ]
    return table(("type", "name", "version", "from"), rows) if rows else "no resource\n"
