"""How a worker that outlives its supervisor is found by the next one.

Owns:   the worker's side: a listening AF_UNIX socket (made by the supervisor in its state directory, passed to the
        worker as `--takeover-fd`), and what is said on it.
Not:    the supervisor's side (agent.supervisor.handover), draining (agent.worker).
Source: decision 27. Closing one of several SO_REUSEPORT sockets resets what waits in its queue; so a successor gets the
        very same sockets, gives them to its own workers, and only then tells the old ones to drain.

On a connection the worker says AddListener with a duplicate of each of its listening sockets, then Ready; from then on
the connection is a channel as the first one was: Ping is answered, Drain obeyed.
Invariant: only a process of the same user is answered; the worker goes on accepting meanwhile.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Mapping

from agent.ipc.channel import Channel, OnMessage
from agent.ipc.messages import AddListener, Ready

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred of unix(7)


class TakeoverPoint:
    """Waits on `sock` for a successor. Make it inside a running loop.

    `listeners` gives name -> descriptor of what is accepted on; `on_message` and `on_closed` are those of a Channel;
    `on_successor` is told the channel to the successor before anything is said on it.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        listeners: Callable[[], Mapping[str, int]],
        on_message: OnMessage,
        on_closed: Callable[[str], None],
        on_successor: Callable[[Channel], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._listeners = listeners
        self._on_message = on_message
        self._on_closed = on_closed
        self._on_successor = on_successor
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept no successor any more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _accept(self) -> None:
        try:
            peer, _ = self._sock.accept()
        except OSError:  # gone again before it was accepted
            return
        if not _same_user(peer):
            peer.close()
            return
        channel = Channel(peer, self._on_message, self._on_closed)
        self._on_successor(channel)
        for name, descriptor in self._listeners().items():
            channel.send(AddListener(name), [descriptor])
        channel.send(Ready(os.getpid()))


def _same_user(peer: socket.socket) -> bool:
    packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(packed)
    return bool(uid == os.getuid())
