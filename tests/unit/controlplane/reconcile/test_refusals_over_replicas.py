"""A refusal is told on the object that caused it, in events and revisions, and stays told when the proxy goes to
another replica: what it refused it does not have, so the next replica sends it again and is refused again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from controlplane.store.memory import MemoryStore
from mesh.tasks import cancel_and_wait, spawn
from tests.support.picky import PickyClient
from tests.support.plane import OBJECTS, until
from tests.support.replicas import WholeReplica, status_of, whole_replica

BOTH = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
"""
RULE = f"{OBJECTS}/destinationrules/reviews"
SERVICE = "/api/v1/namespaces/default/services/reviews"
NAME = "outbound|80|v1|reviews.default.svc.cluster.local"


@asynccontextmanager
async def connected(replica: WholeReplica, client: PickyClient) -> AsyncIterator[None]:
    ledger, picky = replica.plane.ledger, bool(client.dislikes)
    stream = replica.stream(client.name)
    task = spawn(f"client {client.name}", client.run(stream))
    try:
        # The server knows what it refuses, or that it took everything.
        await until(
            lambda: (
                any(node == client.name for node, _ in ledger.rejections())
                if picky
                else client.name in ledger.revision_status(ledger.published).acked
            )
        )
        yield
    finally:
        await cancel_and_wait(task)
        stream.cancel()
        await until(lambda: not any(item.node == client.name for item in replica.plane.ledger.proxies()))


async def replicas(stack: AsyncExitStack, tmp_path: Path) -> tuple[WholeReplica, WholeReplica]:
    store = MemoryStore()
    one = await stack.enter_async_context(whole_replica(tmp_path, "cp-1", store))
    two = await stack.enter_async_context(whole_replica(tmp_path, "cp-2", store))
    return one, two


async def both_write(one: WholeReplica, two: WholeReplica) -> None:
    for replica in (one, two):
        await replica.write_statuses()


async def test_a_refusal_moves_with_its_proxy(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await replicas(stack, tmp_path)
        picky, content = PickyClient("node-1", "|v1|"), PickyClient("node-2", "")
        revision = (await one.rest.apply(BOTH))["revision"]
        await two.plane.published(revision)
        async with connected(two, content):
            async with connected(one, picky):
                await both_write(one, two)
                told = await status_of(two, RULE)
                assert (told["Rejected"]["status"], told["Programmed"]["status"]) == ("True", "False")
                assert f"node-1): CDS {NAME}: {NAME}: I do not like it" in told["Rejected"]["message"]
                assert told["proxies"] == {"interested": 2, "acknowledged": 1, "pending": 0, "rejected": 1}
                assert told["Programmed"]["message"] == (
                    "acknowledged by 1 of 2 interested proxies, 1 rejected"
                )  # fmt: skip
                state = await two.rest.get(f"/mesh/v1/revisions/{revision}")
                assert [item["node"] for item in state["rejected"]] == ["node-1"]
                assert NAME not in picky.accepted
            sent_before = len(picky.sent)

            # It goes to the other replica with everything that it has. There only what it refused is sent again.
            async with connected(two, picky):
                assert picky.sent[sent_before:] == [NAME]
                await both_write(one, two)
                told = await status_of(one, RULE)
                assert told["Rejected"]["status"] == "True"
                assert told["proxies"]["rejected"] == 1
                state = await one.rest.get(f"/mesh/v1/revisions/{revision}?wait=5s")
                assert ([item["node"] for item in state["rejected"]], state["acked"]) == (["node-1"], ["node-2"])

                # What helps is a change that it likes.
                fixed = (await one.rest.apply(BOTH.replace("name: v1", "name: v2")))["revision"]
                state = await two.rest.get(f"/mesh/v1/revisions/{fixed}?wait=5s")
                assert (state["rejected"], state["acked"]) == ([], ["node-1", "node-2"])
                await both_write(one, two)
                told = await status_of(one, RULE)
                assert "Rejected" not in told
                assert told["Programmed"]["message"] == "acknowledged by 2 of 2 interested proxies"


async def test_events_name_the_object_and_the_reason(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await replicas(stack, tmp_path)
        await one.rest.apply(BOTH)
        async with connected(one, PickyClient("node-1", "|v1|", "no such field")):
            events = (await two.rest.get("/mesh/v1/events"))["items"]
        rejected = [item for item in events if item["type"] == "ConfigRejected"]
        subjects = {item["subject"]: item["message"] for item in rejected}
        assert set(subjects) == {"node node-1", "DestinationRule default/reviews", "Service default/reviews"}
        assert subjects["DestinationRule default/reviews"] == (
            f"node node-1 refuses CDS {NAME}: {NAME}: no such field"
        )  # fmt: skip


async def test_a_wait_on_one_replica_is_refused_at_the_other(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await replicas(stack, tmp_path)
        client = PickyClient("node-1", "")
        await one.rest.apply(BOTH.partition("---")[0])
        async with connected(two, client):
            client.dislikes = "|v1|"
            body = {
                "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": {"name": "reviews"},
                "spec": {"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]},
            }  # fmt: skip
            async with one.rest.client.post(f"{RULE.rpartition('/')[0]}?wait=10s", json=body) as response:
                assert (response.status, response.headers["Gossamer-Outcome"]) == (202, "rejected")
                assert f"node-1 refuses {NAME}" in response.headers["Warning"]


async def test_statuses_are_not_written_when_nothing_happens(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await replicas(stack, tmp_path)
        revision = (await one.rest.apply(BOTH))["revision"]
        async with connected(one, PickyClient("node-1", "|v1|")):
            await both_write(one, two)
            before = (await one.plane.store.list("/none/")).revision
            compiled = one.plane.reconciler.mesh
            for _ in range(3):
                await both_write(one, two)
                await asyncio.sleep(0)
            assert (await one.plane.store.list("/none/")).revision == before
            assert one.plane.reconciler.mesh is compiled, "a status is no reason to compile"
            assert before > revision
