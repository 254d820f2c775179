"""`gossamer-agent --config FILE.toml [flags]`: reads the settings, runs the agent, says how it ended.

Exit codes: 0 stopped as asked, 3 a successor has taken over (--replace), 64 bad settings (nothing was bound), 70 a part
failed (the workers serve on for the next start), 75 another agent runs with the state directory.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from agent import settings as settings_module
from agent.settings import Settings
from mesh import logs
from mesh.errors import ErrorCode, MeshError

# flag -> (section, key, what it is)
FLAGS: Mapping[str, tuple[str, str, str]] = {
    "--node": ("node", "name", "the node's name"),
    "--node-address": ("node", "address", "where other nodes reach this one"),
    "--locality": ("node", "locality", "region/zone/subzone"),
    "--control-plane": ("control_plane", "address", "host:port of its mTLS port"),
    "--join-address": ("control_plane", "join_address", "host:port of its server-TLS port"),
    "--token-file": ("control_plane", "token_file", "the join token; used only when there is no identity yet"),
    "--control-plane-mode": ("control_plane", "mode", "mesh, or xds for a server that is not ours"),
    "--xds-protocol": ("control_plane", "protocol", "delta or sotw"),
    "--trust-domain": ("control_plane", "trust_domain", "of the mesh"),
    "--state-dir": ("proxy", "state_dir", "keys, last known good, sockets for upgrades"),
    "--workers": ("proxy", "workers", "a number, or auto = one per core"),
    "--outbound-address": ("proxy", "outbound_address", "where outbound ports listen"),
    "--outbound-port": ("proxy", "outbound_port", "the node-wide outbound port"),
    "--workload-port-start": ("proxy", "workload_port_start", "the first outbound port of a workload"),
    "--inbound-port-range": ("proxy", "inbound_port_range", "first-last"),
    "--admin": ("proxy", "admin", "host:port of the admin and registration API"),
    "--access-log": ("proxy", "access_log", "file, relative to the state directory"),
    "--keys": ("proxy", "keys", "disk or memory; with memory a restart needs a new token"),
    "--log-level": ("log", "level", "debug, info, warning or error"),
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line. An unknown flag exits 64."""
    parser = _Parser(prog="gossamer-agent", description="The agent of one node of a Gossamer mesh.", allow_abbrev=False)
    parser.add_argument("--config", type=Path, help="TOML file; flags override GOSSAMER_AGENT_*, which overrides it")
    for flag, (_, _, meaning) in FLAGS.items():
        parser.add_argument(flag, help=meaning)
    parser.add_argument("--log-json", action="store_true", default=None, help="log lines as JSON")
    parser.add_argument("--replace", action="store_true", help="take the place of the agent that runs now")
    parser.add_argument("--check", action="store_true", help="only check the settings")
    return parser.parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        words = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        near = get_close_matches(words[0], self._option_string_actions, n=1) if words else []
        hint = f" (did you mean {near[0]}?)" if near and near[0] != words[0] else ""
        self.exit(64, f"{self.prog}: {message}{hint}\n")


def load(options: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """The settings. Raises SETTINGS."""
    flags: dict[str, dict[str, Any]] = {}
    for flag, (section, key, _) in FLAGS.items():
        value = getattr(options, flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            flags.setdefault(section, {})[key] = value
    if options.log_json is not None:
        flags.setdefault("log", {})["json"] = options.log_json
    return settings_module.load(options.config, environ, flags)


def main() -> int:
    """The console script."""
    options = parse(sys.argv[1:])
    try:
        settings = load(options, os.environ)
    except MeshError as error:
        print(f"gossamer-agent: {error}", file=sys.stderr)
        return 64
    if options.check:
        return 0
    logs.configure(level=settings.log.level, as_json=settings.log.json)
    return _run(options, settings)


def _run(options: argparse.Namespace, settings: Settings) -> int:
    # Imported late: bad settings are told in milliseconds, before gRPC and the xDS messages are loaded.
    import uvloop

    from agent.app import Agent, Ending, raise_file_limit
    from agent.supervisor.detection import make_detector
    from agent.xds.decoding import decode_foreign, decode_resource

    log = logs.get_logger(__name__)

    def may_restart() -> bool:
        """Are the settings on disk good? Else the agent goes on with what it has."""
        try:
            load(options, os.environ)
        except MeshError as error:
            log.error("not restarted: the settings are bad", reason=str(error))
            return False
        return True

    async def serve() -> Ending:
        decode = decode_resource if settings.control_plane.is_ours else decode_foreign
        agent = Agent(settings, decode, make_detector, may_restart=may_restart)
        return await agent.run(replace_other=options.replace)

    raise_file_limit()
    try:
        ending = uvloop.run(serve())
    except MeshError as error:
        print(f"gossamer-agent: {error}", file=sys.stderr)
        return {ErrorCode.SETTINGS: 64, ErrorCode.CONFLICT: 75}.get(error.code, 70)
    if ending is Ending.RESTART:
        os.execv(sys.executable, [sys.executable, *_again(sys.orig_argv[1:])])
    return int(ending)


def _again(arguments: Sequence[str]) -> list[str]:
    """The command line of the next program: `--replace` has been obeyed once."""
    return [argument for argument in arguments if argument != "--replace"]


if __name__ == "__main__":
    sys.exit(main())
