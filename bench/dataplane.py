"""`make bench-dataplane`: the agent beside Envoy, fed by the same control plane with the same policies.

Both write a JSON access log, with outlier detection, retries and limits on, and have as many workers. Load generator
and origin are pinned to one core, the proxy under test to another; in every round the proxies take turns in each
scenario, every other round backwards; medians are compared. Scenarios (dataplane_scenarios, `--list`) go

    outbound   client -> outbound proxy -> origin
    mesh       client -> outbound proxy -> (mTLS) -> inbound proxy of the same kind -> origin; both proxies are counted

CPU per request is all threads of all processes of the proxy (the agent's supervisor too). Ratio > 1: better than Envoy.
`agent` is the pure build, `compiled` the one that `make build` has made, when there is one; HAProxy and nginx run where
they do the same work, when they are installed. `--only`, `--rounds`, `--seconds` make it short, `--full` long.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import dataplane_report, machine
from bench.dataplane_policies import Policies
from bench.dataplane_proxies import HELPERS, PEERS, ROOT, BenchMesh, Candidate, Proxies, builds_of
from bench.dataplane_scenarios import SCENARIOS, STAGES, Scenario, Shape
from controlplane.cli.local_mesh import LocalMesh, Reply, request, wait_until

WARM_UP_S = 0.4
MIN_LINE_BYTES = 500  # of the access log
MIN_PEER_LINE_BYTES = 200
_APPLIED_S = 180.0

Sample = dict[str, float]


class Bench:
    """One run: the mesh, who takes part, the measurements."""

    def __init__(self, mesh: LocalMesh, options: argparse.Namespace, console: Console) -> None:
        self.options, self.console = options, console
        self.mesh = mesh
        self.scenarios = [own for own in SCENARIOS if not options.only or own.name in options.only]
        self.proxies = Proxies(mesh, builds_of(options.build))
        self.policies = Policies(mesh.address(9), [f"by-{kind}" for kind in self.proxies.kinds])
        self.samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
        self.idle_mib: dict[str, dict[str, float]] = {}
        self._logged: dict[Path, int] = defaultdict(int)  # bytes
        self._served: dict[Path, float] = defaultdict(float)  # bytes that the log must have at least

    def run(self) -> None:
        """Stage after stage; a stage that no scenario is in is left out."""
        self.proxies.start_control_plane()
        self._apply("base")
        self.proxies.start(self.scenarios)
        for stage in STAGES:
            scenarios = [own for own in self.scenarios if own.stage == stage]
            if stage != "base" and scenarios:
                self.mesh.wait_revision(self._apply(stage), timeout_s=_APPLIED_S)
            if scenarios:
                self._stage(stage, scenarios)
        for path, least in self._served.items():
            if self._logged[path] < least:
                raise SystemExit(f"{path} has less than {least:.0f} bytes: not all that was served has been logged")

    def _apply(self, stage: str) -> int:
        revision = 0
        for batch in self.policies.batches(stage):
            revision = self.mesh.apply(batch)
        return revision

    def _stage(self, stage: str, scenarios: Sequence[Scenario]) -> None:
        taking_part = [(scenario, self.proxies.of(scenario)) for scenario in scenarios]
        for scenario, candidates in taking_part:
            for candidate in candidates:
                self._check(scenario, candidate)
        self.idle_mib[stage] = self.proxies.idle_mib()
        for scenario, candidates in taking_part:
            for candidate in candidates if len(scenario.authorities) > 1 else ():
                self._load(scenario, candidate)  # connections to each of so many clusters are opened once
        for number in range(self.options.rounds):
            for scenario, candidates in taking_part:
                for candidate in candidates if number % 2 == 0 else reversed(candidates):
                    self._measure(number, scenario, candidate)

    def _check(self, scenario: Scenario, candidate: Candidate) -> None:
        """Wait until the candidate answers as it should, through its last authority too."""
        for authority in {candidate.authorities[0], candidate.authorities[-1]}:
            is_right = functools.partial(self._is_right, scenario, candidate, authority)
            wait_until(f"{candidate.name} serves {scenario.name}", is_right, timeout_s=30)
        if scenario.stage == "guarded":
            refuses = functools.partial(self._refuses, candidate)
            wait_until(f"{candidate.name} refuses who has no token", refuses, timeout_s=30)

    def _refuses(self, candidate: Candidate) -> bool:
        return self._ask(Shape(), candidate, candidate.authorities[0]).status == 403

    def _ask(self, shape: Shape, candidate: Candidate, authority: str) -> Reply:
        fields = dict(field.format(session=1, token=self.policies.tokens[0]).split(": ", 1) for field in shape.fields)
        # http.client sends an iterable in chunks.
        body: Any = iter((b"x" * shape.sends,)) if shape.chunked else b"x" * shape.sends or None
        return request(
            candidate.address, shape.method, shape.path.format(n=1), body=body, headers={**fields, "Host": authority}
        )

    def _is_right(self, scenario: Scenario, candidate: Candidate, authority: str) -> bool:
        shape, reply = scenario.shape, self._ask(scenario.shape, candidate, authority)
        received = int(reply.headers.get("x-received", "0"))
        if (reply.status, reply.body, received) == (200, b"x" * shape.answer, shape.sends):
            return True
        raise ValueError(f"{reply.status}, {len(reply.body)} bytes, {received} received: {reply.body[:100]!r}")

    def _measure(self, number: int, scenario: Scenario, candidate: Candidate) -> None:
        sample = self._load(scenario, candidate)
        self.samples[scenario.name, candidate.name].append(sample)
        for path in candidate.logs:
            self._logged[path] += path.stat().st_size
            os.truncate(path, 0)  # all write at the end
            line = MIN_PEER_LINE_BYTES if candidate.name in PEERS else MIN_LINE_BYTES
            self._served[path] += sample["requests"] * line
        self.console.print(
            f"round {number + 1}/{self.options.rounds}  {scenario.name:<16} {candidate.name:<8} "
            f"{sample['rps']:8.0f} rps  {sample['cpu_us']:7.1f} us CPU/request",
            highlight=False,
        )

    def _load(self, scenario: Scenario, candidate: Candidate) -> Sample:
        """One run of the load generator against a candidate, with the CPU time that the proxy spent meanwhile."""
        host, _, port = candidate.address.rpartition(":")
        seconds = self.options.seconds
        command = [
            *("taskset", "-c", str(HELPERS), sys.executable, "-m", "bench.load", host, port),
            *("--connections", str(scenario.connections), "--rate", str(scenario.rate)),
            *("--seconds", str(seconds), "--warmup", str(WARM_UP_S)),
            *("--watch", *map(str, candidate.pids), "--helpers", *map(str, self.proxies.origins)),
        ]
        asked = {**asdict(scenario.shape), "authorities": candidate.authorities, "tokens": self.policies.tokens}
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=seconds + 60, cwd=ROOT
        )
        result: Sample = json.loads(done.stdout)
        result["rps"] = result["requests"] / result["seconds"]
        result["cpu_us"] = result["cpu_s"] / max(result["requests"], 1) * 1e6
        return result

    def result(self) -> dict[str, Any]:
        """All of it as plain data."""
        rows = [
            dataplane_report.row(scenario, candidate.name, self.samples)
            for scenario in self.scenarios
            for candidate in self.proxies.of(scenario)
        ]
        return {
            "machine": machine.describe(),
            "method": {"rounds": self.options.rounds, "seconds": self.options.seconds},
            "not_installed": self.proxies.missing,
            "rows": rows,
            "idle_mib": {
                stage: {name: round(mib, 1) for name, mib in of_stage.items()}
                for stage, of_stage in self.idle_mib.items()
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description="The agent beside Envoy")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument("--only", nargs="+", choices=names, default=[], metavar="SCENARIO", help="; ".join(names))
    parser.add_argument("--rounds", type=int, default=0, help="default: 3, with --full 7")
    parser.add_argument("--seconds", type=float, default=0.0, help="of each measurement; default: 1, with --full 3")
    parser.add_argument("--full", action="store_true", help="more and longer rounds")
    parser.add_argument("--build", choices=("pure", "compiled", "both", "any"), default="any", help="of the agent")
    parser.add_argument("--list", action="store_true", help="say what the scenarios are, and end")
    options = parser.parse_args()
    options.rounds = options.rounds or (7 if options.full else 3)
    options.seconds = options.seconds or (3.0 if options.full else 1.0)
    console = Console()
    console.width = max(console.width, 96)
    if options.list:
        dataplane_report.show_scenarios(console)
        return
    with (
        tempfile.TemporaryDirectory(prefix="gossamer-bench-") as folder,
        BenchMesh(Path(folder), subnet="127.78.1") as mesh,
    ):
        bench = Bench(mesh, options, console)
        bench.run()
        result = bench.result()
    dataplane_report.show(console, result)
    if options.only:
        return  # the file is of whole runs
    path = machine.save("dataplane", result)
    dataplane_report.plot(result, path.with_suffix(".png"))
    console.print(f"written: {path} and {path.with_suffix('.png').name}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
