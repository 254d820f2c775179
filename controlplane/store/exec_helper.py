"""Run a program that dies with its parent: `python -I -S exec_helper.py PARENT_PID PROGRAM ARGUMENTS...`.

Owns:   asking the kernel for SIGKILL when the thread that spawned this process ends, then becoming the program.
Not:    anything else: it imports nothing of ours, so it starts in milliseconds and runs from any directory.
Source: prctl(2) PR_SET_PDEATHSIG: kept across execve of a program that is not set-user-ID.

The signal follows the spawning *thread*, so whoever uses this spawns from the main thread (decision 36).
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Returns only when it fails: 70 the kernel refused, 71 the parent has gone already, 127 no such program."""
    parent, program = int(arguments[0]), arguments[1]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        print(f"prctl: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        return 70
    # The parent may have died before the request was in force; then nobody would ever send the signal.
    if os.getppid() != parent:
        return 71
    try:
        os.execv(program, arguments[1:])
    except OSError as error:
        print(f"{program}: {error.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
