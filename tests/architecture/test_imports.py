"""What the two processes of an agent load, as real processes tell (import-linter sees only what is written down)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.workers import running_worker

ROOT = Path(__file__).parents[2]
NOT_IN_A_WORKER = {
    "google",
    "envoy",
    "grpc",
    "cryptography",
    "pydantic",
    "aiohttp",
    "yaml",
    "prometheus_client",
    "controlplane",
}
NOT_IN_A_SUPERVISOR = {"cryptography", "pydantic", "aiohttp", "prometheus_client", "yaml", "controlplane"}
SUPERVISOR_ONLY = (
    "agent.supervisor",
    "agent.admin",
    "agent.xds",
    "agent.config",
    "agent.identity",
    "agent.report",
    "agent.workloads",
)
"""A worker that has served a request tells at its end what it has loaded."""
TELLING = """
import atexit, sys
import agent.worker
atexit.register(lambda: open(sys.argv[-1], "w").write("\\n".join(sys.modules)))
sys.exit(agent.worker.main(sys.argv[1:-1]))
"""


def _tops(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.e2e
async def test_a_worker_never_loads_what_belongs_to_the_supervisor(tmp_path: Path) -> None:
    """Also not when it routes, matches regexes, forwards, logs and speaks TLS."""
    told = tmp_path / "modules"
    async with running_worker(tmp_path, program=("-c", TELLING), last=(str(told),)) as worker:
        await worker.serve_everything()
        worker.drain(1.0)
        assert await worker.exit_code() == 0
    modules = set(told.read_text().splitlines())
    assert "agent.worker" in modules
    assert not _tops(modules) & NOT_IN_A_WORKER
    assert not {name for name in modules if name.startswith(SUPERVISOR_ONLY)}


@pytest.mark.e2e
def test_a_supervisor_stays_light() -> None:
    """Everything that the console script loads for a run."""
    code = """
import sys
import agent.__main__, uvloop
from agent.app import Agent
from agent.supervisor.detection import make_detector
from agent.xds.decoding import decode_resource
print("\\n".join(sys.modules))
"""
    environ = {"PYTHONPATH": str(ROOT), **os.environ}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines())
    assert "agent.app" in modules
    assert not _tops(modules) & NOT_IN_A_SUPERVISOR
    assert not {name for name in modules if name.startswith(("agent.proxy", "agent.listener", "agent.worker"))}
