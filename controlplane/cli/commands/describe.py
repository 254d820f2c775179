"""`meshctl describe KIND NAME`: one object, what the mesh thinks of it, and what happened to it.

Owns:   the sections and their order.
Not:    where the facts come from: the object's status, /mesh/v1/history, revisions, events, endpoints.
"""

import argparse
import asyncio
import re
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.commands import endpoints
from controlplane.cli.output.documents import as_yaml
from controlplane.cli.output.tables import one_line, pairs, table
from controlplane.cli.output.terminal import STRONG, Terminal, terminal_of
from controlplane.cli.resources import Wanted, object_path, wanted_of
from controlplane.cli.state import Item
from controlplane.policy.kinds import SERVICE
from controlplane.policy.secret import redacted
from mesh.errors import ErrorCode, MeshError
from mesh.vocabulary import DEFAULT_NAMESPACE, ObjectRef

_LAST_CHANGES = 5
_LAST_EVENTS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`KIND NAME...` or `KIND/NAME ...`."""
    parser.add_argument("what", nargs="+", metavar="KIND NAME", help="kind (plural, singular or short) and names")
    flags.add_namespace(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print each object."""
    wanted = wanted_of(arguments.what)
    if any(not item.names for item in wanted):
        raise MeshError(ErrorCode.SETTINGS, "found no name", subject="NAME", hint="meshctl get lists the objects")
    return run_with_client(arguments, lambda client: _describe(client, wanted, arguments))


async def _describe(client: Client, wanted: list[Wanted], arguments: argparse.Namespace) -> int:
    terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
    namespace = arguments.namespace or DEFAULT_NAMESPACE
    for number, (kind, name) in enumerate((item.kind, name) for item in wanted for name in item.names):
        manifest = await client.get(object_path(kind, namespace, name))
        own = namespace if kind.namespaced else ""
        facts = await _facts(client, ObjectRef(kind.group, kind.kind, own, name))
        sys.stdout.write("\n" * bool(number) + render(manifest, facts, terminal))
    return EXIT_DONE


async def _facts(client: Client, ref: ObjectRef) -> dict[str, Any]:
    """What the mesh knows beside the object: its changes, who has the last one, events, a Service's endpoints."""
    wanted = {"object": str(ref), "limit": str(_LAST_CHANGES)}
    history, events = await asyncio.gather(state.items(client, "history", wanted), state.items(client, "events"))
    changes = [(record, item) for record in history for item in record["objects"] if _is(item, ref)]
    last = changes[0][0]["revision"] if changes else 0
    found: list[Item] = []
    if ref.kind == SERVICE.kind and not ref.group:
        found = await state.items(client, "endpoints", {"service": ref.name, "namespace": ref.namespace})
    return {
        "changes": changes[:_LAST_CHANGES],
        "revision": await client.get(f"/mesh/v1/revisions/{last}") if last else None,
        "events": [event for event in events if _concerns(event, ref)][-_LAST_EVENTS:],
        "endpoints": found,
    }


def _is(item: Item, ref: ObjectRef) -> bool:
    return (item["group"], item["kind"], item["namespace"], item["name"]) == (
        ref.group,
        ref.kind,
        ref.namespace,
        ref.name,
    )


def _concerns(event: Item, ref: ObjectRef) -> bool:
    """Whether it names the object: not VirtualService a/b for Service a/b, nor a/bc or a/b.c for a/b."""
    named = re.compile(rf"(?<![\w.-]){re.escape(str(ref))}(?!\.?[\w-])")
    return any(named.search(event[field]) for field in ("subject", "message"))


