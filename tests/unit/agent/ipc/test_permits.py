"""Permits are taken once each, whichever process asks."""

import os
import subprocess
import sys

from agent.ipc.permits import Permits, create

_TAKER = """
import sys
from agent.ipc.permits import Permits
permits = Permits(int(sys.argv[1]))
print(sum(permits.take() for _ in range(1000)))
"""


def test_each_is_taken_once() -> None:
    permits = Permits(create(2))
    assert [permits.take() for _ in range(4)] == [True, True, False, False]
    permits.close()
    assert not permits.take()


def test_several_processes_share_them() -> None:
    descriptor = create(1234)
    command = [sys.executable, "-c", _TAKER, str(descriptor)]
    takers = [subprocess.Popen(command, pass_fds=(descriptor,), stdout=subprocess.PIPE) for _ in range(3)]
    mine = Permits(os.dup(descriptor))
    taken = sum(mine.take() for _ in range(300))
    for taker in takers:
        out, _ = taker.communicate(timeout=30)
        taken += int(out)
    assert taken == 1234
    mine.close()
    os.close(descriptor)
