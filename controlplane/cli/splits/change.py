"""Changing the split of a service's requests: both objects in one transaction, or in a staged rollout.

Owns:   the flags, what is refused without --force, what is said, the diff of a dry run.
Not:    what the objects become (rules, subsets), admission and the transaction (the server).
Invariant: an object that somebody changed since it was read is not written over (its resourceVersion is sent along).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import rollouts, waiting
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, warn
from controlplane.cli.commands.apply import show_refusal, show_results
from controlplane.cli.commands.diff import coloured, unified
from controlplane.cli.output.tables import one_line
from controlplane.cli.output.terminal import terminal_of
from controlplane.cli.refusals import Refusal
from controlplane.cli.resources import object_path
from controlplane.cli.sources import Batch
from controlplane.cli.splits import rules, subsets, target
from controlplane.cli.splits.target import Target
from controlplane.cli.splits.wanted import Wanted
from controlplane.cli.state import Item
from controlplane.policy.kinds import VIRTUAL_SERVICE
from mesh.errors import ErrorCode, MeshError


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What would be written: (the object as it is or None, as it would be), and what is said about it."""

    objects: tuple[tuple[Item | None, Item], ...]
    where: str
    obstacles: tuple[str, ...] = ()
    concerns: tuple[str, ...] = ()

    @property
    def manifests(self) -> list[Item]:
        """What is sent."""
        return [after for _, after in self.objects]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of every change of a split."""
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME=VALUE",
        help="only for requests with this header (several: with all of them), by a rule in front of the others",
    )  # fmt: skip
    parser.add_argument(
        "--mirror", default="", metavar="SUBSET[=PERCENT]", help="send copies there; their answers are dropped"
    )
    parser.add_argument("--no-mirror", action="store_true", help="send no copies to this service any more")
    parser.add_argument("--route", default="", metavar="NAME", help="the http rule to edit: its name, or http[0]")
    parser.add_argument(
        "--virtual-service", default="", metavar="NAME", help="the VirtualService to edit, also NAMESPACE/NAME"
    )
    parser.add_argument(
        "--force", action="store_true", help="also to a subset without a healthy instance, or one that is not there"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the diff, change nothing")
    flags.add_namespace(parser)
    waiting.add_wait(parser)
    rollouts.add_stages(parser)


async def change(client: Client, wanted: Wanted, arguments: argparse.Namespace, *, whole: bool = False) -> int:
    """Make it so, and say what became of each object. `whole`: warn of rules that send requests elsewhere."""
    found = await target.find(
        client, arguments.service, arguments.namespace, virtual_service=arguments.virtual_service
    )  # fmt: skip
    planned = plan(found, wanted, route=arguments.route, whole=whole)
    await _refuse_hidden(client, planned)
    _judge(planned, force=arguments.force)
    try:
        if arguments.dry_run:
            return await _show(client, planned, arguments)
        if arguments.stage:
            return await _stage(client, planned, arguments)
        return await _store(client, planned, arguments)
    except Refusal as refusal:
        return show_refusal(refusal, Batch(()))


def plan(found: Target, wanted: Wanted, *, route: str = "", whole: bool = False) -> Change:
    """What is to be written for it. Pure. Raises INVALID for objects of a shape that it cannot edit."""
    before = rules.virtual_service_of(found)
    start = rules.new_virtual_service(found) if before is None else before
    index = rules.chosen(start, found, route)
    after, edited = rules.edited(start, found, wanted, index)
    where = rules.called(after, edited) if edited >= 0 else "one rule removed"
    remaining = rules.elsewhere(after, found, wanted, edited) if whole and not wanted.headers else ()
    objects = [pair for pair in (subsets.defining(found, wanted.named), (before, after)) if pair is not None]
    return Change(
        objects=tuple(objects),
        where=f"VirtualService {rules.name_of(after)}, {where}",
        obstacles=tuple(subsets.obstacles(found, wanted.used)),
        concerns=(*subsets.concerns(found, wanted.used), *remaining),
    )


async def _refuse_hidden(client: Client, planned: Change) -> None:
    """A new VirtualService must not replace one that is there for another purpose."""
    for before, after in planned.objects:
        if before is None and after["kind"] == VIRTUAL_SERVICE.kind:
            namespace, name = after["metadata"]["namespace"], after["metadata"]["name"]
            if await _is_there(client, object_path(VIRTUAL_SERVICE, namespace, name)):
                raise MeshError(
                    ErrorCode.ALREADY_EXISTS, "it exists, but is not for this service in the mesh",
                    subject=f"VirtualService {namespace}/{name}", hint="--virtual-service names the one to edit",
                )  # fmt: skip


async def _is_there(client: Client, path: str) -> bool:
    try:
        await client.get(path)
    except MeshError as error:
        if error.code is ErrorCode.NOT_FOUND:
            return False
        raise
    return True


def _judge(planned: Change, *, force: bool) -> None:
    warn([one_line(text) for text in planned.concerns])
    if planned.obstacles and not force:
        raise MeshError(
            ErrorCode.INVALID, one_line("; ".join(planned.obstacles)), hint="--force sends requests there all the same"
        )
    warn([one_line(text) for text in planned.obstacles])


async def _post(client: Client, manifests: Sequence[Item], *, dry_run: bool = False) -> Any:
    query = {"dryRun": "All"} if dry_run else {}
    return (await client.send("POST", "/mesh/v1/batch", query=query, body=list(manifests))).value


async def _show(client: Client, planned: Change, arguments: argparse.Namespace) -> int:
    done = await _post(client, planned.manifests, dry_run=True)
    terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
    print(planned.where)
    for text in _diffs(planned):
        sys.stdout.write(coloured(text, terminal))
    for result in done["results"]:
        warn([one_line(warning) for warning in result["warnings"]])
    return EXIT_DONE


def _diffs(planned: Change) -> Iterator[str]:
    for before, after in planned.objects:
        yield unified(f"{after['kind']} {rules.name_of(after)}", before, after)


async def _stage(client: Client, planned: Change, arguments: argparse.Namespace) -> int:
    begun = await rollouts.begin(client, planned.manifests, arguments)
    print(planned.where)
    show_results({**begun, "revision": 0}, arguments)
    if begun["rollout"] is None:
        return EXIT_DONE
    return await rollouts.follow(client, begun["rollout"]["id"], arguments)


async def _store(client: Client, planned: Change, arguments: argparse.Namespace) -> int:
    done = await _post(client, planned.manifests)
    print(planned.where)
    show_results(done, arguments)
    if all(result["action"] == "unchanged" for result in done["results"]):
        return EXIT_DONE
    print(f"meshctl rollback {done['revision'] - 1} undoes it")
    if arguments.wait is None:
        return EXIT_DONE
    return await waiting.wait(client, done["revision"], arguments.wait, no_color=arguments.no_color)
