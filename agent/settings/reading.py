"""The settings from where they stand: defaults < TOML file < environment < flags.

Owns:   the file, the variables GOSSAMER_AGENT_<SECTION>_<KEY> (for example GOSSAMER_AGENT_PROXY_WORKERS), who wins.
Not:    the keys (keys), building them from tables (tables), the flags' names (agent.__main__).
Source: deploy/README.md.
Invariants: an unknown section, variable or key raises SETTINGS naming it and the nearest known one. A path is absolute,
        or relative to the folder of the file that names it.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from agent.settings.keys import SECTIONS, SYSTEM_ROOTS, Service, Settings, service
from agent.settings.tables import build, error, key_of, nearest

ENV_PREFIX = "GOSSAMER_AGENT_"
MAX_SERVICES = 1000
# Relative ones are relative to the folder of the file.
_PATHS = (
    ("control_plane", "token_file"),
    ("control_plane", "tls_ca"),
    ("control_plane", "tls_cert"),
    ("control_plane", "tls_key"),
    ("proxy", "state_dir"),
)


def read_file(path: Path) -> dict[str, Any]:
    """The file's tables, its paths made absolute. Raises SETTINGS."""
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError as problem:
        raise error(str(path), "no such file", "name one with --config") from problem
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise error(str(path), str(problem)) from problem
    for section, key in _PATHS:
        table = tables.get(section)
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key] not in ("", SYSTEM_ROOTS):
            table[key] = str(path.absolute().parent / table[key])
    return tables


def read_environment(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """GOSSAMER_AGENT_<SECTION>_<KEY> as tables. Raises SETTINGS for a variable that names no key."""
    known = {
        f"{ENV_PREFIX}{section}_{key_of(item)}".upper(): (section, key_of(item))
        for section, cls in SECTIONS.items()
        for item in fields(cls)
    }
    found: dict[str, dict[str, Any]] = {}
    for variable, value in environ.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        if variable not in known:
            raise error(variable, "unknown variable", nearest(variable, known))
        section, key = known[variable]
        found.setdefault(section, {})[key] = value
    return found


def load(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, Mapping[str, Any]] | None = None
) -> Settings:
    """All settings. `flags`: section -> key -> value. Raises SETTINGS."""
    tables = read_file(path) if path is not None else {}
    where = str(path) if path is not None else "settings"
    for key in tables:
        if key not in SECTIONS and key != "service":
            raise error(f"{where}: {key}", "unknown section", nearest(key, [*SECTIONS, "service"]))
    environment = read_environment(environ)
    sections: dict[str, Any] = {
        name: build(cls, _merged(name, tables, environment, flags or {}, where), f"{where}: {name}")
        for name, cls in SECTIONS.items()
    }
    listed = tables.get("service", [])
    if not isinstance(listed, list) or len(listed) > MAX_SERVICES:
        raise error(f"{where}: service", f"expected at most {MAX_SERVICES} tables [[service]]")
    services = tuple(service(table, f"{where}: service[{index}]") for index, table in enumerate(listed))
    _require_distinct_ids(services, where)
    return Settings(services=services, **sections)


def _merged(name: str, *sources_and_where: Any) -> dict[str, Any]:
    *sources, where = sources_and_where
    merged: dict[str, Any] = {}
    for source in sources:
        table = source.get(name, {})
        if not isinstance(table, Mapping):
            raise error(f"{where}: {name}", f"found {table!r}, expected a table")
        merged.update(table)
    return merged


def _require_distinct_ids(services: tuple[Service, ...], where: str) -> None:
    seen: set[str] = set()
    for index, item in enumerate(services):
        if item.id in seen:
            raise error(f"{where}: service[{index}].id", f"found {item.id!r} twice, ids are unique on a node")
        seen.add(item.id)
