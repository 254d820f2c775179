"""`meshctl apply`: objects from files into the mesh, all of them in one transaction or none.

Owns:   what is said about each object.
Not:    reading files (sources), admission and the transaction (the server), waiting for the proxies (waiting),
        staged rollouts (rollouts).
"""

import argparse
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import rollouts, waiting
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client, warn
from controlplane.cli.output.tables import one_line
from controlplane.cli.output.terminal import terminal_of
from controlplane.cli.refusals import Cause, Refusal
from controlplane.cli.resources import kind_of_manifest, name_of, qualified
from controlplane.cli.sources import Batch, place, read_batch
from controlplane.policy.admission import Rejected, admit
from controlplane.policy.kinds import KINDS
from mesh.errors import ErrorCode
from mesh.vocabulary import DEFAULT_NAMESPACE

EPILOG = """\
examples:
  meshctl apply -f policies/ -R --wait        a folder; then wait until every proxy has it
  meshctl apply -f - < reviews.yaml
  meshctl apply -f reviews.yaml --dry-run     the server checks everything and stores nothing
  meshctl apply -f reviews.yaml --dry-run=client    without a server: the objects by themselves
  meshctl apply -f reviews.yaml --stage 1,10%,100% --pause 30s    to one proxy first, then to more and more

All objects are stored in one transaction, or none of them is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-f`."""
    flags.add_files(parser, required=True)
    flags.add_namespace(parser)
    waiting.add_wait(parser)
    rollouts.add_stages(parser)
    parser.add_argument(
        "--dry-run", nargs="?", choices=("server", "client"), const="server", default="", help="store nothing"
    )
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Apply, and say what became of each object."""
    batch = read_batch(arguments.filename, recursive=arguments.recursive, namespace=arguments.namespace)
    if arguments.dry_run == "client":
        return check_locally(batch, arguments.namespace)
    if arguments.stage:
        return run_with_client(arguments, lambda client: _stage(client, batch, arguments))
    return run_with_client(arguments, lambda client: _apply(client, batch, arguments))


async def _apply(client: Client, batch: Batch, arguments: argparse.Namespace) -> int:
    try:
        done = await post(client, batch, namespace=arguments.namespace, dry_run=bool(arguments.dry_run))
    except Refusal as refusal:
        return show_refusal(refusal, batch)
    show_results(done, arguments)
    if arguments.dry_run or not done["revision"]:
        return EXIT_DONE
    if arguments.wait is None:
        return EXIT_DONE
    return await waiting.wait(client, done["revision"], arguments.wait, no_color=arguments.no_color)


async def _stage(client: Client, batch: Batch, arguments: argparse.Namespace) -> int:
    try:
        begun = await rollouts.begin(client, batch.manifests, arguments)
    except Refusal as refusal:
        return show_refusal(refusal, batch)
    show_results({**begun, "revision": 0}, arguments)
    if begun["rollout"] is None:
        return EXIT_DONE
    return await rollouts.follow(client, begun["rollout"]["id"], arguments)


async def post(client: Client, batch: Batch, *, namespace: str = "", dry_run: bool = False) -> Any:
    """The answer of /mesh/v1/batch. Raises Refusal with a cause for each field that is wrong."""
    query = {"dryRun": "All"} if dry_run else {}
    if namespace:
        query["namespace"] = namespace
    return (await client.send("POST", "/mesh/v1/batch", query=query, body=batch.manifests)).value


def show_refusal(refusal: Refusal, batch: Batch) -> int:
    """Each thing that is wrong on a line of its own, with file, line and document."""
    lines = batch.explain(refusal) or [str(refusal)]
    for line in lines:
        print(f"meshctl: {one_line(line)}", file=sys.stderr)
    print("meshctl: nothing was changed", file=sys.stderr)
    return EXIT_FAILED


def check_locally(batch: Batch, namespace: str) -> int:
    """Admission without a server: what one object can tell by itself."""
    causes: list[Cause] = []
    for index, document in enumerate(batch.documents):
        verdict = admit(document.value, default_namespace=namespace or DEFAULT_NAMESPACE)
        warn([f"{place(document)}: {warning}" for warning in verdict.warnings])
        if isinstance(verdict, Rejected):
            causes += [Cause(field=item.field, message=item.message, document=index) for item in verdict.violations]
    if causes:
        return show_refusal(Refusal(ErrorCode.INVALID, "invalid", causes), batch)
    for manifest in batch.manifests:
        kind = kind_of_manifest(manifest)
        name = name_of(manifest)[1]
        print(f"{qualified(kind, name) if kind else name} valid (client dry run)")
    return EXIT_DONE


def show_results(done: Any, arguments: argparse.Namespace) -> None:
    """What became of each object of a batch, and its revision."""
    terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
    suffix = " (dry run)" if arguments.dry_run else ""
    for result in done["results"]:
        kind = KINDS.by_group_kind(result["group"], result["kind"])
        name = qualified(kind, result["name"]) if kind else f"{result['kind']}/{result['name']}"
        where = "" if result["namespace"] in ("", DEFAULT_NAMESPACE) else f" in {result['namespace']}"
        print(f"{name}{where} {terminal.word(result['action'])}{suffix}")
        warn([_about(result["object"], one_line(warning)) for warning in result["warnings"]])
    if done["revision"] and not arguments.dry_run:
        print(f"revision {done['revision']}")


def _about(subject: str, warning: str) -> str:
    return warning if warning.startswith(subject) else f"{subject}: {warning}"