def render(manifest: Any, facts: dict[str, Any], terminal: Terminal) -> str:
    """The sections that have something to say."""
    manifest = redacted(manifest)
    sections = [_head(manifest)]
    status = manifest.get("status") or {}
    if status.get("conditions"):
        sections.append(_section("Conditions", _conditions(status["conditions"]), terminal))
    if status.get("listeners"):
        text = "".join(_part(f"{own['name']}, routes: {own['attachedRoutes']}", own) for own in status["listeners"])
        sections.append(_section("Listeners", text, terminal))
    if status.get("parents"):
        text = "".join(_part(_parent(own["parentRef"]), own) for own in status["parents"])
        sections.append(_section("Parents", text, terminal))
    if manifest.get("spec"):
        sections.append(_section("Spec", _indented(as_yaml(manifest["spec"])), terminal))
    if manifest.get("data"):
        sections.append(_section("Data", _indented(as_yaml(manifest["data"])), terminal))
    if facts["endpoints"]:
        sections.append(_section("Endpoints", _indented(endpoints.render(facts["endpoints"], terminal)), terminal))
    if facts["revision"]:
        sections.append(_section("Proxies", _indented(_proxies(facts["revision"])), terminal))
    if facts["changes"]:
        sections.append(_section("Changes", _indented(_changes(facts["changes"])), terminal))
    if facts["events"]:
        rows = [(state.age(item["at"]), item["type"], item["message"]) for item in facts["events"]]
        sections.append(_section("Events", _indented(table(("age", "type", "message"), rows)), terminal))
    return "".join(sections)


def _section(name: str, text: str, terminal: Terminal) -> str:
    return f"{terminal.paint(f'{name}:', STRONG)}\n{text}"


def _indented(text: str) -> str:
    return "".join(f"  {line}\n" if line else "\n" for line in text.splitlines())


def _head(manifest: Any) -> str:
    metadata = manifest["metadata"]
    created = str(metadata.get("creationTimestamp", ""))
    listed = (
        ("Name", metadata["name"]),
        ("Namespace", metadata.get("namespace", "")),
        ("Kind", f"{manifest['kind']} ({manifest['apiVersion']})"),
        ("Labels", _words(metadata.get("labels"))),
        ("Annotations", _words(metadata.get("annotations"))),
        ("Created", f"{created} ({state.age(created)} ago)" if created else ""),
        ("Generation", str(metadata.get("generation", ""))),
    )
    return pairs((name, one_line(value)) for name, value in listed if value)


def _words(values: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted((values or {}).items()))


def _conditions(conditions: Any) -> str:
    """One below the other: messages are sentences, which a table would make very wide."""
    text = ""
    for item in conditions:
        since = state.age(str(item.get("lastTransitionTime", "")))
        reason = f" ({item['reason']})" if item.get("reason") else ""
        text += f"  {item['type']}={item['status']}{reason}{f', since {since}' if since else ''}\n"
        if item.get("message"):
            text += f"    {one_line(item['message'])}\n"
    return text


def _part(name: str, part: Any) -> str:
    """A listener or a parent, with what is said of it."""
    return f"  {one_line(name)}\n{_indented(_conditions(part['conditions']))}"


def _parent(reference: Any) -> str:
    words = [reference.get(name) for name in ("namespace", "name", "sectionName", "port")]
    return f"{reference['kind']} {'/'.join(str(word) for word in words if word)}"


def _proxies(revision: Any) -> str:
    if not any(revision[name] for name in ("acked", "pending", "rejected")):
        return "none is connected\n"
    text = f"revision {revision['revision']} acknowledged by {', '.join(revision['acked']) or 'none'}\n"
    if revision["pending"]:
        text += f"pending at {', '.join(revision['pending'])}\n"
    for item in revision.get("waits_for", ()):
        text += f"{item['node']}: {state.waiting(item)}\n"
    for item in revision["rejected"]:
        text += "".join(f"refused by {item['node']}: {one_line(why['reason'])}\n" for why in item["reasons"])
    return text


def _changes(changes: Any) -> str:
    rows = [
        (str(record["revision"]), state.age(record["at"]), record["author"], item["action"], str(item["generation"]))
        for record, item in changes
    ]
    return table(("revision", "age", "author", "action", "generation"), rows)
