"""Shell blocks typed into terminals, as a reader of the documentation does it: python -m tests.support.terminals FILE.

FILE is JSON: {"first": text, "ready": URL, "second": text}. The first block runs until the end; when URL answers 200
the second one is run. Prints JSON: {"code", "out", "first"}: how the second one ended, and what both printed.

Not: private networks (tests.e2e.test_readme puts this process into one).
"""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

READY_S = 60.0
SECOND_S = 60.0
END_S = 15.0
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


def loopback_up() -> None:
    """Bring this network namespace's loopback up; nothing changes where it is up."""
    with socket.socket() as any_socket:
        asked = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked))[1]
        if not flags & _IFF_UP:
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def terminal(
    text: str, output: IO[bytes], *, folder: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """A shell of its own process group that runs the block in `folder` and stops at what fails."""
    return subprocess.Popen(
        ["bash", "-e", "-o", "pipefail", "-c", text], cwd=folder, env=env,
        stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def close(shell: "subprocess.Popen[bytes]") -> None:
    """End what a terminal started, as closing its window does."""
    for number, seconds in ((signal.SIGTERM, END_S), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(shell.pid, number)
        except ProcessLookupError:
            break
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and alive(shell):
            time.sleep(0.05)
    shell.wait(5)


def alive(shell: "subprocess.Popen[bytes]") -> bool:
    shell.poll()
    try:
        os.killpg(shell.pid, 0)
    except ProcessLookupError:
        return False
    return True


def read(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")


def run(first: str, ready: str, second: str) -> dict[str, object]:
    with TemporaryFile() as served, TemporaryFile() as typed:
        server = terminal(first, served)
        user = None
        try:
            deadline = time.monotonic() + READY_S
            while not answers(ready):
                if server.poll() is not None or time.monotonic() > deadline:
                    return {"code": -1, "out": "", "first": read(served)}
                time.sleep(0.1)
            user = terminal(second, typed)
            try:
                code = user.wait(SECOND_S)
            except subprocess.TimeoutExpired:
                code = -2
            return {"code": code, "out": read(typed), "first": read(served)}
        finally:
            for shell in filter(None, (user, server)):
                close(shell)


if __name__ == "__main__":
    loopback_up()
    json.dump(run(**json.loads(Path(sys.argv[1]).read_text())), sys.stdout)
