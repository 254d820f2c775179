"""docs/examples: every example's commands as they are written, against one running mesh, and what they print.

The mesh is started as the examples' own page says. Addresses and the folder are replaced by ones that are this run's.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from controlplane.cli.local_mesh import Reply, request, wait_until
from tests.support import curl, examples, meshes, terminals

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
NAMES = sorted(page.parent.name for page in EXAMPLES.glob("*/README.md"))
SHARED = "/tmp/gossamer"
START_S, EXAMPLE_S = 60.0, 30.0


@dataclass(frozen=True, slots=True)
class Lab:
    """A checkout with the examples at this run's addresses, and its running mesh."""

    folder: Path
    address: str
    env: Mapping[str, str]

    def send(self, method: str, path: str, body: str = "", *, port: int = 8080) -> Reply:
        return request(f"{self.address}:{port}", method, path, body=body)

    def rest(self, path: str) -> Reply:
        return self.send("GET", path)

    def endpoints(self) -> list[tuple[str, str]]:
        """(instance, health) of all; EJECTED for one that somebody ejects."""
        items = self.rest("/mesh/v1/endpoints").json["items"]
        return sorted((item["id"], "EJECTED" if item["ejections"] else item["health"]) for item in items)

    def objects(self) -> dict[str, int]:
        return dict(self.rest("/mesh/v1/status").json["objects"])


PORTS = (3001, 3002, 3003)
OBJECTS = {
    "/apis/networking.istio.io/v1/namespaces/default": ("virtualservices", "destinationrules", "gateways"),
    "/apis/security.istio.io/v1/namespaces/default": ("requestauthentications", "authorizationpolicies"),
    "/apis/gossamer.mesh/v1/namespaces/default": ("circuitbreakers", "bulkheads", "ratelimits"),
}
USUAL = [("order-1", "HEALTHY"), ("user-1", "HEALTHY"), ("user-2", "HEALTHY")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("examples")
    found = prepared(folder)
    first, second = (step.commands for step in examples.steps((found.folder / "docs/examples/README.md").read_text()))
    with TemporaryFile() as served, TemporaryFile() as noted:
        shells = [terminals.terminal(first, served, folder=found.folder, env=found.env)]
        try:
            wait_until("the control plane", lambda: found.rest("/readyz").status == 200, timeout_s=START_S)
            shells.append(terminals.terminal(second, noted, folder=found.folder, env=found.env))
            wait_until("its services", lambda: found.endpoints() == USUAL, timeout_s=START_S)
            wait_until("the agent", lambda: request(f"{found.address}:15000", "GET", "/ready").status == 200)
            yield found
        finally:
            for shell in reversed(shells):
                terminals.close(shell)


def prepared(folder: Path) -> Lab:
    """The examples copied, at addresses and in a folder of this run."""
    network = f"127.{90 + meshes.worker_number()}.253"
    checkout = folder / "checkout"
    shutil.copytree(EXAMPLES, checkout / "docs" / "examples")
    (checkout / ".venv").symlink_to(sys.prefix)
    for path in checkout.glob("docs/examples/**/*.*"):
        text = path.read_text().replace("127.0.0.", f"{network}.").replace(SHARED, str(folder / "state"))
        path.write_text(text)
    (folder / "state").mkdir(mode=0o700)
    ports = {"REST": 8080, "GRPC_MTLS": 18000, "GRPC_TLS": 18001}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GOSSAMER_")}
    settings = {f"GOSSAMER_{name}": f"{network}.1:{port}" for name, port in ports.items()}
    env = {**clean, **curl.on_path(folder), **settings, "GOSSAMER_SERVER": f"http://{network}.1:8080"}
    env["PATH"] = f"{sys.prefix}/bin:{env['PATH']}"
    return Lab(checkout, f"{network}.1", env)


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failing example leaves behind is no other's affair."""
    yield
    lab = request.getfixturevalue("lab") if "lab" in request.fixturenames else None
    if lab is not None and not as_it_was(lab):
        for path, kinds in OBJECTS.items():
            for kind in kinds:
                for item in lab.rest(f"{path}/{kind}").json["items"]:
                    lab.send("DELETE", f"{path}/{kind}/{item['metadata']['name']}")
        for port in PORTS:
            lab.send("PUT", "/behaviour", "{}", port=port)


def as_it_was(lab: Lab) -> bool:
    """The mesh as every example finds it."""
    answers = [lab.send("GET", "/behaviour", port=port).json for port in PORTS]
    usual = all((item["status"], item["health"], item["delay_s"]) == (200, 200, 0) for item in answers)
    return usual and lab.endpoints() == USUAL and lab.objects() == {"Service": 1}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(120)
def test_an_example_prints_what_it_says_and_leaves_nothing_behind(lab: Lab, name: str) -> None:
    folder = lab.folder / "docs" / "examples" / name
    found = examples.steps((folder / "README.md").read_text())
    assert sum(step.shown is not None for step in found) >= 1
    printed = examples.typed(found, folder, lab.env, timeout_s=EXAMPLE_S)
    wrong = [examples.differences(step, text) for step, text in zip(found, printed, strict=True)]
    assert not any(wrong), "\n".join(filter(None, wrong))
    wait_until("the mesh as it was", lambda: as_it_was(lab))


def test_every_example_is_in_the_index() -> None:
    index = (EXAMPLES / "README.md").read_text()
    assert len(NAMES) >= 11
    assert [name for name in NAMES if f"({name}/README.md)" not in index] == []


def test_the_own_curl_knows_what_the_examples_ask_of_it() -> None:
    """Every flag that a page gives curl is one that the stand-in takes."""
    commands = [
        command
        for page in EXAMPLES.glob("**/README.md")
        for step in examples.steps(page.read_text())
        for command in curls(step.commands)
    ]
    assert len(commands) >= 20
    for words in commands:
        assert curl.parse(words).url.startswith("http://127.0.0.")


def curls(text: str) -> list[list[str]]:
    """The arguments of each call of curl, as a shell that calls a function of that name would give them."""
    script = (
        "curl() { printf '%s\\0' \"$@\" >&3; printf '\\n\\0' >&3; }\n"
        "for name in meshctl python gossamer-agent gossamer-controlplane kill until grep sort uniq; do :; done\n"
        "meshctl() { :; }; python() { :; }; gossamer-agent() { :; }; kill() { :; }; grep() { cat; }\n"
        "gossamer-controlplane() { :; }; sleep() { exit; }\n"
    )
    with TemporaryFile() as calls:
        subprocess.run(
            ["bash", "-c", f"exec 3>&{calls.fileno()}\n{script}{text}"],
            pass_fds=[calls.fileno()], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        calls.seek(0)
        found = calls.read().decode()
    return [call.split("\0")[:-1] for call in found.split("\n\0") if call]
