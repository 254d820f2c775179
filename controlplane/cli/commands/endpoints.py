"""`meshctl endpoints [SERVICE]`: endpoints of services: are they well, who ejects them, why and until when."""

import argparse
from collections.abc import Sequence

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show

_COLUMNS = ("service", "address", "node", "instance", "version", "health", "ejected by", "reason", "until", "notes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`[SERVICE]`, also as `--service`."""
    parser.add_argument("name", nargs="?", default="", metavar="SERVICE", help="short or full name")
    parser.add_argument("--service", default="", help="the same")
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the endpoints."""
    return show(arguments, "endpoints", render, query={"service": arguments.service or arguments.name})


def render(endpoints: Sequence[Item], terminal: Terminal) -> str:
    """A row per endpoint, or per node that ejects it."""
    if not endpoints:
        return "no endpoint\n"
    return table(_COLUMNS, [row for item in endpoints for row in _rows(item)], terminal=terminal, states=("health",))


def _rows(endpoint: Item) -> list[tuple[str, ...]]:
    head = (
        endpoint["service"],
        endpoint["address"],
        endpoint["node"],
        endpoint["id"],
        endpoint["labels"].get("version", ""),
        endpoint["health"],
    )
    notes = ", ".join(endpoint["warnings"])
    ejections = [_ejection(item) for item in endpoint["ejections"]] or [("", endpoint["health_reason"], "")]
    return [(*head, *ejection, notes) for ejection in ejections]


def _ejection(item: Item) -> tuple[str, str, str]:
    reason = item["detail"] or item["reason"]
    if not item["enforced"]:
        return f"({item['node']})", f"{reason}; not ejected: {item['blocked_by'] or 'not enforced'}", ""
    times = f", {item['times']} times in a row" if item["times"] > 1 else ""
    return item["node"], f"{reason}{times}", f"{state.clock(item['until'])}Z (in {state.left(item['until'])})"
