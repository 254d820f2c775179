"""The two builds: which one runs, and what a compiled one needs. `make test-compiled` runs this with the compiled."""

import os
import subprocess
import sys
from pathlib import Path

from agent.codec import plain
from agent.proxy import exchange
from agent.supervisor.build import BUILD
from agent.upstream import wheel

ROOT = Path(__file__).parents[2]


def test_the_build_is_the_one_that_is_meant() -> None:
    """Else a suite would pass on the compiled build without running it."""
    assert os.environ.get("GOSSAMER_BUILD", "pure") == BUILD
    expected = ".so" if BUILD == "compiled" else ".py"
    assert {Path(str(module.__file__)).suffix for module in (plain, exchange, wheel)} == {expected}


def test_processes_of_a_test_are_of_the_same_build() -> None:
    told = subprocess.run(
        [sys.executable, "-P", "-c", "from agent.supervisor.build import BUILD; print(BUILD)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == BUILD


def test_nothing_is_compiled_into_the_source_tree() -> None:
    """It would hide the file that is edited."""
    assert [*ROOT.glob("*.so"), *(ROOT / "agent").rglob("*.so"), *(ROOT / "mesh").rglob("*.so")] == []


def test_without_a_compiler_the_message_says_what_to_do() -> None:
    environ = {**os.environ, "GOSSAMER_COMPILE": "1", "CC": "/nowhere/cc"}
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "no C compiler: '/nowhere/cc' is not found" in done.stderr
    assert "apt-get install gcc" in done.stderr
    assert "pure build needs neither" in done.stderr
