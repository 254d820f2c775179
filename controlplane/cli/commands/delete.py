"""`meshctl delete`: objects by kind and name one after the other, or those that files name in one transaction."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import waiting
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.commands.apply import show_refusal, show_results
from controlplane.cli.refusals import Refusal
from controlplane.cli.resources import kind_of_manifest, name_of, object_path, qualified, wanted_of
from controlplane.cli.sources import Batch, place, read_batch
from controlplane.policy.kinds import KindInfo
from controlplane.policy.manifests import Document
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE

EPILOG = """\
examples:
  meshctl delete virtualservice reviews
  meshctl delete vs/reviews dr/reviews -n shop
  meshctl delete -f reviews.yaml --wait             all of the file's objects in one transaction, or none
  meshctl delete -f reviews.yaml --ignore-not-found"""

Target = tuple[KindInfo, str, str]  # kind, namespace, name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`KIND NAME...`, `KIND/NAME ...` or `-f`."""
    parser.add_argument("what", nargs="*", metavar="KIND NAME", help="kind (plural, singular or short) and names")
    flags.add_files(parser, required=False)
    flags.add_namespace(parser)
    parser.add_argument("--ignore-not-found", action="store_true", help="what is not there is no failure")
    parser.add_argument("--dry-run", action="store_true", help="delete nothing")
    waiting.add_wait(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Delete them."""
    if bool(arguments.what) == bool(arguments.filename):
        raise MeshError(ErrorCode.SETTINGS, "expected either KIND NAME or -f", subject="delete")
    if arguments.what:
        targets = list(_targets(arguments))
        return run_with_client(arguments, lambda client: _delete(client, targets, arguments))
    batch = read_batch(arguments.filename, recursive=arguments.recursive, namespace=arguments.namespace)
    heads = [_head(document) for document in batch.documents]
    return run_with_client(arguments, lambda client: _delete_batch(client, batch, heads, arguments))


def _targets(arguments: argparse.Namespace) -> Iterator[Target]:
    for wanted in wanted_of(arguments.what):
        if not wanted.names:
            raise MeshError(ErrorCode.SETTINGS, f"found no name of a {wanted.kind.kind}", subject="NAME")
        yield from ((wanted.kind, arguments.namespace or DEFAULT_NAMESPACE, name) for name in wanted.names)


def _head(document: Document) -> dict[str, Any]:
    """What names the object; the rest of the file need not be sent, nor be valid."""
    kind, (namespace, name) = kind_of_manifest(document.value), name_of(document.value)
    if kind is None or not name:
        missing = "apiVersion and kind of a known kind" if kind is None else "metadata.name"
        raise MeshError(ErrorCode.INVALID, f"expected {missing}", subject=place(document))
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": document.value["apiVersion"], "kind": document.value["kind"], "metadata": metadata}


async def _delete_batch(
    client: Client, batch: Batch, heads: list[dict[str, Any]], arguments: argparse.Namespace
) -> int:  # fmt: skip
    query = {"dryRun": "All"} if arguments.dry_run else {}
    if arguments.ignore_not_found:
        query["ignoreNotFound"] = "true"
    try:
        done = (await client.send("POST", "/mesh/v1/delete", query=query, body=heads)).value
    except Refusal as refusal:
        return show_refusal(refusal, batch)
    done["results"] = [result for result in done["results"] if result["action"] == "deleted"]
    show_results(done, arguments)
    return await _wait(client, done["revision"] if done["results"] else 0, arguments)


async def _wait(client: Client, revision: int, arguments: argparse.Namespace) -> int:
    if arguments.wait is None or arguments.dry_run or not revision:
        return EXIT_DONE
    return await waiting.wait(client, revision, arguments.wait, no_color=arguments.no_color)


async def _delete(client: Client, targets: list[Target], arguments: argparse.Namespace) -> int:
    """One after the other; what fails does not keep the others."""
    failed, revision = False, 0
    suffix = " (dry run)" if arguments.dry_run else ""
    for kind, namespace, name in targets:
        query = {"dryRun": "All"} if arguments.dry_run else {}
        try:
            done = await client.send("DELETE", object_path(kind, namespace, name), query=query)
            revision = int(done.headers.get("Gossamer-Revision") or 0)
        except MeshError as error:
            if error.code is ErrorCode.NOT_FOUND and arguments.ignore_not_found:
                continue
            if error.code in (ErrorCode.UNAVAILABLE, ErrorCode.UNAUTHENTICATED):
                raise
            print(f"meshctl: {error}", file=sys.stderr)
            failed = True
            continue
        print(f"{qualified(kind, name)} deleted{suffix}")
    return max(await _wait(client, revision, arguments), EXIT_FAILED if failed else EXIT_DONE)
