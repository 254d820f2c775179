"""`make bench-dataplane`: the agent beside Envoy, fed by the same control plane with the same policies.

Both run one worker with JSON access log, outlier detection, retries and limits on. Load generator and origin are pinned
to core 0, the proxy under test to core 1; the candidates take turns in every round and medians are compared.

    plaintext  client -> outbound proxy -> origin
    mtls       client -> outbound proxy -> (mTLS) -> inbound proxy of the same kind -> origin; both proxies are counted

CPU per request is all threads of all processes of the proxy (the agent's supervisor too). Ratio > 1: better than Envoy.
`agent` is the pure build, `compiled` the one that `make build` has made, when there is one.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench import machine
from controlplane.cli.local_mesh import LocalAgent, LocalMesh, LocalService, Process, request, wait_until
from tests.support import envoys

ROOT = Path(__file__).parents[1]
HELPERS, PROXY = 0, 1  # cores
FIXED_RATE = 2000.0
SCENARIOS = ("plaintext", "mtls")
MIN_LINE_BYTES = 500  # of the access log
COMPILED = ROOT / "build" / "compiled"
BUILDS = {"agent": (2, 4), "compiled": (6, 7)}  # addresses of the inbound and the outbound proxy

POLICIES = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: plain}}
spec:
  hosts: [plain.bench]
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 9000}}]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{{address: {origin}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: plain}}
spec:
  host: plain.bench
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: 1000}}, http: {{http1MaxPendingRequests: 1000}}}}
    outlierDetection: {{consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: plain}}
spec:
  hosts: [plain.bench]
  http:
  - match: [{{uri: {{prefix: /never}}, headers: {{x-never: {{exact: "1"}}}}}}]
    route: [{{destination: {{host: plain.bench}}}}]
  - route: [{{destination: {{host: plain.bench}}}}]
    timeout: 15s
    retries: {{attempts: 2, retryOn: "5xx,connect-failure"}}
"""

