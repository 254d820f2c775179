"""`meshctl delete`: objects by kind and name, or those that files name."""

import argparse
import sys
from collections.abc import Iterator

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.resources import kind_of_manifest, name_of, object_path, qualified, wanted_of
from controlplane.cli.sources import place, read_batch
from controlplane.policy.kinds import KindInfo
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE

EPILOG = """\
examples:
  meshctl delete virtualservice reviews
  meshctl delete vs/reviews dr/reviews -n shop
  meshctl delete -f reviews.yaml --ignore-not-found"""

Target = tuple[KindInfo, str, str]  # kind, namespace, name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`KIND NAME...`, `KIND/NAME ...` or `-f`."""
    parser.add_argument("what", nargs="*", metavar="KIND NAME", help="kind (plural, singular or short) and names")
    flags.add_files(parser, required=False)
    flags.add_namespace(parser)
    parser.add_argument("--ignore-not-found", action="store_true", help="what is not there is no failure")
    parser.add_argument("--dry-run", action="store_true", help="delete nothing")
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete one after the other; what fails does not keep the others."""
    targets = list(_targets(arguments))
    return run_with_client(arguments, lambda client: _delete(client, targets, arguments))


def _targets(arguments: argparse.Namespace) -> Iterator[Target]:
    if bool(arguments.what) == bool(arguments.filename):
        raise MeshError(ErrorCode.SETTINGS, "expected either KIND NAME or -f", subject="delete")
    if arguments.what:
        for wanted in wanted_of(arguments.what):
            if not wanted.names:
                raise MeshError(ErrorCode.SETTINGS, f"found no name of a {wanted.kind.kind}", subject="NAME")
            yield from ((wanted.kind, arguments.namespace or DEFAULT_NAMESPACE, name) for name in wanted.names)
        return
    batch = read_batch(arguments.filename, recursive=arguments.recursive, namespace=arguments.namespace)
    for document in batch.documents:
        kind, (namespace, name) = kind_of_manifest(document.value), name_of(document.value)
        if kind is None or not name:
            missing = "apiVersion and kind of a known kind" if kind is None else "metadata.name"
            raise MeshError(ErrorCode.INVALID, f"expected {missing}", subject=place(document))
        yield kind, namespace or DEFAULT_NAMESPACE, name


async def _delete(client: Client, targets: list[Target], arguments: argparse.Namespace) -> int:
    failed = False
    suffix = " (dry run)" if arguments.dry_run else ""
    for kind, namespace, name in targets:
        query = {"dryRun": "All"} if arguments.dry_run else {}
        try:
            await client.send("DELETE", object_path(kind, namespace, name), query=query)
        except MeshError as error:
            if error.code is ErrorCode.NOT_FOUND and arguments.ignore_not_found:
                continue
            if error.code in (ErrorCode.UNAVAILABLE, ErrorCode.UNAUTHENTICATED):
                raise
            print(f"meshctl: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{qualified(kind, name)} deleted{suffix}")
    return EXIT_FAILED if failed else EXIT_DONE
