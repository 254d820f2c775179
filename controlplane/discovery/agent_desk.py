"""Questions to agents over their report streams, since agents cannot be reached from outside.

Owns:   who can be asked, matching answers to questions.
Not:    the streams (reports), what is made of an answer (client_status).
Source: proto/mesh/api/v1/report.proto (ClientStatusRequest); docs/adr/0005.
Invariants: a question waits at most ANSWER_S and at most MAX_OPEN are open for one agent; an answer that nobody waits
        for is dropped; when a stream ends its questions are unanswered at once.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import grpc
from envoy.service.status.v3.csds_pb2 import ClientConfig
from google.protobuf.message import DecodeError

from mesh.api.v1 import report_pb2

ANSWER_S = 3.0
MAX_OPEN = 16
Send = Callable[[report_pb2.ReportReply], Awaitable[None]]


class Line:
    """One agent's report stream."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.open: dict[str, asyncio.Future[ClientConfig | None]] = {}


class AgentDesk:
    """The agents that report to this replica."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._numbers = itertools.count(1)

    def connect(self, node: str, send: Send) -> Line:
        """A stream has begun; it replaces an older one of the node."""
        line = self._lines[node] = Line(send)
        return line

    def disconnect(self, node: str, line: Line) -> bool:
        """The stream has ended. Whether it was the node's last one."""
        was_last = self._lines.get(node) is line
        if was_last:
            del self._lines[node]
        for waiting in line.open.values():
            if not waiting.done():
                waiting.set_result(None)
        return was_last

    async def client_config(self, node: str, *, contents: bool) -> ClientConfig | None:
        """What the agent says of its resources; None when it is not here or does not say."""
        line = self._lines.get(node)
        if line is None or len(line.open) >= MAX_OPEN:
            return None
        number = str(next(self._numbers))
        waiting: asyncio.Future[ClientConfig | None] = asyncio.get_running_loop().create_future()
        line.open[number] = waiting
        question = report_pb2.ClientStatusRequest(request_id=number, exclude_resource_contents=not contents)
        try:
            async with asyncio.timeout(ANSWER_S):
                await line.send(report_pb2.ReportReply(client_status_request=question))
                return await waiting
        except (TimeoutError, asyncio.InvalidStateError, grpc.aio.BaseError):  # the stream or the server has ended
            return None
        finally:
            del line.open[number]

    def answered(self, line: Line, answer: report_pb2.ClientStatus) -> list[str]:
        """An agent has answered. Gives what is wrong with it."""
        waiting = line.open.get(answer.request_id)
        if waiting is None or waiting.done():
            return []
        try:
            waiting.set_result(ClientConfig.FromString(answer.client_config))
        except DecodeError:
            waiting.set_result(None)
            return ["client_status: found bytes that are no ClientConfig"]
        return []
