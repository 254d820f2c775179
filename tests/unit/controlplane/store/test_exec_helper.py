"""The helper that makes a program die with its parent."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from controlplane.store import exec_helper


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", exec_helper.__file__, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )


def test_it_becomes_the_program_with_its_arguments_from_any_folder(tmp_path: Path) -> None:
    ended = run(str(os.getpid()), "/bin/sh", "-c", 'echo "$0 $1"; exit 7', "a b", "c", cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "a b c\n", "")


def test_the_kernel_is_asked_for_the_signal() -> None:
    code = "import ctypes; r = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(r)); print(r.value)"
    ended = run(str(os.getpid()), sys.executable, "-c", code)
    assert ended.stdout == "9\n"


def test_a_parent_that_has_gone_already_starts_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    ended = run("1" if os.getpid() != 1 else "2", "/bin/sh", "-c", f"touch {mark}")
    assert ended.returncode == 71
    assert not mark.exists()


@pytest.mark.parametrize("program", ["/nowhere/etcd", "/etc"])
def test_a_program_that_cannot_be_run_is_named(program: str) -> None:
    ended = run(str(os.getpid()), program)
    assert ended.returncode == 127
    assert ended.stderr.startswith(f"{program}: ")
