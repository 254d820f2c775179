"""Waiting until every proxy has a change: `--wait` of apply, delete and rollback.

Owns:   the flag, asking again until it is over, progress on a terminal, who refuses and who is silent.
Not:    what counts as acknowledged (the server).

A wait ends when every proxy has acknowledged, shortly after one refuses (so that all that refuse are named), or when
the time is over; the last two exit 1, though the change stays made.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client
from controlplane.cli.output.tables import one_line
from controlplane.cli.output.terminal import Terminal, terminal_of
from controlplane.cli.state import waiting

WAIT_S = 30.0
_ASK_S = 20.0  # of one request that waits
_ASK_WATCHED_S = 1.0  # the same while a person watches the progress
_AFTER_REJECTION_S = 1.0
_SHOWN = 20  # proxies that are named one by one


def add_wait(parser: argparse.ArgumentParser) -> None:
    """`--wait[=DURATION]`."""
    parser.add_argument(
        "--wait", nargs="?", type=flags.duration, const=WAIT_S, default=None, metavar="DURATION",
        help="until every connected proxy has acknowledged it, at most so long (30s)",
    )  # fmt: skip


async def wait(client: Client, revision: int, timeout_s: float, *, no_color: bool = False) -> int:
    """Until it is over; says who has it, who refuses it, who is silent. The exit code."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    progress = _Progress(terminal_of(sys.stdout, no_color=no_color), watched=sys.stdout.isatty())
    longest_s = _ASK_WATCHED_S if sys.stdout.isatty() else _ASK_S
    cut_short = False
    while True:
        ask_s = max(min(until - loop.time(), longest_s), 0.0)
        answer = await client.send(
            "GET",
            f"/mesh/v1/revisions/{revision}",
            query={"wait": f"{ask_s:.3f}s"},
            timeout_s=ask_s + client.server.timeout_s,
        )
        state = answer.value
        progress.show(state)
        whole = state["settled"] and not state.get("partial", False)
        if whole or loop.time() >= until:
            return _show_end(state, "yet" if cut_short else f"within {timeout_s:g} s", whole=whole)
        if state["rejected"] and loop.time() + _AFTER_REJECTION_S < until:
            until, longest_s, cut_short = loop.time() + _AFTER_REJECTION_S, _AFTER_REJECTION_S, True
        await asyncio.sleep(0.05)  # a server that does not wait must not be asked without pause


class _Progress:
    """A line for each proxy as soon as it has answered, and for what the others wait for, each said once."""

    def __init__(self, terminal: Terminal, *, watched: bool) -> None:
        self._terminal = terminal
        self._watched = watched
        self._said: set[str] = set()

    def show(self, state: Any) -> None:
        if not self._watched:
            return
        for node in state["acked"]:
            self._say(node, "acknowledged")
        for item in state["rejected"]:
            self._say(item["node"], "rejected")
        for item in state.get("waits_for", ()):
            self._say(item["node"], "pending", f": {waiting(item)}")

    def _say(self, node: str, word: str, more: str = "") -> None:
        line = f"  {one_line(node)} {word}{one_line(more)}"
        if line not in self._said and len(self._said) < _SHOWN * 5:
            self._said.add(line)
            print(f"  {one_line(node)} {self._terminal.word(word)}{one_line(more)}", flush=True)


def _show_end(state: Any, when: str, *, whole: bool) -> int:
    for item in state["rejected"]:
        for reason in item["reasons"]:
            print(f"meshctl: {item['node']} refuses {reason['name']}: {one_line(reason['reason'])}", file=sys.stderr)
    if not whole:
        silent = [f"replica {item['replica']}" for item in state.get("silent", ())]
        missing = _named([*state["pending"], *silent]) or "the control plane"
        print(f"meshctl: not acknowledged {when} by {missing}", file=sys.stderr)
        for item in state.get("waits_for", ())[:_SHOWN]:
            print(f"meshctl: {item['node']}: {waiting(item)}", file=sys.stderr)
    elif state["acked"]:
        print(f"acknowledged by {_named(state['acked'])}")
    elif not state["rejected"]:
        print("no proxy is connected")
    return EXIT_FAILED if state["rejected"] or not whole else EXIT_DONE


def _named(nodes: Iterable[str]) -> str:
    listed = list(nodes)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
