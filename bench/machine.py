"""What a benchmark says about where it ran, and what it reads of processes: CPU time, memory, pinning."""

import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"


def tree(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def pin(pid: int, *cores: int) -> None:
    """Bind every thread of the process and its descendants to these cores."""
    for process in tree(pid):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, cores)


def tree_pids(pid: int) -> tuple[int, ...]:
    """The process and all its descendants, by number."""
    return tuple(process.pid for process in tree(pid))


def cpu_s(*pids: int) -> float:
    """CPU seconds of these processes so far, all threads, from the scheduler's nanoseconds."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                continue
    return total / 1e9


def pss_mib(*pids: int) -> float:
    """Proportional set size of these processes (decision 31)."""
    total = 0
    for pid in pids:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found.group(1)) if found else 0
    return total / 1024


def describe() -> dict[str, Any]:
    """The machine and the versions, for the head of every table and file."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    envoy = subprocess.run(
        [str(Path(sys.executable).parent / "envoy"), "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"/(\d+\.\d+\.\d+[^/]*)/", envoy.stdout)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": model.group(1) if model else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gossamer": version("gossamer"),
        "envoy": found.group(1) if found else "",
        "uvloop": version("uvloop"),
        "grpcio": version("grpcio"),
    }


def save(name: str, result: dict[str, Any]) -> Path:
    """Write `bench/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path
