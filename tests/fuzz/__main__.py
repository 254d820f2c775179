"""`python -m tests.fuzz --seconds 300`: every target for its share of the time, two at once. Exits 1 when one fails.

A failure is an exception, an input that takes more than HANG_S, memory above RSS_MIB, or the end of the process. Its
input stays in build/fuzz/NAME and is run again with `python -m tests.fuzz --replay NAME FILE`. What was learnt stays
there too: the next run begins with it.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "fuzz"
JOBS = 2
HANG_S = 10
RSS_MIB = 1024
MAX_BYTES = 8192  # of an input
START_S = 120  # imports, and the inputs that are there already


@dataclass(frozen=True, kw_only=True)
class Result:
    target: str
    runs: int
    per_second: int
    peak_mib: int
    failure: str  # what libFuzzer says, and where the input is; "" = none


def fuzz(target: Target, seconds: int) -> Result:
    """Run one target in a process of its own."""
    place = WORK / target.name
    inputs = place / "inputs"
    inputs.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (inputs / f"seed-{number}").write_bytes(seed)
    (place / "pieces").write_text("".join(f'"{_escaped(piece)}"\n' for piece in target.pieces))
    options = {
        "max_total_time": seconds, "timeout": HANG_S, "rss_limit_mb": RSS_MIB, "max_len": MAX_BYTES,
        "print_final_stats": 1, "dict": place / "pieces", "artifact_prefix": f"{place}/",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        target.name,
        *(f"-{key}={value}" for key, value in options.items()),
    ]
    log = place / "log"
    with log.open("wb") as out:
        done = subprocess.run(
            [*command, str(inputs)], cwd=ROOT, stdout=out, stderr=out, timeout=seconds + START_S, check=False
        )
    return _result(target.name, done.returncode, log)


def _escaped(piece: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in piece)


def _result(name: str, code: int, log: Path) -> Result:
    text = log.read_text(errors="replace")
    stats = {key: int(value) for key, value in re.findall(r"^stat::(\w+):\s+(\d+)", text, re.MULTILINE)}
    failure = ""
    if code:
        said = re.findall(
            r"Uncaught Python exception[^\n]*\n[^\n]*\n|ERROR: libFuzzer: [^\n]*|Test unit written to \S+", text
        )
        failure = f"exit {code}: {' '.join(' '.join(said).split())}; see {log}"
    runs = stats.get("number_of_executed_units", 0)
    per_second, peak = stats.get("average_exec_per_sec", 0), stats.get("peak_rss_mb", 0)
    return Result(target=name, runs=runs, per_second=per_second, peak_mib=peak, failure=failure)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="for all targets together (default 300)")
    parser.add_argument("--only", choices=sorted(TARGETS), nargs="+", default=list(TARGETS), help="these targets")
    parser.add_argument("--replay", nargs=2, metavar=("NAME", "FILE"), help="run one input through one target")
    options = parser.parse_args()
    if options.replay:
        name, file = options.replay
        TARGETS[name].check(Path(file).read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (make fuzz does that); it has wheels for x86-64 only", file=sys.stderr)
        return 69
    share = max(1, options.seconds * min(JOBS, len(options.only)) // len(options.only))
    with ThreadPoolExecutor(JOBS) as pool:
        results = list(pool.map(lambda name: fuzz(TARGETS[name], share), options.only))
    print(f"{'target':<12}{'inputs':>12}{'per second':>12}{'peak MiB':>10}   {share} s each")
    for result in results:
        numbers = f"{result.runs:>12}{result.per_second:>12}{result.peak_mib:>10}"
        print(f"{result.target:<12}{numbers}   {result.failure or 'ok'}")
    return int(any(result.failure for result in results))


if __name__ == "__main__":
    sys.exit(main())
