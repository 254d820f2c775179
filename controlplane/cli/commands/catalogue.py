"""The commands of meshctl: their names, what they are for, and where they are.

A command's module offers `add_arguments(parser)` and `run(arguments) -> exit code`, and `INTERMIXED = True` where words
may stand between flags. It is imported only when it runs (or when completion scripts are written), so a module may
import what it needs at its top.
"""

from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `module` is imported by name."""

    name: str
    help: str
    module: str


def _command(name: str, help_: str, module: str = "") -> tuple[str, Command]:
    stem = module or f"controlplane.cli.commands.{name.replace('-', '_')}"
    return name, Command(name, help_, stem)


COMMANDS: dict[str, Command] = dict(
    (
        _command("apply", "create or change objects from files, all in one transaction"),
        _command("get", "list objects"),
        _command("describe", "show one object with its conditions, its proxies and its events"),
        _command("delete", "delete objects"),
        _command("diff", "show what apply would change"),
        _command("history", "who changed what, and each change as a diff"),
        _command("rollout", "staged rollouts: status, list, promote, abort"),
        _command("traffic", "how a service's requests are split between its subsets, and splitting them"),
        _command("switch", "all requests of a service to one subset: blue-green"),
        _command("analyze", "what is wrong with objects together, in files or in the mesh"),
        _command("rollback", "make every object what it was as of a revision"),
        _command("status", "the state of the mesh on one screen"),
        _command("proxies", "connected proxies and which of them have what"),
        _command("endpoints", "endpoints of services: health, ejections, why and until when"),
        _command("breakers", "circuit breakers on every node: state, since when and why"),
        _command("services", "services and how many of their endpoints are healthy"),
        _command("nodes", "nodes that have joined"),
        _command("events", "what happened lately"),
        _command("config-dump", "the xDS configuration of one node"),
        _command("token", "join tokens: create, list, revoke"),
        _command("ca", "the mesh's roots: status, rotate, abort"),
        _command("envoy", "attach a real Envoy: bootstrap, renew"),
        _command("grpc", "attach a proxyless gRPC client: bootstrap, renew"),
        _command("demo", "run a whole mesh on loopback and show what it does", "controlplane.cli.demo"),
        _command("completion", "print a completion script for bash, zsh or fish"),
        _command("version", "the versions of meshctl and of the server"),
    )
)


def nearest(word: str) -> str:
    """A hint at the command that was probably meant; empty when none is near."""
    found = get_close_matches(word, COMMANDS, n=1)
    return f": did you mean {found[0]}?" if found else ""
