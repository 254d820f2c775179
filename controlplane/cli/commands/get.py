"""`meshctl get`: objects as a table, in full, or as they change.

Owns:   which objects are asked for, the forms of output, following a watch over its end.
Not:    the columns (the server's Table), words for kinds (resources).
Source: Kubernetes API concepts, "Receiving resources as Tables" and "Efficient detection of changes".
"""

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli.arguments import EXIT_DONE, EXIT_FAILED
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document, as_list
from controlplane.cli.output.tables import table
from controlplane.cli.output.terminal import terminal_of
from controlplane.cli.resources import Wanted, collection_path, object_path, qualified, wanted_of
from mesh.errors import ErrorCode, MeshError
from mesh.resilience.backoff import Backoff
from mesh.vocabulary import DEFAULT_NAMESPACE

EPILOG = """\
examples:
  meshctl get vs                              VirtualServices of namespace default
  meshctl get vs,dr -A                        and DestinationRules, in every namespace
  meshctl get virtualservice reviews -o yaml
  meshctl get svc/reviews dr/reviews
  meshctl get vs -w                           and then what changes"""
_TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
_TRIES = 6
_BOOKMARK = "BOOKMARK"

Table = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`KIND[,KIND...] [NAME...]` or `KIND/NAME ...`."""
    parser.add_argument("what", nargs="+", metavar="KIND [NAME]", help="kind (plural, singular or short), or all")
    flags.add_namespace(parser, all_namespaces=True)
    parser.add_argument("-l", "--selector", default="", help="only objects with these labels, such as app=a,tier!=b")
    flags.add_output(parser, ("table", "wide", "yaml", "json", "name"))
    parser.add_argument("-w", "--watch", action="store_true", help="go on with what changes (one kind)")
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the objects."""
    wanted = wanted_of(arguments.what)
    if arguments.all_namespaces and any(item.names for item in wanted):
        raise MeshError(ErrorCode.SETTINGS, "found names and -A, expected one of them", subject="-A")
    if arguments.watch and (len(wanted) != 1 or len(wanted[0].names) > 1):
        raise MeshError(ErrorCode.SETTINGS, "found several kinds or names, expected one to watch", subject="-w")
    return run_with_client(arguments, lambda client: _Get(arguments, client).run(wanted))


