"""`meshctl breakers [NAME]`: circuit breakers on every node: their state, since when and why."""

import argparse
from collections.abc import Sequence

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show

_COLUMNS = ("name", "node", "caller", "state", "for", "opened", "why")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`[NAME]`, `-o`."""
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="NAME or NAMESPACE/NAME of a CircuitBreaker"
    )
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the breakers."""
    return show(arguments, "circuit_breakers", render, query={"breaker": arguments.name})


def render(breakers: Sequence[Item], terminal: Terminal) -> str:
    """A row per breaker and node, and per caller where each has its own."""
    if not breakers:
        return "no node has such a circuit breaker in its routes\n"
    return table(_COLUMNS, [_row(item) for item in breakers], terminal=terminal, states=("state",))


def _row(item: Item) -> tuple[str, ...]:
    caller = item["caller"].partition("/ns/")[2].replace("/sa/", "/") or item["caller"]
    name = f"{item['namespace']}/{item['name']}"
    return (name, item["node"], caller, item["state"], state.age(item["since"]), str(item["opened"]), item["why"])
