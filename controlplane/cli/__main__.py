"""`meshctl`: finds the command, runs it, turns what went wrong into one line and an exit code.

Owns:   the order of start, the exit codes.
Not:    what a command does (controlplane.cli.commands), the flags of all commands (arguments).

Exit codes: 0 done; 1 failed (`diff`: there are differences); 2 `diff` could not compare; 64 wrong usage, before any
request; 130 interrupted.
Only the module of the command that runs is imported, so that `meshctl --help` answers at once.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from controlplane.cli import arguments
from controlplane.cli.arguments import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, Parser
from controlplane.cli.commands.catalogue import COMMANDS, nearest
from mesh.errors import ErrorCode, MeshError

_USAGE_CODES = (ErrorCode.SETTINGS,)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script."""
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except MeshError as error:
        print(f"meshctl: {error}", file=sys.stderr)
        return EXIT_USAGE if error.code in _USAGE_CODES else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; the interpreter's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _run(argv: list[str]) -> int:
    top = _top_parser()
    chosen = top.parse_args(argv)
    if not chosen.command:
        top.print_help()
        return EXIT_USAGE
    command = COMMANDS.get(chosen.command)
    if command is None:
        top.error(f"unknown command {chosen.command!r}{nearest(chosen.command)}")
    module: Any = import_module(command.module)
    parser = Parser(prog=f"meshctl {command.name}", description=command.help, epilog=getattr(module, "EPILOG", None))
    module.add_arguments(parser)
    rest, asked = chosen.rest, argparse.Namespace(**vars(chosen))
    del asked.command, asked.rest
    # Words and flags in any order, where a module says so: argparse cannot do it for commands with sub-commands.
    parse = parser.parse_intermixed_args if getattr(module, "INTERMIXED", False) else parser.parse_args
    done: int = module.run(parse(rest, asked))
    sys.stdout.flush()
    return done


def _top_parser() -> Parser:
    listing = "\n".join(f"  {command.name:<13} {command.help}" for command in COMMANDS.values())
    parser = Parser(
        prog="meshctl",
        usage="meshctl [options] COMMAND ...",
        description="Policies and state of a Gossamer mesh.",
        epilog=f"commands:\n{listing}\n\n{arguments.EPILOG}",
    )
    parser.add_argument("--version", action="version", version=f"meshctl {arguments.version()}")
    arguments.add_connection(parser)
    parser.set_defaults(**arguments.CONNECTION_DEFAULTS)
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
