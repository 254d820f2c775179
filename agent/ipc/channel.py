"""One end of the socket between supervisor and worker: frames in order, with descriptors.

Owns:   reading, writing, the bounded write queue, passing descriptors by SCM_RIGHTS; it runs on asyncio and uvloop.
Not:    the format (agent.ipc.frames), what a message obliges to.
Invariants: messages arrive in the order in which they were sent; a descriptor arrives with its frame and belongs to
        the receiver from then on; handlers run for at most SLICE_S at a time, so a full load of config does not stall
        the loop; after `close`, or the peer's end, nothing is delivered any more, and unread descriptors are closed.
"""

import array
import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from agent.ipc import frames
from agent.ipc.messages import ToSupervisor, ToWorker

READ_BYTES = 256 * 1024
SLICE_S = 0.002
MAX_QUEUED_BYTES = 64 * 1024 * 1024
LOW_MARK_BYTES = 1024 * 1024
_ANCILLARY_BYTES = socket.CMSG_SPACE(frames.MAX_DESCRIPTORS * array.array("i").itemsize)

OnMessage = Callable[[Any, list[int]], None]  # (message, its descriptors)
OnClosed = Callable[[str], None]  # the reason; called once, never after `close`


class ChannelFull(Exception):
    """The peer has not read for so long that MAX_QUEUED_BYTES are waiting."""


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets: (the supervisor's, the worker's). The worker's survives exec by `pass_fds`."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)


class Channel:
    """Both ends use this class. Make it inside a running loop.

    `on_message` gets every message with its descriptors; `on_closed` is told once when the peer is gone or has sent
    something that is not a frame.
    """

    def __init__(self, sock: socket.socket, on_message: OnMessage, on_closed: OnClosed) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_closed = on_closed
        self._inbox = bytearray()
        self._descriptors: deque[int] = deque()
        self._outbox: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._queued_bytes = 0
        self._writing = False
        self._paused = False
        self._closed = False
        self._low = asyncio.Event()
        self._low.set()
        self._loop.add_reader(sock, self._on_readable)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def queued_bytes(self) -> int:
        """What has been sent here and not yet been taken by the kernel."""
        return self._queued_bytes

    def send(self, message: ToWorker | ToSupervisor, descriptors: Sequence[int] = ()) -> None:
        """Queue one message; `descriptors` are duplicated, the caller keeps (and closes) its own.

        Raises FrameError for what has no place in the vocabulary, ChannelFull above MAX_QUEUED_BYTES.
        Sending on a closed channel does nothing: the peer is gone and `on_closed` has said so.
        """
        if self._closed:
            return
        frame = frames.encode(message, len(descriptors))
        if self._queued_bytes + len(frame) > MAX_QUEUED_BYTES:
            raise ChannelFull(f"{self._queued_bytes} bytes are waiting for the peer")
        self._outbox.append((memoryview(frame), tuple(os.dup(descriptor) for descriptor in descriptors)))
        self._queued_bytes += len(frame)
        if self._queued_bytes > LOW_MARK_BYTES:
            self._low.clear()
        if not self._writing:
            self._write()

    async def drained(self, timeout_s: float) -> bool:
        """Wait until less than LOW_MARK_BYTES are queued, or the channel is closed. False after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._low.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Close the socket; what is queued is lost. `on_closed` is not called."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._sock)
        if self._writing:
            self._loop.remove_writer(self._sock)
        self._sock.close()
        for _, descriptors in self._outbox:
            _close_all(descriptors)
        self._outbox.clear()
        _close_all(self._descriptors)
        self._descriptors.clear()
        self._low.set()

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self.close()
            self._on_closed(reason)

    # --- writing --------------------------------------------------------------------------------------------

    def _write(self) -> None:
        try:
            while self._outbox:
                self._write_first()
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._sock, self._write)
            return
        except OSError as error:
            self._lost(f"write failed: {error}")
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._sock)

    def _write_first(self) -> None:
        data, descriptors = self._outbox[0]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self._sock.sendmsg([data], rights, socket.MSG_NOSIGNAL)
        _close_all(descriptors)
        self._queued_bytes -= sent
        if sent == len(data):
            self._outbox.popleft()
        else:
            self._outbox[0] = (data[sent:], ())
        if self._queued_bytes <= LOW_MARK_BYTES:
            self._low.set()

    # --- reading --------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(READ_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(f"read failed: {error}")
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                usable = len(payload) - len(payload) % array.array("i").itemsize
                self._descriptors.extend(array.array("i", payload[:usable]))
        if flags & socket.MSG_CTRUNC:
            self._lost("descriptors were lost: the limit of open files is reached")
            return
        if not data:
            self._lost("the peer closed")
            return
        self._inbox += data
        self._deliver()

    def _deliver(self) -> None:
        """Handle whole frames for at most SLICE_S; reading waits while some are left over."""
        until = time.monotonic() + SLICE_S
        position = 0
        more = True  # also when a handler fails: what follows its message is handled in another turn
        try:
            while not self._closed and (end := self._frame_end(position)):
                # Consumed before it is handled: a handler that fails must not get the same message again.
                start, position = position, end
                self._deliver_one(start, end)
                if time.monotonic() >= until:
                    break
            more = self._frame_end(position) > 0
        except frames.FrameError as error:
            self._lost(f"bad frame: {error}")
        finally:
            del self._inbox[:position]
            if not self._closed:
                self._pause(more)

    def _frame_end(self, position: int) -> int:
        """The end of the frame that starts at `position`, 0 while it is incomplete."""
        have = len(self._inbox) - position
        if have < frames.HEADER.size:
            return 0
        length, _, _ = frames.header_of(self._inbox[position : position + frames.HEADER.size])
        return position + frames.HEADER.size + length if have >= frames.HEADER.size + length else 0

    def _deliver_one(self, position: int, end: int) -> None:
        start = position + frames.HEADER.size
        _, checksum, count = frames.header_of(self._inbox[position:start])
        if count > len(self._descriptors):
            raise frames.FrameError(f"{count} descriptors announced, {len(self._descriptors)} came")
        message = frames.decode_body(bytes(self._inbox[start:end]), checksum)
        self._on_message(message, [self._descriptors.popleft() for _ in range(count)])

    def _pause(self, more: bool) -> None:
        if more and not self._paused:
            self._loop.remove_reader(self._sock)
        elif self._paused and not more:
            self._loop.add_reader(self._sock, self._on_readable)
        self._paused = more
        if more:
            self._loop.call_soon(self._resume)

    def _resume(self) -> None:
        if not self._closed:
            self._deliver()


def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
