"""`meshctl proxies`: who is connected, which of its resource types are synced, and why something was refused."""

import argparse
from collections.abc import Iterator, Sequence

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.output.tables import one_line, table
from controlplane.cli.output.terminal import BAD, WARN, Terminal
from controlplane.cli.state import Item
from controlplane.cli.views import show

# The order in which they are sent; whatever else a server names comes behind.
TYPES = ("CDS", "EDS", "LDS", "RDS", "VHDS", "SDS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`[NODE...]`."""
    parser.add_argument("node", nargs="*", help="only these nodes")
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the proxies."""
    return show(arguments, "proxies", render, keep=lambda item: not arguments.node or item["node"] in arguments.node)


def render(proxies: Sequence[Item], terminal: Terminal) -> str:
    """A row per proxy, during a rollout with whose candidate it has; then what was refused and what is held back."""
    if not proxies:
        return "no proxy is connected\n"
    present = {name for proxy in proxies for name in proxy["types"]}
    types = [name for name in (*TYPES, *sorted(present - set(TYPES))) if name in present]
    staged = any(proxy.get("rollout") for proxy in proxies)
    columns = ("node", "dialect", "xds", "sync", *types, "connected", "replica", *(("rollout",) if staged else ()))
    rows = [
        (
            proxy["node"],
            proxy["dialect"],
            "delta" if proxy["delta"] else "sotw",
            proxy["sync"],
            *(_type_cell(proxy["types"].get(name)) for name in types),
            state.age(proxy["connected_since"]),
            proxy["replica"],
            *((proxy.get("rollout", ""),) if staged else ()),
        )
        for proxy in proxies
    ]
    return table(columns, rows, terminal=terminal, states=("sync", *types)) + "".join(
        line for proxy in proxies for line in _reasons(proxy, terminal)
    )


def _type_cell(found: Item | None) -> str:
    return f"{found['state']} ({found['resources']})" if found else "-"


def _reasons(proxy: Item, terminal: Terminal) -> Iterator[str]:
    rejected, pending = terminal.paint("rejected", BAD), terminal.paint("pending", WARN)
    for name, found in sorted(proxy["types"].items()):
        head = f"{proxy['node']} {name}"
        if found["error"] and not found["rejected"]:
            yield f"{rejected}  {head}: {one_line(found['error'])}\n"
        for item in found["rejected"]:
            yield f"{rejected}  {head} {item['name']}: {one_line(item['reason'])}\n"
        for item in found["waits_for"]:
            yield f"{pending}   {head} {item['name']} waits for {item['waits_for']}\n"
    if lacks := state.unasked(proxy):
        yield f"{pending}   {proxy['node']} {lacks}\n"
