"""`meshctl switch SERVICE SUBSET`: all requests of a service to one of its subsets, as in a blue-green deployment."""

import argparse

from controlplane.cli import arguments as flags
from controlplane.cli.client import run_with_client
from controlplane.cli.commands import traffic
from controlplane.cli.splits import change
from controlplane.cli.splits.wanted import WHOLE

EPILOG = """\
examples:
  meshctl switch reviews green --wait                     all requests to green; then wait until every proxy has it
  meshctl switch reviews green --header x-tester=ann      first only those of one tester
  meshctl switch reviews green --mirror blue              and copies to blue, to keep its caches warm
  meshctl switch reviews green --stage 1,10%,100%         to one proxy's requests first, then to more and more

It is 'meshctl traffic SERVICE SUBSET=100': one transaction, which 'meshctl rollback' undoes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`SERVICE SUBSET`."""
    parser.add_argument("service", metavar="SERVICE", help="short or full name")
    parser.add_argument("subset", metavar="SUBSET", help="a subset, or the version of some instances")
    change.add_arguments(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Switch."""
    arguments.weights, arguments.remove = [f"{arguments.subset}={WHOLE}"], False
    asked = traffic.wanted_of(arguments)
    return run_with_client(arguments, lambda client: change.change(client, asked, arguments, whole=True))
