"""What of a cluster outlives a configuration, and what goes with it."""

import asyncio
from pathlib import Path

from agent.ipc.shared import SharedCells
from agent.listener.clusters import Clusters
from agent.proxy.runtime import Runtime
from agent.stats.names import cluster_group, global_limit_group
from agent.upstream.wheel import TimerWheel
from tests.support.proxying import cluster


async def test_the_counts_of_a_cluster_go_with_it(tmp_path: Path) -> None:
    """Those of its rate limits too, which requests make."""
    runtime = Runtime(node="n", wheel=TimerWheel(asyncio.get_running_loop()), log_path=tmp_path / "log")
    clusters = Clusters(runtime, SharedCells.create(1, 1), 0, lambda request: None)
    clusters.put("c", cluster("c", 1))
    made = {
        key: (make, runtime.stats.get(key, lambda make=make: make("c")))
        for key, make in (("cluster.c", cluster_group), ("cluster.c.ratelimit", global_limit_group))
    }
    clusters.remove("c")
    clusters.close_removed()
    runtime.stats.report()
    for key, (make, group) in made.items():
        assert runtime.stats.get(key, lambda make=make: make("c")) is not group, key
    runtime.wheel.close()
