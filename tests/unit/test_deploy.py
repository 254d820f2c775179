"""deploy/ fits the programs: settings are taken, flags exist, named files are there, systemd accepts the units."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import __main__ as agent_main
from controlplane import __main__ as controlplane_main
from controlplane import settings
from controlplane.store.etcd.binary import find_binary

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
DOCKERFILES = sorted(DEPLOY.glob("docker/*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def take(program: str, arguments: list[str]) -> None:
    """The program's own parser takes the arguments; a wrong one exits."""
    name = Path(program).name
    assert name in SCRIPTS, program
    if name == "gossamer-agent":
        agent_main.parse(arguments)
        return
    assert name == "gossamer-controlplane"
    flags = vars(controlplane_main._parser().parse_args(arguments))
    given = {key: value for key, value in flags.items() if value is not None}
    given.setdefault("embedded_etcd" if "etcd" not in given else "etcd", "etcd")
    settings.load(flags=controlplane_main._nested(given))


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("agents/*.toml")), ids=lambda path: path.name)
def test_every_agent_file_passes_the_agents_own_check(path: Path) -> None:
    command = [sys.executable, "-P", "-m", "agent", "--config", str(path), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_agent_file_does_not_pass(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text((DEPLOY / "agents" / "node-1.toml").read_text().replace("workers = 1 ", "wokers = 1 "))
    command = [sys.executable, "-P", "-m", "agent", "--config", str(path), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 64
    assert "workers" in done.stderr


# --- systemd


def directives(path: Path) -> dict[str, list[str]]:
    """`Section.Key` -> values, in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            section = match[1]
        elif line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals, f"{path.name}: {line}"
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_what_is_installed_with_flags_that_exist(path: Path) -> None:
    found = directives(path)
    (start,) = found["Service.ExecStart"]
    program, *arguments = shlex.split(start)
    take(program, [word for word in arguments if not word.startswith("$")])
    state = arguments[arguments.index("--state-dir") + 1]
    assert state == f"/var/lib/{found['Service.StateDirectory'][0]}"
    assert found["Service.RestartPreventExitStatus"] == ["64"], "wrong settings do not heal by themselves"
    assert found["Service.User"] == ["gossamer"]
    assert found["Service.NoNewPrivileges"] == found["Service.PrivateTmp"] == ["yes"]
    assert found["Service.ProtectSystem"] == ["strict"]
    assert found["Service.CapabilityBoundingSet"] == [""]
    assert found["Install.WantedBy"] == ["multi-user.target"]


def test_the_agents_workers_outlive_its_supervisor() -> None:
    found = directives(DEPLOY / "systemd" / "gossamer-agent.service")
    assert found["Service.KillMode"] == ["process"]
    assert found["Service.ExecReload"] == ["/bin/kill -HUP $MAINPID"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_a_unit(path: Path, tmp_path: Path) -> None:
    """Where there is no systemd, its syntax alone is checked: sections, and keys that it knows."""
    program = shutil.which("systemd-analyze")
    if program is None:
        sections = {key.partition(".")[0] for key in directives(path)}
        assert sections == {"Unit", "Service", "Install"}
        return
    # The program need not be installed here for the rest to be verified.
    text = re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", path.read_text())
    unit = tmp_path / path.name
    unit.write_text(text.replace("User=gossamer", "User=root").replace("Group=gossamer", "Group=root"))
    done = subprocess.run([program, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60,
                          check=False)  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert complaints == []


# --- images


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, rest) with continuations joined."""
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    return [
        (line.split(maxsplit=1)[0], line.split(maxsplit=1)[1])
        for line in text.replace("\\\n", " ").splitlines()
        if line
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_copies_what_is_there_and_runs_what_it_installs(path: Path) -> None:
    steps = instructions(path)
    for instruction, rest in steps:
        if instruction == "COPY" and not rest.startswith("--from="):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
    (entrypoint,) = (json.loads(rest) for instruction, rest in steps if instruction == "ENTRYPOINT")
    if entrypoint != ["etcd"]:
        take(entrypoint[0], entrypoint[1:])
    users = [rest for instruction, rest in steps if instruction == "USER"]
    assert users
    assert users[-1] not in ("root", "0")


def test_the_images_install_the_extras_that_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for path in DOCKERFILES:
        for extras in re.findall(r"\.\[([\w,]+)\]", path.read_text()):
            assert set(extras.split(",")) <= set(known)


# --- compose


def test_compose_builds_from_files_that_are_there() -> None:
    for name, service in COMPOSE["services"].items():
        context = (DEPLOY / service["build"]["context"]).resolve()
        assert context == ROOT, name
        assert (context / service["build"]["dockerfile"]).is_file(), name
        for wanted in service.get("depends_on", {}):
            assert wanted in COMPOSE["services"]
        for volume in service["volumes"]:
            assert volume.partition(":")[0] in COMPOSE["volumes"]
        for secret in service.get("secrets", ()):
            assert secret in COMPOSE["secrets"]


def test_compose_says_how_its_secret_is_made() -> None:
    """The file is not in the repository; its header makes it, in the form that the control plane reads."""
    text = (DEPLOY / "compose.yaml").read_text()
    assert COMPOSE["secrets"]["api-tokens"]["file"] == "./api-tokens"
    assert "> deploy/api-tokens" in text
    assert re.search(r"sha256sum", text)


def test_compose_starts_the_control_plane_with_settings_that_are_taken() -> None:
    service = COMPOSE["services"]["controlplane"]
    take("gossamer-controlplane", service["command"])
    given = dict(flag.removeprefix("--").split("=", 1) for flag in service["command"])
    etcds = {name for name in COMPOSE["services"] if name.startswith("etcd-")}
    assert {address.partition(":")[0] for address in given["etcd"].split(",")} == etcds
    published = {port.rpartition(":")[2] for port in service["ports"]}
    assert published == {given[name].rpartition(":")[2] for name in ("rest", "grpc-mtls", "grpc-tls")}


def test_compose_gives_every_etcd_the_same_cluster_and_the_limits_that_the_control_plane_is_told() -> None:
    told = dict(flag.removeprefix("--").split("=", 1) for flag in COMPOSE["services"]["controlplane"]["command"])
    for name in (f"etcd-{number}" for number in (1, 2, 3)):
        given = dict(flag.removeprefix("--").split("=", 1) for flag in COMPOSE["services"][name]["command"])
        assert given["name"] == name
        assert given["initial-cluster"] == ",".join(f"etcd-{n}=http://etcd-{n}:2380" for n in (1, 2, 3))
        assert given["initial-advertise-peer-urls"] == f"http://{name}:2380"
        assert given["max-txn-ops"] == told["etcd-max-txn-ops"]
        assert given["max-request-bytes"] == told["etcd-max-request-bytes"]


@pytest.mark.etcd
def test_etcd_has_every_flag_that_compose_gives_it() -> None:
    helped = subprocess.run([str(find_binary()), "--help"], capture_output=True, text=True, timeout=30, check=False)
    known = set(re.findall(r"--[a-z-]+", helped.stdout + helped.stderr))
    for number in (1, 2, 3):
        assert {flag.partition("=")[0] for flag in COMPOSE["services"][f"etcd-{number}"]["command"]} <= known
