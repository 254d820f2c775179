"""`meshctl services`: what host names stand for, and how many of their endpoints take traffic."""

import argparse
from collections.abc import Sequence

from controlplane.cli import arguments as flags
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show

_COLUMNS = ("host", "namespace", "ports", "healthy", "ejected", "from", "rules")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-n`, `-o`."""
    parser.add_argument("-n", "--namespace", default="", help="only this namespace (default: all)")
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the services."""
    return show(arguments, "services", render, keep=lambda item: arguments.namespace in ("", item["namespace"]))


def render(services: Sequence[Item], _: Terminal) -> str:
    """A row per service."""
    if not services:
        return "no service\n"
    return table(_COLUMNS, [_row(item) for item in services])


def _row(service: Item) -> tuple[str, ...]:
    count = service["endpoints"]
    ports = ",".join(f"{port['number']}/{port['protocol']}" for port in service["ports"])
    rules = ", ".join((*service["virtual_services"], *service["destination_rules"]))
    return (
        service["host"],
        service["namespace"],
        ports,
        f"{count['healthy']}/{count['total']}",
        str(count["ejected"]),
        service["definition"] or service["origin"],
        rules,
    )
