"""`make bench-controlplane`: changes to many delta streams, reconnection of all of them, and what it costs.

The clients are pinned to core 0: one process that holds one connection per stream, as light as it can be (grpc_stream).
The control plane and its embedded etcd may use all cores. Time runs from the moment before the REST request until the
last stream has the change: REST, validation, etcd's fsync, watch, compile and delivery.
No peer runs beside: no other control plane that runs without Kubernetes can be installed from a package registry.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import controlplane_report, machine
from controlplane.cli.local_mesh import LocalMesh, Process, wait_until

CLIENTS = 0  # core
# All streams come at once: neither that the control plane paces them (200/s unless told otherwise) is measured, nor
# that it cuts off who does not read for 30 s, as a thousand clients on one core may.
_ADMISSION = ("--admission-per-s", "20000", "--send-timeout-s", "120")
_ENDPOINTS = 10
_SETTLE_S = 120.0
_REST_S = 15.0  # what a burst leaves free goes back to the system after some seconds
Row = dict[str, Any]


def service_entry(number: int, endpoints: list[str], *, private: bool = False) -> str:
    """`bench-N.mesh` with its endpoints. `private`: only its own namespace sees it."""
    lines = "".join(f"  - {{address: {address}}}\n" for address in endpoints)
    return (
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n"
        f"metadata: {{name: bench-{number}}}\n"
        f"spec:\n  hosts: [bench-{number}.mesh]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n"
        f"{'  exportTo: [.]' + chr(10) if private else ''}"
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


def whole_mesh(connections: int) -> str:
    """A DestinationRule for every host: each cluster of each proxy changes."""
    return (
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: everything}\n"
        "spec:\n  host: '*.mesh'\n"
        f"  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {connections}}}}}}}\n"
    )


class Clients:
    """The process that holds the streams."""

    def __init__(self, target: str, streams: int, *, mixed: bool = False) -> None:
        self._popen = subprocess.Popen(
            [
                *("taskset", "-c", str(CLIENTS), sys.executable, "-m", "bench.delta_streams", target, str(streams)),
                *(["--mixed"] if mixed else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.connected = self.read("connected")

    @property
    def pid(self) -> int:
        return self._popen.pid

    def read(self, event: str) -> Row:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        if not line:
            raise SystemExit(f"the clients ended with {self._popen.wait(10)}")
        fields: Row = json.loads(line)
        assert fields["event"] == event, fields
        return fields

    def tell(self, command: str, event: str) -> Row:
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{command}\n")
        self._popen.stdin.flush()
        return self.read(event)

    def close(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait(60)


class Bench:
    """One mesh of one size and its measurements."""

    def __init__(self, mesh: LocalMesh, services: int, say: Callable[[str], None]) -> None:
        self.mesh, self.services, self._say = mesh, services, say
        self._marks = 0
        self.process = self._start()
        entries = [
            service_entry(number, [f"10.{number // 200}.{number % 200}.{host + 1}" for host in range(_ENDPOINTS)])
            for number in range(services)
        ]
        for at in range(0, services, 100):
            mesh.apply("---\n".join(entries[at : at + 100]))
        mesh.apply(virtual_service("first"))
        self.settle()

    def _start(self) -> Process:
        return self.mesh.start_control_plane(
            "--xds-plaintext", f"{self.mesh.address(1)}:18002", "--log-level", "warning", *_ADMISSION
        )

    def clients(self, streams: int, *, mixed: bool = False) -> Clients:
        return Clients(str(self.mesh.ready["xds_plaintext"]), streams, mixed=mixed)

    def cpu_s(self) -> float:
        """Of the control plane, etcd included."""
        return machine.cpu_s(*machine.tree_pids(self.process.pid))

    def settle(self) -> None:
        """Wait until the server is idle but for its ticks, so that one measurement does not pay for the other."""
        until = time.monotonic() + _SETTLE_S
        while time.monotonic() < until:
            before = self.cpu_s()
            time.sleep(0.25)
            if self.cpu_s() - before < 0.03:
                return

    def end(self, clients: Clients) -> None:
        clients.close()
        wait_until("the streams' end", lambda: not self.mesh.rest("GET", "/mesh/v1/proxies").json["items"])
        self.settle()

    # --- changes

    def manifest(self, kind: str) -> tuple[str, str]:
        """The next change of a kind and the bytes by which it is known."""
        self._marks += 1
        if kind == "endpoint":
            marker = f"172.20.{self._marks // 200}.{self._marks % 200 + 1}"
            return service_entry(0, [*(f"10.0.0.{host}" for host in range(1, _ENDPOINTS)), marker]), marker
        if kind == "private endpoint":
            marker = f"172.21.{self._marks // 200}.{self._marks % 200 + 1}"
            return service_entry(self.services, [marker], private=True), marker
        marker = f"mark{self._marks}z"
        return virtual_service(marker), marker

    def change(self, clients: Clients, kind: str, streams: int) -> Row:
        """Apply the next change and wait until `streams` have seen it."""
        manifest, marker = self.manifest(kind)
        clients.tell(f"expect {marker} {streams}", "expecting")
        cpu, begun = self.cpu_s(), time.time()
        revision = self.mesh.apply(manifest)
        stored = time.time()
        seen = clients.read("delivered")
        self.mesh.rest("GET", f"/mesh/v1/revisions/{revision}?wait=30s")
        time.sleep(0.2)  # the ACKs cost the server too
        return {
            "stored_ms": (stored - begun) * 1000,
            "first_ms": (seen["first"] - begun) * 1000,
            "last_ms": (seen["last"] - begun) * 1000,
            "cpu_us_per_stream": (self.cpu_s() - cpu) * 1e6 / streams,
            "bytes_per_stream": seen["bytes"] / streams,
            "others_bytes": seen["others_bytes"] + clients.tell("counts", "counts")["others_bytes"],
        }

    def changes(self, clients: Clients, kind: str, streams: int, rounds: int) -> Row:
        """Medians over several changes, and the worst time."""
        samples = [self.change(clients, kind, streams) for _ in range(rounds)]
        row: Row = {"change": kind, "services": self.services, "streams": streams, "samples": samples}
        row |= {field: round(statistics.median(one[field] for one in samples), 1) for field in samples[0]}
        row["worst_ms"] = round(max(one["last_ms"] for one in samples), 1)
        row["others_bytes"] = sum(one["others_bytes"] for one in samples)
        self._say(f"{self.services} services, {streams} streams, {kind} change: last {row['last_ms']} ms")
        return row

    def acknowledged(self, clients: Clients, streams: int, posts: int) -> Row:
        """From the POST of a policy to the answer that all have acknowledged it."""
        times = []
        for _ in range(posts):
            manifest, _ = self.manifest("route")
            times.append(self._post_and_wait(manifest)["ms"])
        clients.tell("counts", "counts")
        times.sort()
        row = {
            "services": self.services,
            "streams": streams,
            "posts": posts,
            "p50_ms": round(statistics.median(times), 1),
            "p99_ms": round(times[min(len(times) - 1, int(len(times) * 0.99))], 1),
            "samples": times,
        }
        self._say(f"POST to the last ACK: p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms")
        return row

    def whole(self, clients: Clients, streams: int, rounds: int) -> Row:
        """A rule for every host: from the POST to the last ACK."""
        samples = []
        for number in range(rounds):
            clients.tell("counts", "counts")
            cpu = self.cpu_s()
            sample = self._post_and_wait(whole_mesh(100 + number))
            sample["cpu_us_per_stream"] = (self.cpu_s() - cpu) * 1e6 / streams
            sample["bytes_per_stream"] = clients.tell("counts", "counts")["bytes"] / streams
            samples.append(sample)
            self.settle()
        row: Row = {"services": self.services, "streams": streams, "samples": samples}
        row |= {field: round(statistics.median(one[field] for one in samples), 1) for field in samples[0]}
        self._say(f"whole-mesh change: last ACK after {row['ms']} ms")
        return row

    def _post_and_wait(self, manifest: str) -> Row:
        begun = time.monotonic()
        reply = self.mesh.rest("POST", "/mesh/v1/batch?wait=60s", manifest, timeout_s=90.0)
        if reply.status not in (200, 201):
            raise SystemExit(f"POST answered {reply.status}: {reply.body[:300]!r}")
        return {"ms": (time.monotonic() - begun) * 1000}

    # --- connecting

    def memory_mib(self) -> float:
        """Of the control plane without etcd."""
        return machine.pss_mib(self.process.pid)

    def reconnect(self, clients: Clients, streams: int) -> Row:
        """All streams end and come back at once with unchanged versions."""
        cpu = self.cpu_s()
        return self.came("mass reconnect", clients.tell("reconnect", "connected"), streams, cpu)

    def cold_start(self, clients: Clients, streams: int) -> Row:
        """kill -9, a start on the same store and ports, and all streams come back."""
        clients.tell("comeback", "waiting")
        self.process.popen.kill()
        self.process.popen.wait(10)
        begun = time.time()
        self.process = self._start()
        ready_s = time.time() - begun
        row = self.came("cold start", clients.read("connected"), streams, 0.0, begun)
        return {**row, "ready_s": round(ready_s, 2)}

    def came(self, what: str, told: Row, streams: int, cpu: float, begun: float | None = None) -> Row:
        """All streams have come. `begun`: when, unless the clients began it."""
        self.settle()
        row = {
            "event": what,
            "services": self.services,
            "streams": streams,
            "last_s": round(told["last"] - (begun or told["began"]), 2),
            "cpu_us_per_stream": round((self.cpu_s() - cpu) * 1e6 / streams),
            "bytes_per_stream": round(told["bytes"] / streams),
            "bodies": told["resources"],
        }
        self._say(f"{what} of {streams} streams: {row['last_s']} s, {row['bodies']} resource bodies")
        return row


def measure_curves(run: "Run", sizes: list[tuple[int, list[int]]], rounds: int) -> list[Row]:
    """Endpoint and route changes over numbers of services and streams."""
    rows: list[Row] = []
    for services, counts in sizes:
        with run.mesh(services) as bench:
            for streams in counts:
                clients = bench.clients(streams)
                bench.settle()
                rows += [bench.changes(clients, kind, streams, rounds) for kind in ("endpoint", "route")]
                bench.end(clients)
    return rows


class _Mesh:
    def __init__(self, services: int, subnet: str, say: Callable[[str], None]) -> None:
        self._services, self._subnet, self._say = services, subnet, say
        self._folder = tempfile.TemporaryDirectory(prefix="gossamer-bench-")
        self._mesh = LocalMesh(Path(self._folder.name), subnet=subnet)

    def __enter__(self) -> Bench:
        try:
            return Bench(self._mesh, self._services, self._say)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self._mesh.close()
        self._folder.cleanup()


class Run:
    """Makes meshes, each on addresses of its own."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._count = 0

    def mesh(self, services: int) -> _Mesh:
        self._count += 1
        return _Mesh(services, f"127.78.{self._count}", self._say)


