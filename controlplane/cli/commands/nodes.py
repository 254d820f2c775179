"""`meshctl nodes`: the nodes that have joined, and whether their proxies are connected."""

import argparse
from collections.abc import Sequence

from controlplane.cli import arguments as flags
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show

_COLUMNS = ("name", "address", "state", "sync", "instances", "dialect", "version", "locality", "outbound")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-o`."""
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the nodes."""
    return show(arguments, "nodes", render)


def render(nodes: Sequence[Item], terminal: Terminal) -> str:
    """A row per node."""
    if not nodes:
        return "no node has joined: meshctl token create --node NAME makes a token for one\n"
    return table(_COLUMNS, [_row(item) for item in nodes], terminal=terminal, states=("state", "sync"))


def _row(node: Item) -> tuple[str, ...]:
    return (
        node["name"],
        node["address"],
        "connected" if node["connected"] else "away",
        node["sync"],
        str(node["instances"]),
        node["dialect"],
        node["version"],
        node["locality"],
        node["outbound"],
    )
