"""`meshctl version`: of this program, and of the server when there is one."""

import argparse

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client
from mesh.errors import MeshError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--client`."""
    parser.add_argument("--client", action="store_true", help="do not ask the server")
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print them."""
    print(f"meshctl {flags.version()}", flush=True)
    if arguments.client:
        return EXIT_DONE

    async def work(client: Client) -> int:
        try:
            print(f"server  {(await client.get('/version'))['gossamerVersion']}")
        except MeshError as error:
            print(f"server  unknown: {error}")
            return EXIT_FAILED
        return EXIT_DONE

    return run_with_client(arguments, work)
