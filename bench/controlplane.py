"""`make bench-controlplane`: one endpoint change and one route change to many delta streams.

The control plane (with its embedded etcd) is pinned to core 1, the clients to core 0. Time runs from the moment before
the REST request until the last stream has the change: REST, validation, etcd's fsync, watch, compile and delivery.
No peer runs beside: no other control plane that runs without Kubernetes can be installed from a package registry.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import machine
from controlplane.cli.local_mesh import LocalMesh, Process, wait_until

CLIENTS, SERVER = 0, 1  # cores


def service_entry(number: int, endpoints: list[str]) -> str:
    """`bench-N.mesh` with its endpoints."""
    lines = "".join(f"  - {{address: {address}}}\n" for address in endpoints)
    return (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
        f"metadata: {{name: bench-{number}}}\n"
        f"spec:\n  hosts: [bench-{number}.mesh]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
        f"  location: MESH_INTERNAL\n  resolution: STATIC\n  endpoints:\n{lines}"
    )


def virtual_service(marker: str) -> str:
    """A route of bench-0 whose prefix is `marker`."""
    return (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bench-0}\n"
        "spec:\n  hosts: [bench-0.mesh]\n  http:\n"
        f"  - match: [{{uri: {{prefix: /{marker}}}}}]\n    route: [{{destination: {{host: bench-0.mesh}}}}]\n"
        "  - route: [{destination: {host: bench-0.mesh}}]\n"
    )


class Clients:
    """The process that holds the streams."""

    def __init__(self, target: str, streams: int) -> None:
        self._popen = subprocess.Popen(
            ["taskset", "-c", str(CLIENTS), sys.executable, "-m", "bench.delta_streams", target, str(streams)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready = self._read("ready")

    def _read(self, event: str) -> dict[str, Any]:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise SystemExit(f"the clients ended with {self._popen.wait(10)}")
        fields: dict[str, Any] = json.loads(line)
        assert fields["event"] == event, fields
        return fields

    def expect(self, marker: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"expect {marker}\n")
        self._popen.stdin.flush()
        self._read("expecting")

    def delivered(self) -> dict[str, Any]:
        return self._read("delivered")

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(20)


class Bench:
    """The mesh and its measurements."""

    def __init__(self, mesh: LocalMesh, options: argparse.Namespace, console: Console) -> None:
        self.mesh, self.options, self.console = mesh, options, console
        self.rows: list[dict[str, Any]] = []
        self.marks = 0

    def start(self) -> Process:
        process = self.mesh.start_control_plane("--xds-plaintext", f"{self.mesh.address(1)}:18002")
        entries = [
            service_entry(number, [f"10.{number // 200}.{number % 200}.{host}" for host in range(1, 11)])
            for number in range(self.options.services)
        ]
        for at in range(0, len(entries), 100):
            self.mesh.apply("---\n".join(entries[at : at + 100]))
        self.mesh.apply(virtual_service("first"))
        machine.pin(process.pid, SERVER)
        return process

    def change(self, clients: Clients, process: Process, manifest: str, marker: str) -> dict[str, float]:
        """Apply `manifest`, wait until every stream has seen `marker`."""
        clients.expect(marker)
        cpu, begun = machine.cpu_s(process.pid), time.time()
        self.mesh.apply(manifest)
        stored = time.time()
        seen = clients.delivered()
        time.sleep(0.3)  # the ACKs cost the server too
        return {
            "stored_ms": (stored - begun) * 1000,
            "first_ms": (seen["first"] - begun) * 1000,
            "last_ms": (seen["last"] - begun) * 1000,
            "cpu_ms": (machine.cpu_s(process.pid) - cpu) * 1000,
            "bytes": float(seen["bytes"]),
        }

    def measure(self, process: Process, streams: int) -> None:
        """All changes at one number of streams."""
        before_mib = machine.pss_mib(process.pid)
        clients = Clients(str(self.mesh.ready["xds_plaintext"]), streams)
        memory_kib = (machine.pss_mib(process.pid) - before_mib) * 1024 / streams
        for kind in ("endpoint", "route"):
            samples = []
            for _ in range(self.options.rounds):
                self.marks += 1
                if kind == "endpoint":
                    marker = f"172.20.{self.marks // 200}.{self.marks % 200 + 1}"
                    hosts = [*(f"10.0.0.{host}" for host in range(1, 10)), marker]
                    samples.append(self.change(clients, process, service_entry(0, hosts), marker))
                else:
                    marker = f"mark{self.marks}z"
                    samples.append(self.change(clients, process, virtual_service(marker), marker))
            row: dict[str, Any] = {"change": kind, "streams": streams, "services": self.options.services}
            for field in ("stored_ms", "first_ms", "last_ms", "cpu_ms"):
                row[field] = round(statistics.median(sample[field] for sample in samples), 1)
            row["last_ms_worst"] = round(max(sample["last_ms"] for sample in samples), 1)
            row["cpu_us_per_stream"] = round(row["cpu_ms"] * 1000 / streams, 1)
            row["bytes_per_stream"] = round(statistics.median(sample["bytes"] for sample in samples) / streams)
            row["memory_kib_per_stream"] = round(memory_kib, 1)
            row["connect_s"] = round(clients.ready["seconds"], 2)
            self.rows.append(row)
            self.console.print(f"{streams} streams, {kind} change: last delivery {row['last_ms']} ms", highlight=False)
        clients.close()
        wait_until("the streams' end", lambda: not self.mesh.rest("GET", "/mesh/v1/proxies").json["items"])


def show(console: Console, result: dict[str, Any]) -> None:
    """The table."""
    about = result["machine"]
    console.print(
        f"\n{about['cpu']}, {about['cores']} cores, Python {about['python']}, grpcio {about['grpcio']}; "
        f"{result['rows'][0]['services']} services of 10 endpoints; medians of {result['rounds']} changes",
        highlight=False,
    )
    titles = ("change", "streams", "stored ms", "first ms", "last ms", "worst ms", "CPU us/stream", "bytes/stream", "KiB/stream", "connect s")  # fmt: skip # noqa: E501
    fields = ("change", "streams", "stored_ms", "first_ms", "last_ms", "last_ms_worst", "cpu_us_per_stream", "bytes_per_stream", "memory_kib_per_stream", "connect_s")  # fmt: skip # noqa: E501
    table = Table()
    for title in titles:
        table.add_column(title, justify="left" if title == "change" else "right")
    for row in result["rows"]:
        table.add_row(*(str(row[field]) for field in fields))
    console.print(table)


def plot(result: dict[str, Any], path: Path) -> None:
    """Time to the last delivery and CPU over the number of streams."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4))
    for axis, (field, title) in zip(
        axes, (("last_ms", "ms from POST to the last delivery"), ("cpu_ms", "server CPU ms")), strict=True
    ):
        for kind in ("endpoint", "route"):
            rows = [row for row in result["rows"] if row["change"] == kind]
            axis.plot(
                [row["streams"] for row in rows], [row[field] for row in rows], marker="o", label=f"{kind} change"
            )
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("delta streams")
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Changes to many delta streams")
    parser.add_argument("--streams", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--services", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="gossamer-bench-") as folder,
        LocalMesh(Path(folder), subnet="127.78.2") as mesh,
    ):
        bench = Bench(mesh, options, console)
        process = bench.start()
        for streams in options.streams:
            bench.measure(process, streams)
        result = {"machine": machine.describe(), "rounds": options.rounds, "rows": bench.rows}
    show(console, result)
    path = machine.save("controlplane", result)
    plot(result, path.with_suffix(".png"))
    console.print(f"written: {path} and {path.with_suffix('.png').name}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
