"""What becomes of a question whose stream ends while it is asked."""

import asyncio

import grpc
import pytest

from controlplane.discovery.agent_desk import AgentDesk
from mesh.api.v1.report_pb2 import ReportReply


@pytest.mark.parametrize("error", [asyncio.InvalidStateError("RPC already finished."), grpc.aio.BaseError("stopped")])
async def test_a_stream_that_takes_no_question_leaves_it_unanswered(error: Exception) -> None:
    async def send(_: ReportReply) -> None:
        raise error

    desk = AgentDesk()
    line = desk.connect("node-1", send)
    assert await desk.client_config("node-1", contents=True) is None
    assert not line.open
