"""A command that shows one list of /mesh/v1, as a table or as it came."""

import argparse
import sys
from collections.abc import Callable, Sequence

from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, Query, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.terminal import Terminal, terminal_of
from controlplane.cli.state import Item

Render = Callable[[Sequence[Item], Terminal], str]


def show(
    arguments: argparse.Namespace,
    view: str,
    render: Render,
    *,
    query: Query | None = None,
    keep: Callable[[Item], bool] = lambda _: True,
) -> int:
    """Fetch, filter by `keep`, and print as `-o` asks."""

    async def work(client: Client) -> int:
        found = [item for item in await state.items(client, view, query) if keep(item)]
        if arguments.output == "table":
            sys.stdout.write(render(found, terminal_of(sys.stdout, no_color=arguments.no_color)))
        else:
            sys.stdout.write(as_document({"items": found}, arguments.output))
        return EXIT_DONE

    return run_with_client(arguments, work)
