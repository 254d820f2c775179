"""A number of permits that all workers take from: each is taken once, by whichever asks first.

Owns:   the descriptor, a Linux eventfd in semaphore mode, in which the kernel counts what is left.
Not:    what is permitted (agent.cluster.breaker_gate), sending the descriptor (agent.supervisor.pool).
Invariant: of `count` permits at most `count` are ever taken, whatever the workers do and however they die.
"""

import os


def create(count: int) -> int:
    """A new descriptor that holds `count` permits, at least one."""
    return os.eventfd(count, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)


class Permits:
    """What a worker got. Takes the descriptor over; `close` it."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def take(self) -> bool:
        """Whether there was one left. None is ever given back."""
        if self._descriptor < 0:
            return False
        try:
            os.eventfd_read(self._descriptor)
        except OSError:  # nothing is left
            return False
        return True

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
