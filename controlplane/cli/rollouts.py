"""Staged rollouts as `meshctl` begins and follows them.

Owns:   the flags of the plan, following one until it ends, what is said meanwhile.
Not:    the commands (commands.apply, commands.rollout), when it goes on (the server).

Following ends with the rollout; to stop looking (Ctrl-C) does not stop it.
"""

import argparse
import asyncio
import sys
import time
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import state, waiting
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client
from controlplane.cli.output.tables import one_line
from controlplane.cli.output.terminal import BAD, FAINT, GOOD, Terminal, terminal_of
from mesh.errors import ErrorCode, MeshError

_LOOK_S = 1.0
_AWAY_S = 60.0  # a control plane that does not answer is asked again for so long
ACTIVE = ("Spreading", "Watching", "Finishing")


def add_stages(parser: argparse.ArgumentParser) -> None:
    """`--stage` and the plan's other flags."""
    group = parser.add_argument_group("staged rollout")
    group.add_argument(
        "--stage", metavar="STAGES", default="",
        help="give it to some proxies first: numbers of proxies, then shares, up to 100%% (1,10%%,100%%)",
    )  # fmt: skip
    group.add_argument(
        "--pause", type=flags.duration, metavar="DURATION", help="each stage is watched at least so long (30s)"
    )
    group.add_argument(
        "--min-requests", type=int, metavar="N",
        help="of the staged proxies in each stage before it is judged (100); 0 = go on without any",
    )  # fmt: skip
    group.add_argument(
        "--max-error-points", type=float, metavar="X",
        help="abort when their share of 5xx is more than X percent points above the others' (5)",
    )  # fmt: skip
    group.add_argument(
        "--wait-limit", type=flags.duration, metavar="DURATION",
        help="for acknowledgements, and beyond the pause for requests; then abort (5m)",
    )  # fmt: skip
    group.add_argument("--detach", action="store_true", help="begin it and do not follow")


async def begin(client: Client, manifests: list[Any], arguments: argparse.Namespace) -> Any:
    """The answer of POST /mesh/v1/rollouts. Raises Refusal."""
    values = {
        "stages": arguments.stage,
        "pause": _seconds(arguments.pause),
        "minRequests": arguments.min_requests,
        "maxErrorPoints": arguments.max_error_points,
        "waitLimit": _seconds(arguments.wait_limit),
        "namespace": arguments.namespace,
        "dryRun": "All" if arguments.dry_run else "",
    }
    query = {name: str(value) for name, value in values.items() if value not in (None, "")}
    return (await client.send("POST", "/mesh/v1/rollouts", query=query, body=manifests)).value


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:g}s"


async def follow(client: Client, id_: str, arguments: argparse.Namespace) -> int:
    """Show it until it ends; 0 only when it finished (with `--wait`: and every proxy has acknowledged)."""
    print(f"rollout {id_}")
    if arguments.detach:
        print(f"meshctl rollout status {id_} --follow shows it; meshctl rollout abort {id_} stops it")
        return EXIT_DONE
    found = await watch(client, id_, terminal_of(sys.stdout, no_color=arguments.no_color))
    code = end_of(found)
    if code == EXIT_DONE and arguments.wait is not None:
        return await waiting.wait(client, found["revision"], arguments.wait, no_color=arguments.no_color)
    return code


async def watch(client: Client, id_: str, terminal: Terminal) -> Any:
    """Print what happens until it ends; its last state. Raises what the server answers, or UNAVAILABLE for long."""
    screen = _Screen(terminal, live=sys.stdout.isatty())
    answered = time.monotonic()
    try:
        while True:
            try:
                found = await client.get(f"/mesh/v1/rollouts/{id_}")
                answered = time.monotonic()
            except MeshError as error:
                away = error.code in (ErrorCode.UNAVAILABLE, ErrorCode.TIMEOUT)
                if not away or time.monotonic() - answered > _AWAY_S:
                    raise
            else:
                screen.show(found)
                if found["phase"] not in ACTIVE:
                    return found
            await asyncio.sleep(_LOOK_S)
    except asyncio.CancelledError:
        screen.clear()
        print(f"meshctl: rollout {id_} goes on; 'meshctl rollout abort {id_}' stops it", file=sys.stderr)
        raise


def end_of(found: Any) -> int:
    """Say how it ended; the exit code."""
    if found["phase"] == "Aborted":
        print(f"meshctl: aborted, {found['reason']}: {one_line(found['message'])}", file=sys.stderr)
        print("meshctl: nothing was stored; every proxy has the stored configuration again", file=sys.stderr)
        return EXIT_FAILED
    if found["phase"] == "Finished":
        print(f"revision {found['revision']}")
    return EXIT_DONE


class _Screen:
    """New lines of the log as they come; on a terminal, below them, one line that changes."""

    def __init__(self, terminal: Terminal, *, live: bool) -> None:
        self._terminal = terminal
        self._live = live
        self._shown: set[tuple[str, str]] = set()

    def show(self, found: Any) -> None:
        self.clear()
        for line in found["log"]:
            if (line["at"], line["text"]) not in self._shown:
                self._shown.add((line["at"], line["text"]))
                print(f"{state.clock(line['at'])} {self._text(line['text'])}", flush=True)
        if self._live and found["phase"] in ACTIVE:
            print(self._terminal.paint(one_line(progress(found)), FAINT), end="", flush=True)

    def clear(self) -> None:
        """Take the changing line away."""
        if self._live:
            print("\r\x1b[K", end="", flush=True)

    def _text(self, text: str) -> str:
        style = BAD if text.startswith("aborted") else GOOD if text.startswith("finished") else ""
        return self._terminal.paint(one_line(text), style)


def progress(found: Any) -> str:
    """Where it stands, in one line."""
    plan, seen = found["plan"], found["progress"]
    stage = f"stage {found['stage']} of {len(plan['stages'])} ({plan['stages'][found['stage'] - 1]})"
    if seen is None or found["phase"] == "Finishing":
        return f"{stage}, {found['phase'].lower()}"
    staged = f"{seen['acknowledged']} of {seen['staged']} staged proxies have it"
    if found["phase"] == "Spreading":
        return f"{stage}, spreading: {staged}"
    own, others = seen["staged_requests"], seen["other_requests"]
    since = state.age(found["since"])
    return (
        f"{stage}, watching {since} of {plan['pause_s']:g}s: {own['requests']} of {plan['min_requests']} requests, "
        f"{own['error_ratio']:.1%} failed (others {others['error_ratio']:.1%} of {others['requests']})"
    )
