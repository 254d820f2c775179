"""README's quickstart, typed as it is written.

Its ports and folder are everybody's, so it runs in a network and mount namespace of its own: as root, or as any user
with a user namespace. Where the system allows neither, its address and folder are replaced by ones that are this run's.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import curl as curl_module
from tests.support import meshes

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
FOLDER = "/tmp/gossamer"
_NAMESPACES = (["unshare", "--net", "--mount"], ["unshare", "--map-root-user", "--net", "--mount"])


def blocks(title: str) -> list[str]:
    """The shell blocks of a section of README.md."""
    section = re.search(rf"^## {title}$(.*?)^## ", (ROOT / "README.md").read_text(), re.M | re.S)
    assert section is not None
    return re.findall(r"^```sh\n(.*?)^```$", section[1], re.M | re.S)


def namespace() -> list[str]:
    """The command that makes the namespaces and hides FOLDER; nothing where that is not allowed."""
    hide = f'mkdir -p {FOLDER} && mount -t tmpfs -o mode=0700 none {FOLDER} && exec "$@"'
    for command in _NAMESPACES:
        whole = [*command, "sh", "-c", hide, "sh"]
        try:
            if subprocess.run([*whole, "true"], capture_output=True, timeout=20, check=False).returncode == 0:
                return whole
        except FileNotFoundError:
            break
    return []


def own(text: str, folder: Path, address: str) -> str:
    """The same, at an address and in a folder of this run."""
    text = text.replace(FOLDER, str(folder)).replace("127.0.0.1", address)
    return text.replace("port = 3001", f'port = 3001\naddress = "{address}"')  # applications are sought on 127.0.0.1


def environment(address: str) -> dict[str, str]:
    """For `own`: what the quickstart leaves at its default."""
    ports = {"REST": 8080, "GRPC_MTLS": 18000, "GRPC_TLS": 18001}
    return {
        **{f"GOSSAMER_{name}": f"{address}:{port}" for name, port in ports.items()},
        "GOSSAMER_SERVER": f"http://{address}:8080",
        "GOSSAMER_AGENT_PROXY_OUTBOUND_ADDRESS": address,
        "GOSSAMER_AGENT_PROXY_ADMIN": f"{address}:15000",
    }


def typed(tmp_path: Path, *, private: list[str]) -> dict[str, object]:
    """Run both blocks; how the second ended and what both printed."""
    first, second = blocks("Quickstart")
    address, extra = "127.0.0.1", {}
    if not private:
        address = f"127.{90 + meshes.worker_number()}.254.1"
        extra = environment(address)
        first, second = own(first, tmp_path, address), own(second, tmp_path, address)
    task = tmp_path / "task.json"
    task.write_text(json.dumps({"first": first, "ready": f"http://{address}:8080/readyz", "second": second}))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GOSSAMER_")}
    clean |= {**curl_module.on_path(tmp_path), **extra}
    done = subprocess.run(
        [*private, sys.executable, "-m", "tests.support.terminals", str(task)],
        cwd=ROOT, capture_output=True, text=True, timeout=180, check=False, env=clean,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def assert_it_worked(done: dict[str, object]) -> None:
    out = str(done["out"])
    assert done["code"] == 0, f"{out}\n{done['first']}"
    lines = out.splitlines()
    assert "served" in lines
    assert "HTTP/1.1 403 Forbidden" in [line.strip() for line in lines]
    assert re.search(r"^virtualservice\S*/docs created", out, re.M), out
    assert re.search(r"laptop.*HEALTHY|HEALTHY.*laptop", out), out


@pytest.mark.timeout(240)
def test_the_quickstart_can_be_typed_as_written(tmp_path: Path) -> None:
    assert_it_worked(typed(tmp_path, private=namespace()))


@pytest.mark.timeout(240)
def test_the_quickstart_at_an_address_of_its_own(tmp_path: Path) -> None:
    """The same with its settings from the environment: what the first test does where it may make no namespace."""
    assert_it_worked(typed(tmp_path, private=[]))


def test_the_own_curl_is_that_of_the_quickstart(tmp_path: Path) -> None:
    """Every flag that README gives curl is one that the stand-in knows."""
    commands = re.findall(r"curl ([^|&\n]*)", "\n".join(blocks("Quickstart")))
    assert len(commands) >= 2
    for command in commands:
        done = subprocess.run(["sh", "-c", f'for word in {command}; do echo "$word"; done'], capture_output=True,
                              text=True, check=True)  # fmt: skip
        assert curl_module.parse(done.stdout.splitlines()).url.startswith("http://127.0.0.1:15001/")
