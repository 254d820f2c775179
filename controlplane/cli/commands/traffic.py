"""`meshctl traffic SERVICE [SUBSET=PERCENT ...]`: how a service's requests are split, and splitting them.

Not: what the objects become (controlplane.cli.splits), a rollout of configuration to some proxies first (`--stage`).
"""

import argparse
import sys

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.terminal import terminal_of
from controlplane.cli.splits import change, target, wanted
from controlplane.cli.splits.present import present, render
from controlplane.cli.splits.wanted import Wanted
from mesh.errors import ErrorCode, MeshError

INTERMIXED = True  # traffic reviews --header x-canary=yes v2=100
EPILOG = """\
examples:
  meshctl traffic reviews                            the present split, and each subset's live share
  meshctl traffic reviews v1=80 v2=20 --wait         a canary; then wait until every proxy has it
  meshctl traffic reviews v1=90 v2=10 --dry-run      the diff of what would change
  meshctl traffic reviews v2=100 --header x-canary=yes      v2 for requests with this header
  meshctl traffic reviews --header x-canary=yes --remove    no longer
  meshctl traffic reviews --mirror v2=10             copies of a tenth of the requests to v2

The percents add up to 100; a subset of the rule that is not named gets none. The VirtualService and, for a subset that
is not defined yet, the DestinationRule are changed in one transaction, which 'meshctl rollback' undoes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`SERVICE [SUBSET=PERCENT ...]`."""
    parser.add_argument("service", metavar="SERVICE", help="short or full name")
    parser.add_argument(
        "weights", nargs="*", metavar="SUBSET=PERCENT", help="the new split; nothing = show the present"
    )
    change.add_arguments(parser)
    parser.add_argument("--remove", action="store_true", help="take the rule for --header away")
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Show the split, or change it."""
    asked = wanted_of(arguments)
    if asked.nothing:
        if arguments.header:
            raise _usage("found --header alone", "give SUBSET=PERCENT, --mirror, --no-mirror or --remove")
        return run_with_client(arguments, lambda client: _show(client, arguments))
    return run_with_client(arguments, lambda client: change.change(client, asked, arguments))


def wanted_of(arguments: argparse.Namespace) -> Wanted:
    """What the flags say. Raises SETTINGS."""
    asked = Wanted(
        weights=wanted.weights_of(arguments.weights),
        mirror=wanted.mirror_of(arguments.mirror) if arguments.mirror else None,
        no_mirror=arguments.no_mirror,
        headers=wanted.headers_of(arguments.header),
        remove=arguments.remove,
    )
    if asked.remove and (not asked.headers or asked.weights or asked.mirror or asked.no_mirror):
        raise _usage("found --remove", "it goes with --header alone")
    if asked.mirror and asked.no_mirror:
        raise _usage("found --mirror and --no-mirror", "give one of them")
    return asked


def _usage(found: str, hint: str) -> MeshError:
    return MeshError(ErrorCode.SETTINGS, found, hint=hint)


async def _show(client: Client, arguments: argparse.Namespace) -> int:
    found = await target.find(
        client, arguments.service, arguments.namespace, virtual_service=arguments.virtual_service
    )  # fmt: skip
    shown = present(found, await state.items(client, "traffic"))
    if arguments.output == "table":
        sys.stdout.write(render(shown, terminal_of(sys.stdout, no_color=arguments.no_color)))
    else:
        sys.stdout.write(as_document(shown, arguments.output))
    return EXIT_DONE
