"""`meshctl events`: what happened lately: proxies that came and went, refused configuration, ejections."""

import argparse
from collections.abc import Sequence

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Filters, `-o`."""
    parser.add_argument("--type", default="", help="only this type, such as ConfigRejected")
    parser.add_argument("--subject", default="", help="only what is about this, such as 'node node-1'")
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the events, oldest first."""
    return show(arguments, "events", render, keep=lambda item: _wanted(item, arguments))


def _wanted(item: Item, arguments: argparse.Namespace) -> bool:
    return arguments.type in ("", item["type"]) and arguments.subject in item["subject"]


def render(events: Sequence[Item], _: Terminal) -> str:
    """A row per event."""
    if not events:
        return "no event\n"
    rows = [(state.age(item["at"]), item["type"], item["subject"], item["message"]) for item in events]
    return table(("age", "type", "subject", "message"), rows)
