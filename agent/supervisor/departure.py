"""How an agent leaves the mesh with no request lost: peers stop calling, workers finish, then it is gone.

Owns:   the order of the leave-taking and its limits.
Not:    what begins it (agent.app), what each part does of it.
Source: docs/architecture.md, "What happens when"; Envoy's draining, which fails its health checks first.

    keep the last known good -> instances DRAINING -> peers learn -> workers drain -> instances gone

Invariants: it takes at most END_S, whoever does not answer; peers that cannot be told cost no time.
"""

import asyncio
from collections.abc import Callable

from agent.report.client import ReportClient
from agent.supervisor.data_path import DataPath
from agent.supervisor.node_report import Announcements
from mesh.logs import get_logger

_log = get_logger(__name__)

END_S = 20.0
DRAINING_TOLD_S = 2.0
PEERS_LEARN_S = 0.5
GONE_TOLD_S = 1.0


async def leave(
    data_path: DataPath,
    announcements: Announcements,
    reports: ReportClient,
    *,
    drain: Callable[[], None],
    timeout_s: float,
) -> None:
    """Take leave. `drain`: says that the instances are DRAINING; `timeout_s`: what workers have for their requests."""
    try:
        async with asyncio.timeout(END_S):
            await data_path.flow.keep()
            drain()
            if await reports.settle(DRAINING_TOLD_S):
                await asyncio.sleep(PEERS_LEARN_S)
            await data_path.drain(timeout_s)
            announcements.leave()
            await reports.settle(GONE_TOLD_S)
    except TimeoutError:
        _log.error("the end took too long", limit_s=END_S)