def measure_main(run: Run, options: argparse.Namespace) -> Row:
    """Everything at the main size."""
    streams, rounds = options.streams, options.rounds
    with run.mesh(options.services) as bench:
        empty_mib, cpu = bench.memory_mib(), bench.cpu_s()
        clients = bench.clients(streams)
        found: Row = {"connect": bench.came("first connect", clients.connected, streams, cpu)}
        found["memory_kib"] = round((bench.memory_mib() - empty_mib) * 1024 / streams, 1)
        found["changes"] = [bench.changes(clients, kind, streams, rounds) for kind in ("endpoint", "route")]
        found["acknowledged"] = bench.acknowledged(clients, streams, options.posts)
        found["whole"] = bench.whole(clients, streams, 3)
        found["reconnect"] = bench.reconnect(clients, streams)
        time.sleep(_REST_S)
        found["memory_later_kib"] = round((bench.memory_mib() - empty_mib) * 1024 / streams, 1)
        found["cold_start"] = bench.cold_start(clients, streams)
        bench.end(clients)
        bench.mesh.apply(bench.manifest("private endpoint")[0])
        clients = bench.clients(min(streams, 200), mixed=True)
        bench.settle()
        found["interest"] = bench.changes(clients, "private endpoint", min(streams, 200) // 2, 3)
        bench.end(clients)
    return found


def measure_many(run: Run, services: int, streams: int, rounds: int) -> Row:
    """Endpoint changes to very many streams."""
    with run.mesh(services) as bench:
        empty_mib = bench.memory_mib()
        clients = bench.clients(streams)
        bench.settle()
        memory = round((bench.memory_mib() - empty_mib) * 1024 / streams, 1)
        row = bench.changes(clients, "endpoint", streams, rounds)
        clients.close()
    return {**row, "memory_kib": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description="Changes to many delta streams")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--many", type=int, default=5000, help="streams of the largest endpoint change; 0 = leave out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--posts", type=int, default=100)
    parser.add_argument("--full", action="store_true", help="the cost curves over all sizes; takes long")
    options = parser.parse_args()
    console = Console()
    say = lambda text: console.print(text, highlight=False, soft_wrap=True)  # noqa: E731
    run = Run(say)
    result: Row = {"machine": machine.describe(), "rounds": options.rounds, "endpoints": _ENDPOINTS}
    result["main"] = measure_main(run, options)
    if options.many:
        result["many"] = measure_many(run, 100, options.many, options.rounds)
    counts = [10, 100, 1000, *([options.many] if options.many else [])] if options.full else [10, 100]
    sizes = [(services, counts) for services in ((10, 100, 1000) if options.full else (10, 1000))]
    result["curves"] = measure_curves(run, sizes, options.rounds if options.full else 5)
    controlplane_report.show(say, result)
    path = machine.save("controlplane", result)
    controlplane_report.plot(result, path.with_suffix(".png"))
    say(f"written: {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