class _Get:
    """One call of the command."""

    def __init__(self, arguments: argparse.Namespace, client: Client) -> None:
        self._client = client
        self._output: str = arguments.output
        self._selector: str = arguments.selector
        self._watch: bool = arguments.watch
        self._namespace = "" if arguments.all_namespaces else arguments.namespace or DEFAULT_NAMESPACE
        self.terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
        self._failed = False

    async def run(self, wanted: Sequence[Wanted]) -> int:
        if self._watch:
            await self._follow(wanted[0])
        elif self._output in ("table", "wide"):
            await self._print_tables(wanted)
        else:
            await self._print_objects(wanted)
        return EXIT_FAILED if self._failed else EXIT_DONE

    # --- in full ------------------------------------------------------------------------------------------------

    async def _print_objects(self, wanted: Sequence[Wanted]) -> None:
        found = [(item, manifest) for item in wanted for manifest in await self._objects(item)]
        if self._output == "name":
            sys.stdout.write("".join(f"{qualified(item.kind, _name(manifest))}\n" for item, manifest in found))
            return
        manifests = [manifest for _, manifest in found]
        if len(manifests) == 1 and len(wanted) == 1 and wanted[0].names:
            sys.stdout.write(as_document(manifests[0], self._output))
        elif manifests or not self._failed:
            sys.stdout.write(as_list(manifests, self._output))

    async def _objects(self, wanted: Wanted) -> list[dict[str, Any]]:
        if wanted.names:
            answers = [await self._one(wanted, name, "") for name in wanted.names]
            return [answer for answer in answers if answer is not None]
        answer = await self._list(wanted, "")
        # A list carries kind and apiVersion once; objects that are passed on need their own.
        head = {"apiVersion": answer["apiVersion"], "kind": answer["kind"].removesuffix("List")}
        return [{**head, **item} for item in answer["items"]]

    async def _list(self, wanted: Wanted, accept: str) -> Any:
        query = {"labelSelector": self._selector} if self._selector else {}
        return await self._client.get(collection_path(wanted.kind, self._namespace), query, accept=accept)

    async def _one(self, wanted: Wanted, name: str, accept: str) -> Any:
        """None when it cannot be had; the others are shown all the same."""
        try:
            return await self._client.get(object_path(wanted.kind, self._namespace, name), accept=accept)
        except MeshError as error:
            if error.code is not ErrorCode.NOT_FOUND:
                raise
            print(f"meshctl: {error}", file=sys.stderr)
            self._failed = True
            return None

    # --- tables -------------------------------------------------------------------------------------------------

    async def _print_tables(self, wanted: Sequence[Wanted]) -> None:
        shown = 0
        for item in wanted:
            found = await self._tables(item)
            rows = [row for answer in found for row in answer["rows"]]
            if rows:
                several = len(wanted) > 1
                columns = self.columns(found[0])
                cells = [self.cells(columns, row, qualified(item.kind, "") if several else "") for row in rows]
                sys.stdout.write("\n" * bool(shown) + self._table(columns, cells))
            shown += len(rows)
        if not shown and not self._failed:
            where = f" in namespace {self._namespace}" if self._namespace else ""
            print(f"no object found{where}", file=sys.stderr)

    async def _tables(self, wanted: Wanted) -> list[Table]:
        if not wanted.names:
            return [await self._list(wanted, _TABLE)]
        answers = [await self._one(wanted, name, _TABLE) for name in wanted.names]
        return [answer for answer in answers if answer is not None]

    def columns(self, answer: Table) -> list[tuple[int, str]]:
        """(index, name) of the columns that are shown."""
        return [
            (index, str(column["name"]))
            for index, column in enumerate(answer["columnDefinitions"])
            if self._output == "wide" or not column.get("priority")
        ]

    def cells(self, columns: Sequence[tuple[int, str]], row: Table, prefix: str = "") -> list[str]:
        cells = [str(row["cells"][index]) for index, _ in columns]
        cells[0] = prefix + cells[0]
        return cells if self._namespace else [str(row["object"]["metadata"].get("namespace", "")), *cells]

    def _table(self, columns: Sequence[tuple[int, str]], cells: Sequence[Sequence[str]]) -> str:
        return table(self.names(columns), cells, terminal=self.terminal, states=("Status",))

    def names(self, columns: Sequence[tuple[int, str]]) -> list[str]:
        names = [name for _, name in columns]
        return names if self._namespace else ["Namespace", *names]

    # --- watches ------------------------------------------------------------------------------------------------

    async def _follow(self, wanted: Wanted) -> None:
        """What is there, then what changes, until the user has seen enough."""
        in_full = self._output not in ("table", "wide")
        query = {"sendInitialEvents": "1", "allowWatchBookmarks": "1", "labelSelector": self._selector}
        if wanted.names:
            query["fieldSelector"] = f"metadata.name={wanted.names[0]}"
        rows = _Rows(self)
        async for event in self._events(
            collection_path(wanted.kind, self._namespace), query, "" if in_full else _TABLE
        ):
            if not in_full:
                print(rows.text(event), end="", flush=True)
            elif event["type"] != _BOOKMARK:
                self._print_event(wanted, event)

    def _print_event(self, wanted: Wanted, event: dict[str, Any]) -> None:
        manifest = event["object"]
        if self._output == "name":
            text = f"{event['type']} {qualified(wanted.kind, _name(manifest))}\n"
        elif self._output == "yaml":
            text = f"--- # {event['type']}\n{as_document(manifest, 'yaml')}"
        else:
            text = as_document({"type": event["type"], "object": manifest}, "json")
        print(text, end="", flush=True)

    async def _events(self, path: str, query: dict[str, str], accept: str) -> AsyncIterator[dict[str, Any]]:
        """Events without end: a watch that the server ends is taken up where it ended."""
        backoff = Backoff(base_s=0.5, max_s=5.0)
        while True:
            try:
                asked = {key: text for key, text in query.items() if text}
                async for event in self._client.watch(path, asked, accept=accept):
                    backoff.reset()
                    revision = event["object"]["metadata"].get("resourceVersion")
                    # A deleted object's is older than its deletion.
                    if revision and event["type"] != "DELETED":
                        query = {**query, "resourceVersion": revision, "sendInitialEvents": ""}
                    yield event
            except MeshError as error:
                if error.code is not ErrorCode.UNAVAILABLE or backoff.attempt >= _TRIES:
                    raise
                print(f"meshctl: {error}; trying again", file=sys.stderr)
            await asyncio.sleep(backoff.next_delay_s(random.random))


class _Rows:
    """The lines of a watch in a table: its heading once, its rows below each other."""

    def __init__(self, get: _Get) -> None:
        self._get = get
        self._columns: list[tuple[int, str]] = []
        self._widths: list[int] = []

    def text(self, event: dict[str, Any]) -> str:
        """The lines of one event; the first one, also a bookmark, brings the columns."""
        answer, heading = event["object"], not self._columns
        if heading:
            self._columns = self._get.columns(answer)
            self._widths = [len("MODIFIED"), *(0 for _ in self._get.names(self._columns))]
        cells = [[event["type"], *self._get.cells(self._columns, row)] for row in answer["rows"]]
        names = ["Event", *self._get.names(self._columns)]
        return table(
            names, cells, terminal=self._get.terminal, states=("Status",), heading=heading, widths=self._widths
        )  # fmt: skip


def _name(manifest: dict[str, Any]) -> str:
    return str(manifest["metadata"]["name"])
