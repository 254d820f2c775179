"""`gossamer-controlplane`: reads flags, file and environment, then runs the control plane until it is told to stop.

Exit codes: 0 after SIGTERM or SIGINT, 1 when it failed, 64 when the settings are wrong (before any bind).
"""

import argparse
import asyncio
import gc
import os
import resource
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import uvloop
import yaml

from controlplane import app
from controlplane.settings import EXIT_SETTINGS, MeshSettings, Settings, load
from mesh import logs
from mesh.errors import ErrorCode, MeshError

_log = logs.get_logger(__name__)

# A push makes tens of objects per stream that live until the ACK: with the usual thresholds every change to a large
# fleet would look through all that the process holds, which takes longer than the change.
_GC_THRESHOLDS = (50_000, 20, 50)


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script."""
    flags = {key: value for key, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    config = flags.pop("config", "")
    try:
        settings = load(
            file=_read_file(config) if config else None,
            file_name=config,
            environ=os.environ,
            flags=_nested(flags),
        )
        logs.configure(level=settings.log_level, as_json=settings.log_json)
        _raise_file_limit()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.freeze()  # modules and descriptors stay for good
        uvloop.run(_run(settings))
    except MeshError as error:
        print(f"gossamer-controlplane: {error}", file=sys.stderr)
        return EXIT_SETTINGS if error.code is ErrorCode.SETTINGS else 1
    return 0


async def _run(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await app.run(settings, stop)


class _Parser(argparse.ArgumentParser):
    """Wrong flags are wrong settings: exit 64, and a hint at the nearest flag."""

    def error(self, message: str) -> NoReturn:
        words = [word for word in message.split() if word.startswith("--")]
        near = get_close_matches(words[0], self._option_string_actions, n=1) if words else []
        hint = f" (did you mean {near[0]}?)" if near and near[0] != words[0] else ""
        self.exit(EXIT_SETTINGS, f"{self.prog}: {message}{hint}\n")


def _nested(flags: dict[str, Any]) -> dict[str, Any]:
    """mesh_trust_domain -> mesh.trust_domain."""
    mesh = {key.removeprefix("mesh_"): value for key, value in flags.items() if key.startswith("mesh_")}
    plain = {key: value for key, value in flags.items() if not key.startswith("mesh_")}
    return {**plain, "mesh": mesh} if mesh else plain


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="gossamer-controlplane",
        description="The control plane of the Gossamer mesh: policies in etcd, xDS to agents, Envoys and gRPC clients.",
        epilog="Every setting can also stand in the file of --config (YAML, the names with underscores) or in the "
        "environment (GOSSAMER_ and the name in capitals). Flags win over the environment, which wins over the file.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gossamer-controlplane {_version()}")
    parser.add_argument("--config", metavar="FILE", help="settings in YAML")
    for name, field in Settings.model_fields.items():
        if name == "mesh":
            continue
        flag, help_text = "--" + name.replace("_", "-"), str(field.description)
        if field.annotation is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
        else:
            shown = f"{help_text} (default: {field.default})" if field.default not in ("", None) else help_text
            parser.add_argument(flag, metavar=_metavar(name, field.default), help=shown.replace("%", "%%"))
    group = parser.add_argument_group("mesh", "mesh-wide facts; in the file below `mesh:`")
    for name, field in MeshSettings.model_fields.items():
        group.add_argument(
            "--mesh-" + name.replace("_", "-"), metavar="VALUE", help=f"{field.description} (default: {field.default})"
        )
    return parser


def _metavar(name: str, default: Any) -> str:
    if name in ("rest", "grpc_mtls", "grpc_tls", "xds_plaintext", "etcd"):
        return "HOST:PORT"
    if name.endswith("_file") or name in ("etcd_ca", "etcd_cert", "etcd_key"):
        return "FILE"
    if name in ("state_dir", "embedded_etcd"):
        return "DIR"
    return "N" if isinstance(default, int | float) else "VALUE"


def _read_file(path: str) -> dict[str, Any]:
    try:
        value = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MeshError(ErrorCode.SETTINGS, f"cannot read {path}: {error}", subject="--config") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MeshError(ErrorCode.SETTINGS, f"found {type(value).__name__}, expected a mapping", subject=path)
    return value


def _raise_file_limit() -> None:
    """As many descriptors as the system allows: each agent holds connections (decision 26)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version() -> str:
    try:
        return version("gossamer")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
