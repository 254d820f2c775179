"""`meshctl status`: the mesh on one screen, and what needs attention. It exits 0 whatever it shows."""

import argparse
import asyncio
import sys
from typing import Any

from controlplane.cli import arguments as flags
from controlplane.cli import state
from controlplane.cli.arguments import EXIT_DONE
from controlplane.cli.client import Client, run_with_client
from controlplane.cli.output.documents import as_document
from controlplane.cli.output.tables import one_line, table
from controlplane.cli.output.terminal import BAD, GOOD, STRONG, WARN, Terminal, terminal_of

_MOST_PROBLEMS = 20
_GOOD = ("Accepted", "ResolvedRefs")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`-o`."""
    flags.add_output(parser)
    flags.add_connection(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the screen."""
    return run_with_client(arguments, lambda client: _status(client, arguments))


async def _status(client: Client, arguments: argparse.Namespace) -> int:
    mesh, replicas, services, proxies = await asyncio.gather(
        client.get("/mesh/v1/status"),
        state.items(client, "replicas"),
        state.items(client, "services"),
        state.items(client, "proxies"),
    )
    if arguments.output == "table":
        terminal = terminal_of(sys.stdout, no_color=arguments.no_color)
        sys.stdout.write(render(client.server.url, mesh, replicas, services, proxies, terminal))
    else:
        sys.stdout.write(as_document({**mesh, "replicas": replicas}, arguments.output))
    return EXIT_DONE


def render(url: str, mesh: Any, replicas: Any, services: Any, proxies: Any, terminal: Terminal) -> str:
    """The screen."""
    heads = (
        ("Control plane", url),
        ("", _ready(mesh["ready"], terminal)),
        ("Replicas", _replicas(replicas, terminal)),
        ("Objects", ", ".join(f"{count} {kind}" for kind, count in mesh["objects"].items()) or "none"),
        ("Nodes", _share(mesh["nodes"]["connected"], mesh["nodes"]["total"], "connected", terminal)),
        ("Proxies", _proxies(mesh["proxies"], terminal)),
        ("Services", _services(services, terminal)),
        ("Endpoints", _endpoints(mesh["endpoints"], terminal)),
    )
    text = "".join(f"{terminal.paint(f'{name:<15}', STRONG)}{value}\n" for name, value in heads)
    return text + _problems(mesh, proxies, services, terminal)


def _ready(ready: Any, terminal: Terminal) -> str:
    missing = [f"{name}: {reason}" for name, reason in ready.items() if reason]
    return terminal.paint("; ".join(missing), BAD) if missing else terminal.paint("ready", GOOD)


def _replicas(replicas: Any, terminal: Terminal) -> str:
    return ", ".join(
        f"{item['replica']} (revision {item['revision']}, {item['proxies']} proxies)"
        if item["reachable"]
        else terminal.paint(f"{item['replica']} (no answer)", BAD)
        for item in replicas
    )


def _share(good: int, total: int, word: str, terminal: Terminal) -> str:
    return terminal.paint(f"{good}/{total} {word}", GOOD if good == total else WARN)


def _proxies(count: Any, terminal: Terminal) -> str:
    if not count["total"]:
        return "none connected"
    parts = [_share(count["synced"], count["total"], "synced", terminal)]
    for word, style in (("pending", WARN), ("rejected", BAD)):
        if count[word]:
            parts.append(terminal.paint(f"{count[word]} {word}", style))
    return ", ".join(parts)


def _services(services: Any, terminal: Terminal) -> str:
    """Healthy is a service whose every endpoint is; what has none by design (external names) counts as healthy."""
    healthy = sum(not _unwell(item) for item in services)
    return _share(healthy, len(services), "healthy", terminal)


def _unwell(service: Any) -> bool:
    count = service["endpoints"]
    return bool(count["unhealthy"] or count["ejected"] or (not count["total"] and not service["external"]))


def _endpoints(count: Any, terminal: Terminal) -> str:
    text = _share(count["healthy"], count["total"], "healthy", terminal)
    return text + (f", {terminal.paint(str(count['ejected']) + ' ejected', BAD)}" if count["ejected"] else "")


def _problem(condition: Any) -> str:
    # Every other type names a problem; these are good news, and listed here only when they are not so.
    return str(condition["reason"] if condition["type"] in _GOOD else condition["type"])


def _problems(mesh: Any, proxies: Any, services: Any, terminal: Terminal) -> str:
    rows = [("control plane", "not ready", f"{name}: {why}") for name, why in mesh["ready"].items() if why]
    rows += [(item["object"], _problem(item), item["message"]) for item in mesh["problems"]]
    rows += [
        (f"proxy {item['node']}", f"{name} {found['state']}", _why(found))
        for item in proxies
        for name, found in item["types"].items()
        if found["state"] != "synced"
    ]
    rows += [(f"proxy {item['node']}", item["sync"], lacks) for item in proxies if (lacks := state.unasked(item))]
    rows += [(f"service {item['host']}", "Endpoints", _counts(item["endpoints"])) for item in services if _unwell(item)]
    if not rows:
        return f"\n{terminal.paint('no problem found', GOOD)}\n"
    shown = [(subject, type_, one_line(message)) for subject, type_, message in rows[:_MOST_PROBLEMS]]
    more = f"... and {len(rows) - _MOST_PROBLEMS} more\n" if len(rows) > _MOST_PROBLEMS else ""
    return "\n" + table(("needs attention", "what", "why"), shown, terminal=terminal) + more


def _why(found: Any) -> str:
    for item in found["rejected"]:
        return f"{item['name']}: {item['reason']}"
    for item in found["waits_for"]:
        return f"{item['name']} waits for {item['waits_for']}"
    return str(found["error"] or "not acknowledged yet")


def _counts(count: Any) -> str:
    if not count["total"]:
        return "no endpoint"
    parts = [f"{count[word]} {word}" for word in ("unhealthy", "ejected") if count[word]]
    return f"{' and '.join(parts)}, of {count['total']}"
