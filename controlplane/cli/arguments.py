"""Flags that several commands share, and how a wrong one is refused.

Owns:   the parser class, the connection flags, namespace and output flags, durations, the version.
Not:    flags of one command (its own module). Imports nothing heavy: it is loaded for every call.
"""

import argparse
import os
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_DIFFERENT = 1
EXIT_NOT_COMPARED = 2
EXIT_USAGE = 64  # EX_USAGE of sysexits.h, as in the other programs of the mesh
EXIT_INTERRUPTED = 130

DEFAULT_SERVER = "http://127.0.0.1:8080"
DEFAULT_TIMEOUT_S = 30.0
SERVER_VARIABLE = "GOSSAMER_SERVER"
TOKEN_VARIABLE = "GOSSAMER_TOKEN"

CONNECTION_DEFAULTS: dict[str, Any] = {
    "server": None,
    "token_file": None,
    "ca_file": None,
    "timeout": DEFAULT_TIMEOUT_S,
    "no_color": False,
}
EPILOG = """\
environment:
  GOSSAMER_SERVER  the control plane, when --server is not given (default http://127.0.0.1:8080)
  GOSSAMER_TOKEN   the API token, when --token-file is not given
  NO_COLOR         no colours, whatever its value

exit codes: 0 done; 1 failed (diff: there are differences); 2 diff could not compare; 64 wrong usage; 130 interrupted
'meshctl COMMAND --help' has the flags of a command."""


class Parser(argparse.ArgumentParser):
    """Wrong flags exit 64 with one line and the nearest flag; abbreviations are not taken."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: {message}{self._hint(message)} ('{self.prog} --help' shows the usage)\n")

    def _hint(self, message: str) -> str:
        if not message.startswith("unrecognized arguments"):
            return ""
        words = [word.partition("=")[0] for word in message.split() if word.startswith("-")]
        near = get_close_matches(words[0], self._option_string_actions, n=1) if words else []
        return f": did you mean {near[0]}?" if near and near[0] != words[0] else ""


def add_connection(parser: argparse.ArgumentParser) -> None:
    """How the control plane is reached. Also allowed behind the command's name, hence no defaults here."""
    group = parser.add_argument_group("connection")
    keep = argparse.SUPPRESS
    group.add_argument(
        "--server", metavar="URL", default=keep, help=f"the control plane's REST address (default {DEFAULT_SERVER})"
    )
    group.add_argument("--token-file", metavar="FILE", default=keep, help="file with the API token")
    group.add_argument("--ca-file", metavar="FILE", default=keep, help="PEM file with the roots of an https server")
    group.add_argument("--timeout", metavar="DURATION", type=duration, default=keep, help="per request (default 30s)")
    group.add_argument("--no-color", action="store_true", default=keep, help="no colours, also on a terminal")


def add_namespace(parser: argparse.ArgumentParser, *, all_namespaces: bool = False) -> None:
    """`-n`, and `-A` where a command can show several."""
    parser.add_argument("-n", "--namespace", default="", help="namespace (default: default)")
    if all_namespaces:
        parser.add_argument("-A", "--all-namespaces", action="store_true", help="every namespace")


def add_output(parser: argparse.ArgumentParser, choices: Sequence[str] = ("table", "json", "yaml")) -> None:
    """`-o`."""
    parser.add_argument("-o", "--output", choices=choices, default="table", help="(default table)")


def add_files(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """`-f` and `-R`."""
    parser.add_argument(
        "-f", "--filename", action="append", required=required, default=None if required else [], metavar="PATH",
        help="file, folder (*.yaml, *.yml, *.json) or - for standard input; may be given several times",
    )  # fmt: skip
    parser.add_argument("-R", "--recursive", action="store_true", help="folders with everything below them")


def duration(text: str) -> float:
    """Seconds of `500ms`, `30s`, `2m`, `1h`, `1d` or a bare number of seconds. An argparse type."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0), ("", 1.0)):
        digits = text.removesuffix(unit)
        if text.endswith(unit) and digits.replace(".", "", 1).isdecimal() and digits.isascii():
            return float(digits) * factor
    raise argparse.ArgumentTypeError(f"found {text!r}, expected a duration such as 30s, 5m or 1h")


def names(values: Sequence[str] | None) -> list[str]:
    """What a flag that may be repeated and may hold commas says."""
    return [name.strip() for value in values or () for name in value.split(",") if name.strip()]


def environment(name: str) -> str:
    """A variable, empty when it is not set."""
    return os.environ.get(name, "")


def version() -> str:
    """The version of this distribution."""
    from importlib import metadata

    try:
        return metadata.version("gossamer")
    except metadata.PackageNotFoundError:
        return "0.0.0"
