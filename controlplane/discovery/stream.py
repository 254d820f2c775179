"""The shell around one session: reads requests, takes new views, writes responses.

Owns:   the two tasks of a stream, its bounded outbox, coalescing, the send time-out, the end of an old stream.
Not:    what is sent and when (session), whether the stream is admitted (server).
Source: control-plane.md 5, rules 17, 23 and 26.

A stream older than its `max_age_s` ends when nothing is under way on it, at the latest `_MAX_OVERTIME_S` later,
and with OK: its client comes back at once, perhaps to another replica, and brings its versions: nothing is sent twice.

Invariants: one ordered queue a stream. A new view is taken only when the outbox is empty, always the newest: a slow
        reader skips the views between. A reader that takes nothing for `send_timeout_s` is cut off; it comes back and
        is brought up to date by the first answers of its next stream. At most `_MAX_OUTBOX` responses wait; then no
        request is read.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DiscoveryRequest

from controlplane.discovery.delta import DeltaSession
from controlplane.discovery.encode import delta_bytes, sotw_bytes
from controlplane.discovery.metrics import DiscoveryMetrics
from controlplane.discovery.response import Response
from controlplane.discovery.sotw import SotwSession
from controlplane.distribution.stream_sync import Rejection, Span
from controlplane.snapshot.cache import Update
from controlplane.snapshot.diff import DiffCache
from controlplane.snapshot.view import View
from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.tasks import cancel_and_wait, spawn

_log = get_logger(__name__)
_MAX_OUTBOX = 64
_MAX_OVERTIME_S = 60.0  # who answers nothing for so long is as well off on a new stream
_LOOK_S = 0.25  # at an old stream that is not at rest

Request = DiscoveryRequest | DeltaDiscoveryRequest
Read = Callable[[], Awaitable[Request | None]]  # None: the client has ended its side
Write = Callable[[bytes], Awaitable[None]]
Refused = Callable[[str, str, Sequence[Rejection]], None]  # (type url, message, what is refused now) of a NACK


class SlowReader(Exception):
    """The client did not take a response in time."""


class Stream:
    """One admitted stream."""

    def __init__(
        self,
        session: SotwSession | DeltaSession,
        *,
        diffs: DiffCache,
        clock: Clock,
        metrics: DiscoveryMetrics,
        control_plane: bytes,
        send_timeout_s: float,
        on_nack: Refused,
        on_rest: Callable[[], None] | None = None,
        max_age_s: float = 0.0,
    ) -> None:
        """`on_rest`: called once, when nothing is unanswered for the first time. `max_age_s` 0 = no limit."""
        self._session = session
        self._diffs = diffs
        self._clock = clock
        self._metrics = metrics
        self._encode = delta_bytes if isinstance(session, DeltaSession) else sotw_bytes
        self._control_plane = control_plane
        self._send_timeout_s = send_timeout_s
        self._on_nack = on_nack
        self._on_rest = on_rest
        self._old_at = clock.monotonic() + max_age_s if max_age_s else None
        self._outbox: deque[Response] = deque()
        self._newest: View | None = None
        self._offered_at = 0.0  # of the oldest view that the session has not taken
        self._taken_at: float | None = None  # of the change whose responses are in the outbox
        self._wake = asyncio.Event()
        # One timer a stream, made anew only for an earlier time: it may ring for nothing, and then looks again.
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._writer: asyncio.Task[None] | None = None
        self._write_until: float | None = None  # while a response is written
        self._is_slow = False
        self._room = asyncio.Event()
        self._ended = False

    def offer(self, update: Update) -> None:
        """A newer view. Never blocks; the session takes the newest when it is free."""
        if self._newest is None:
            self._offered_at = self._clock.monotonic()
        self._newest = update.view
        self._session.sync.queue(Span(update.after, update.view.revision))
        self._wake.set()

    def end(self) -> None:
        """The server stops: finish after what is being written."""
        self._ended = True
        self._wake.set()

    async def run(self, read: Read, write: Write) -> None:
        """Serve until the client ends. Raises SlowReader."""
        self._writer = asyncio.current_task()
        reader = spawn("xds reader", self._read(read))
        try:
            await self._write_all(write)
        finally:
            self._cancel_alarm()
            self._writer = None
            await cancel_and_wait(reader)

    async def _read(self, read: Read) -> None:
        try:
            while (request := await read()) is not None:
                while len(self._outbox) >= _MAX_OUTBOX:  # the writer makes room, or ends the stream by its time-out
                    self._room.clear()
                    await self._room.wait()
                self._take_request(request)
                del request  # else it is held until the next: one on a reconnect names all that the client has
        finally:
            self.end()

    def _take_request(self, request: Request) -> None:
        session = self._session
        expired = session.expired_nonces
        responses = self._responses(request, self._clock.monotonic())
        if session.expired_nonces != expired:
            self._metrics.expired_nonces.inc(session.expired_nonces - expired)
        if request.HasField("error_detail"):
            self._metrics.rejected(request.type_url)
            self._on_nack(request.type_url, request.error_detail.message, session.refused)
            session.refused = []
        self._outbox.extend(responses)
        if responses:
            self._wake.set()
        elif self._on_rest is not None and session.sync.at_rest:
            self._on_rest()
            self._on_rest = None
        if not responses and (deadline := session.deadline) is not None:
            self._ring_at(deadline)

    def _responses(self, request: Request, now: float) -> list[Response]:
        match self._session, request:
            case DeltaSession() as delta, DeltaDiscoveryRequest():
                return delta.on_request(request, now)
            case SotwSession() as sotw, DiscoveryRequest():
                return sotw.on_request(request, now)
        raise TypeError(f"found {type(request).__name__} on a {type(self._session).__name__}")

    async def _write_all(self, write: Write) -> None:
        while not self._ended:
            if self._outbox:
                await self._write_one(write, self._outbox.popleft())
            elif self._newest is not None:
                self._take_view()
            elif self._may_end_of_age():
                self._metrics.aged.inc()
                self.end()
            else:
                await self._sleep()

    async def _write_one(self, write: Write, response: Response) -> None:
        begun = self._clock.monotonic()
        try:
            self._write_until = begun + self._send_timeout_s
            self._ring_at(self._write_until)
            await write(self._encode(response, self._control_plane))
        except asyncio.CancelledError as error:
            if not self._is_slow or self._uncancelled():
                raise
            self._metrics.slow.inc()
            raise SlowReader from error
        finally:
            self._write_until = None
        now = self._clock.monotonic()
        self._metrics.pushed(response.type_url)
        self._metrics.send_time.observe(now - begun)
        self._room.set()
        if not self._outbox and self._taken_at is not None:
            self._metrics.convergence_time.observe(now - self._taken_at)
            self._taken_at = None

    def _take_view(self) -> None:
        view, self._newest = self._newest, None
        if view is None:
            return
        now = self._clock.monotonic()
        self._metrics.queue_time.observe(now - self._offered_at)
        changed = self._diffs.between(self._session.view, view)
        self._outbox.extend(self._session.on_view(view, changed, now))
        self._taken_at = self._offered_at if self._outbox else None

    def _may_end_of_age(self) -> bool:
        """Old, and nothing is under way that the client would have to be told again."""
        now = self._clock.monotonic()
        if self._old_at is None or now < self._old_at:
            return False
        return self._session.sync.at_rest or now >= self._old_at + _MAX_OVERTIME_S

    async def _sleep(self) -> None:
        """Until something happens, or the session has something to do, or it is old."""
        self._wake.clear()
        if self._outbox or self._newest is not None or self._ended:
            return
        if (deadline := self._session.deadline) is not None:
            self._ring_at(deadline)
        if self._old_at is not None:
            self._ring_at(max(self._old_at, self._clock.monotonic() + _LOOK_S))
        await self._wake.wait()
        now, deadline = self._clock.monotonic(), self._session.deadline
        if deadline is not None and deadline <= now:
            self._outbox.extend(self._session.on_time(now))

    # --- the timer

    def _ring_at(self, at: float) -> None:
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        wait_s = max(0.0, at - self._clock.monotonic())
        self._alarm = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()
        until = self._write_until
        if until is None or self._writer is None:
            return
        if self._clock.monotonic() >= until:
            self._is_slow = True
            self._writer.cancel()
        else:
            self._ring_at(until)

    def _cancel_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    def _uncancelled(self) -> bool:
        """Take our own cancellation back; says whether somebody else cancels too."""
        return self._writer is not None and self._writer.uncancel() > 0