MESH_POLICIES = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}}}
spec:
  host: {name}
  trafficPolicy:
    connectionPool: {{tcp: {{maxConnections: 1000}}, http: {{http1MaxPendingRequests: 1000}}}}
    outlierDetection: {{consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: [{name}]
  http:
  - route: [{{destination: {{host: {name}}}}}]
    timeout: 15s
    retries: {{attempts: 2, retryOn: "5xx,connect-failure"}}
"""

STRICT = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
"""


@dataclass(frozen=True)
class Candidate:
    """`pids`: the processes that serve `authority` at `address`; `logs`: the access logs that they write."""

    name: str
    scenario: str
    address: str
    authority: str
    pids: tuple[int, ...]
    logs: tuple[Path, ...]

    @property
    def logged_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.logs if path.exists())


@dataclass(frozen=True)
class Pair:
    """An inbound and an outbound proxy of one kind: their processes and access logs in this order."""

    name: str
    address: str
    pids: tuple[int, int]
    logs: tuple[Path, Path]

    @classmethod
    def of_agents(cls, build: str, inbound: LocalAgent, outbound: LocalAgent) -> "Pair":
        logs = (inbound.state_dir / "access.log", outbound.state_dir / "access.log")
        return cls(build, outbound.outbound, (inbound.process.pid, outbound.process.pid), logs)

    def candidate(self, scenario: str) -> Candidate:
        """All that serves a scenario: with mutual TLS both, else the outbound one."""
        inbound, outbound = map(machine.tree_pids, self.pids)
        if scenario == "mtls":
            return Candidate(self.name, scenario, self.address, f"by-{self.name}", (*outbound, *inbound), self.logs)
        return Candidate(self.name, scenario, self.address, "plain.bench", tuple(outbound), self.logs[1:])


def builds_of(wanted: str) -> tuple[str, ...]:
    """The builds of the agent to be measured. Exits when the compiled one is wanted and not there."""
    there = (COMPILED / "agent").is_dir()
    if wanted in ("compiled", "both") and not there:
        raise SystemExit(f"{COMPILED} is not there: run make build first")
    return {"pure": ("agent",), "compiled": ("compiled",)}.get(wanted, ("agent", "compiled") if there else ("agent",))


class BenchMesh(LocalMesh):
    """Agents named `compiled-*` are of the compiled build."""

    def spawn(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        build = {"PYTHONPATH": str(COMPILED)} if name.startswith("compiled") else {}
        return super().spawn(name, command, env={**(env or {}), **build})


class Bench:
    """One run: the mesh, its candidates, the measurements."""

    def __init__(self, mesh: LocalMesh, options: argparse.Namespace, console: Console) -> None:
        self.mesh, self.options, self.console = mesh, options, console
        self.builds = builds_of(options.build)
        self.samples: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
        self.fixed: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
        self.idle_mib: dict[tuple[str, str], float] = {}

    def start(self) -> list[Candidate]:
        """The control plane, an origin, and two proxies of each kind."""
        mesh = self.mesh
        control_plane = mesh.start_control_plane()
        origin = mesh.address(9)
        script = str(Path(__file__).with_name("origin.py"))
        for number in (9, 3, *(BUILDS[build][0] for build in self.builds)):
            process = mesh.spawn(f"origin-{number}", [sys.executable, script, mesh.address(number), "9000"])
            machine.pin(process.pid, HELPERS)
        rules = [MESH_POLICIES.format(name=f"by-{name}") for name in ("envoy", *self.builds)]
        mesh.apply("---\n".join((POLICIES.format(origin=origin), *rules, STRICT)))
        agents = {build: self.start_agents(build) for build in self.builds}
        workload = "name=by-envoy,namespace=default,service-account=by-envoy,port=9000"
        inbound = envoys.start_envoy(
            mesh, "envoy-in", 3, f"{workload},address={mesh.address(3)},inbound-port=20000,labels.app=by-envoy"
        )
        outbound = envoys.start_envoy(mesh, "envoy-out", 5)
        machine.pin(control_plane.pid, HELPERS)
        for process in (outbound, inbound, *(agent.process for pair in agents.values() for agent in pair)):
            machine.pin(process.pid, PROXY)
        of_envoy = Pair("envoy", f"{mesh.address(5)}:15001", (inbound.pid, outbound.pid), (inbound.log, outbound.log))
        pairs = [of_envoy, *(Pair.of_agents(build, *pair) for build, pair in agents.items())]
        candidates = [pair.candidate(scenario) for scenario in SCENARIOS for pair in pairs]
        for candidate in candidates:
            wait_until(
                f"{candidate.name} serves {candidate.scenario}",
                lambda c=candidate: request(c.address, "GET", "/", headers={"Host": c.authority}).status == 200,
                timeout_s=30,
            )
        return candidates

    def start_agents(self, build: str) -> tuple[LocalAgent, LocalAgent]:
        """The inbound and the outbound one."""
        inbound, outbound = BUILDS[build]
        service = LocalService(name=f"by-{build}", port=9000, check=False)
        return (
            self.mesh.start_agent(f"{build}-in", inbound, (service,)),
            self.mesh.start_agent(f"{build}-out", outbound),
        )

    def load(self, candidate: Candidate, *, seconds: float, rate: float = 0.0) -> dict[str, float]:
        """One run of the load generator against a candidate, with the CPU time that the proxy spent meanwhile."""
        host, _, port = candidate.address.rpartition(":")
        command = [
            *("taskset", "-c", str(HELPERS), sys.executable, "-m", "bench.load", host, port),
            *("--authority", candidate.authority, "--connections", str(self.options.connections)),
            *("--seconds", str(seconds), "--warmup", "0.5", "--rate", str(rate)),
            *("--watch", *map(str, candidate.pids)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 60, cwd=ROOT)
        result: dict[str, float] = json.loads(done.stdout)
        result["rps"] = result["requests"] / result["seconds"]
        result["cpu_us"] = result["cpu_s"] / max(result["requests"], 1) * 1e6
        return result

    def run(self, candidates: list[Candidate]) -> None:
        """The rounds, interleaved; every other one backwards, so that nobody always follows the same."""
        for candidate in candidates:
            self.idle_mib[candidate.scenario, candidate.name] = machine.pss_mib(*candidate.pids)
        for number in range(self.options.rounds):
            for candidate in candidates if number % 2 == 0 else reversed(candidates):
                key = (candidate.scenario, candidate.name)
                self.samples[key].append(self.load(candidate, seconds=self.options.seconds))
                self.fixed[key].append(self.load(candidate, seconds=self.options.seconds, rate=FIXED_RATE))
                self.console.print(
                    f"round {number + 1}/{self.options.rounds}  {candidate.scenario:<9} {candidate.name:<8} "
                    f"{self.samples[key][-1]['rps']:8.0f} rps  {self.samples[key][-1]['cpu_us']:6.1f} us CPU/request",
                    highlight=False,
                )
        for candidate in candidates:
            served = sum(sample["requests"] for sample in self.samples[candidate.scenario, candidate.name])
            if candidate.logged_bytes < served * MIN_LINE_BYTES:
                raise SystemExit(f"{candidate.name} has not logged its requests, so it has done less than the other")

    def result(self) -> dict[str, Any]:
        """Medians and ratios as plain data."""

        def median(samples: list[dict[str, float]], field: str) -> float:
            return statistics.median(sample[field] for sample in samples)

        rows = []
        for scenario in SCENARIOS:
            envoy_us = median(self.samples[scenario, "envoy"], "cpu_us")
            for name in ("envoy", *self.builds):
                samples, fixed = self.samples[scenario, name], self.fixed[scenario, name]
                cpu_us = median(samples, "cpu_us")
                rows.append(
                    {
                        "scenario": scenario,
                        "proxy": name,
                        "rps": round(median(samples, "rps")),
                        "cpu_us_per_request": round(cpu_us, 1),
                        "rps_per_core": round(1e6 / cpu_us),
                        "ratio_to_envoy": round(envoy_us / cpu_us, 2),
                        "p50_ms": round(median(fixed, "p50_ms"), 2),
                        "p99_ms": round(median(fixed, "p99_ms"), 2),
                        "errors": sum(int(sample["errors"]) for sample in samples + fixed),
                        "pss_idle_mib": round(self.idle_mib[scenario, name], 1),
                        # Of the first round: later ones find what the other scenario has left in the same proxy.
                        "pss_loaded_mib": round(samples[0]["pss_mib"], 1),
                    }
                )
        return {
            "machine": machine.describe(),
            "method": {
                "rounds": self.options.rounds, "seconds": self.options.seconds,
                "connections": self.options.connections, "fixed_rate_rps": FIXED_RATE,
            },
            "rows": rows,
        }  # fmt: skip


def show(console: Console, result: dict[str, Any]) -> None:
    """The table."""
    about = result["machine"]
    console.print(
        f"\n{about['cpu']}, {about['cores']} cores, kernel {about['kernel']}, Python {about['python']}, "
        f"Envoy {about['envoy']}, one worker each; medians of {result['method']['rounds']} rounds; "
        f"latency at {FIXED_RATE:.0f} requests/s",
        highlight=False,
    )
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    titles = (
        "CPU us\n/req",
        "req/s\n/core",
        "x\nEnvoy",
        "req/s",
        "p50\nms",
        "p99\nms",
        "MiB\nidle",
        "MiB\nload",
        "err",
    )
    for title in ("", "", *titles):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for row in result["rows"]:
        table.add_row(
            row["scenario"], row["proxy"], f"{row['cpu_us_per_request']:.1f}", str(row["rps_per_core"]),
            f"{row['ratio_to_envoy']:.2f}", str(row["rps"]), f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}",
            f"{row['pss_idle_mib']:.1f}", f"{row['pss_loaded_mib']:.1f}", str(row["errors"]),
        )  # fmt: skip
    console.print(table)


def plot(result: dict[str, Any], path: Path) -> None:
    """CPU per request and p99, side by side."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.4))
    panels: list[tuple[str, Callable[[dict[str, Any]], float]]] = [
        ("CPU us per request", lambda row: row["cpu_us_per_request"]),
        (f"p99 ms at {FIXED_RATE:.0f}/s", lambda row: row["p99_ms"]),
        ("PSS MiB, loaded", lambda row: row["pss_loaded_mib"]),
    ]
    labels = [f"{row['scenario']}\n{row['proxy']}" for row in result["rows"]]
    colours = ["#8a8a8a" if row["proxy"] == "envoy" else "#2a6fbb" for row in result["rows"]]
    for axis, (title, value) in zip(axes, panels, strict=True):
        bars = axis.bar(labels, [value(row) for row in result["rows"]], color=colours)
        axis.bar_label(bars, fmt="%.1f", fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="The agent beside Envoy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--build", choices=("pure", "compiled", "both", "any"), default="any", help="of the agent")
    options = parser.parse_args()
    console = Console()
    console.width = max(console.width, 90)
    with (
        tempfile.TemporaryDirectory(prefix="gossamer-bench-") as folder,
        BenchMesh(Path(folder), subnet="127.78.1") as mesh,
    ):
        bench = Bench(mesh, options, console)
        bench.run(bench.start())
        result = bench.result()
    show(console, result)
    path = machine.save("dataplane", result)
    plot(result, path.with_suffix(".png"))
    console.print(f"written: {path} and {path.with_suffix('.png').name}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
