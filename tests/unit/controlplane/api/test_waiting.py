"""`?wait=` on writes, and what a revision's state says: acknowledged, rejected with reasons, pending with names."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from controlplane.api import revisions
from controlplane.distribution.stream_sync import Held, Sent, Span, StreamSync
from controlplane.store.keys import replica_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Delete, Put
from mesh.xds import type_url
from tests.support.plane import MERGE, OBJECTS, Api, api, until, virtual_service
from tests.support.resources import cluster

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
"""
CLUSTER = "outbound|80||a.default.svc.cluster.local"
VS = f"{OBJECTS}/virtualservices"
Written = tuple[int, dict[str, str], list[str], Any]  # status, headers, warnings, body


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


async def send(rest: Api, method: str, path: str, body: Any = None, **headers: str) -> Written:
    async with rest.client.request(method, path, json=body, headers=headers) as response:
        return (
            response.status, dict(response.headers), response.headers.getall("Warning", []), await response.json()
        )  # fmt: skip


async def after_queued(sync: StreamSync, work: Callable[[Span], None]) -> None:
    """Do `work` with the span that the next publication queues on the stream."""
    await until(lambda: sync.queued is not None)
    work(sync.take_queued(Span(0, 0)))


def acknowledges(sync: StreamSync) -> Awaitable[None]:
    return after_queued(sync, lambda _: None)


def refuses(sync: StreamSync, reason: str = "no such field") -> Awaitable[None]:
    def refuse(span: Span) -> None:
        sync.sent(type_url.CLUSTER, "1", Sent(span, {CLUSTER: cluster(CLUSTER)}, frozenset({CLUSTER})))
        sync.nack(type_url.CLUSTER, "1", reason, {CLUSTER: reason})

    return after_queued(sync, refuse)


def sends(sync: StreamSync) -> Awaitable[None]:
    def send(span: Span) -> None:
        sync.sent(type_url.CLUSTER, "1", Sent(span, {CLUSTER: cluster(CLUSTER)}, frozenset({CLUSTER})))
        sync.of(type_url.VIRTUAL_HOST).held = {"vh": Held(span, f"CDS {CLUSTER}")}

    return after_queued(sync, send)


# --- outcomes


async def test_a_batch_waits_for_its_proxies(rest: Api) -> None:
    sync = rest.plane.connect("node-1")
    writing = asyncio.ensure_future(send(rest, "POST", "/mesh/v1/batch?wait=10s", [json.loads(_service_json())]))
    await until(lambda: sync.queued is not None)
    await asyncio.sleep(0.06)
    assert not writing.done()
    await acknowledges(sync)
    status, headers, _, body = await writing
    assert (status, headers["Gossamer-Outcome"]) == (200, "acknowledged")
    assert (body["wait"]["outcome"], body["wait"]["acked"]) == ("acknowledged", ["node-1"])
    assert body["wait"]["revision"] == body["revision"] == int(headers["Gossamer-Revision"])


def _service_json() -> str:
    return '{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"ports":[{"port":80}]}}'


async def test_a_refusal_ends_the_wait_and_is_named(rest: Api) -> None:
    sync = rest.plane.connect("node-1")
    writing = asyncio.ensure_future(send(rest, "POST", "/mesh/v1/batch?wait=10s", [json.loads(_service_json())]))
    await refuses(sync)
    status, headers, warnings, body = await writing
    assert (status, headers["Gossamer-Outcome"]) == (202, "rejected")
    assert warnings == [f'299 - "node-1 refuses {CLUSTER}: no such field"']
    assert body["wait"]["rejected"] == [
        {"node": "node-1", "reasons": [{"name": CLUSTER, "reason": "no such field"}]}
    ]  # fmt: skip
    assert (await rest.get("/api/v1/namespaces/default/services/a"))["metadata"]["name"] == "a", "it is stored"


async def test_after_a_refusal_the_others_get_a_moment(rest: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never answers does not hold the refusal back; it is told as pending."""
    monkeypatch.setattr(revisions, "_ROUND_S", 0.05)
    monkeypatch.setattr(revisions, "_AFTER_REJECTION_S", 0.1)
    one = rest.plane.connect("node-1")
    rest.plane.connect("node-2")
    writing = asyncio.ensure_future(send(rest, "POST", "/mesh/v1/batch?wait=60s", [json.loads(_service_json())]))
    await refuses(one)
    status, headers, warnings, body = await writing
    assert (status, headers["Gossamer-Outcome"], body["wait"]["pending"]) == (202, "rejected", ["node-2"])
    assert [text.split('"')[1].split(" ")[0] for text in warnings] == ["node-1", "node-2"]


async def test_when_the_time_is_over_the_pending_are_named_with_what_they_wait_for(rest: Api) -> None:
    sync = rest.plane.connect("node-1")
    rest.plane.connect("node-2")
    writing = asyncio.ensure_future(send(rest, "POST", "/mesh/v1/batch?wait=100ms", [json.loads(_service_json())]))
    await sends(sync)
    status, headers, warnings, body = await writing
    assert (status, headers["Gossamer-Outcome"]) == (202, "timeout")
    assert body["wait"]["pending"] == ["node-1", "node-2"]
    assert body["wait"]["waits_for"] == [
        {"node": "node-1", "type": "CDS", "name": CLUSTER, "waits_for": "acknowledgement"},
        {"node": "node-1", "type": "VHDS", "name": "vh", "waits_for": f"CDS {CLUSTER}"},
        {"node": "node-2", "type": "", "name": "", "waits_for": "being sent"},
    ]
    assert warnings == [
        f'299 - "node-1 is pending: CDS {CLUSTER} waits for acknowledgement"',
        '299 - "node-2 is pending: waits for being sent"',
    ]


async def test_nobody_is_connected(rest: Api) -> None:
    status, headers, _, body = await send(rest, "POST", "/mesh/v1/batch?wait", [json.loads(_service_json())])
    assert (status, headers["Gossamer-Outcome"], body["wait"]["acked"]) == (200, "acknowledged", [])


# --- every kind of write


async def test_writes_of_items_wait_too(rest: Api) -> None:
    await rest.apply(SERVICE)
    sync = rest.plane.connect("node-1")
    created = asyncio.ensure_future(send(rest, "POST", f"{VS}?wait=10s", virtual_service("a")))
    await acknowledges(sync)
    status, headers, _, body = await created
    assert (status, headers["Gossamer-Outcome"], body["kind"]) == (201, "acknowledged", "VirtualService")

    spec = {"http": [{"timeout": "1s", "route": [{"destination": {"host": "a"}}]}]}
    patched = asyncio.ensure_future(send(rest, "PATCH", f"{VS}/a?wait=10s", {"spec": spec}, **MERGE))
    await refuses(sync)
    status, headers, warnings, body = await patched
    assert (status, headers["Gossamer-Outcome"]) == (202, "rejected")
    assert "node-1 refuses" in warnings[0]
    assert body["spec"]["http"][0]["timeout"] == "1s", "the body is still the object"

    replaced = asyncio.ensure_future(send(rest, "PUT", f"{VS}/a?wait=50ms", virtual_service("a")))
    status, headers, _, _ = await replaced
    assert (status, headers["Gossamer-Outcome"]) == (202, "timeout")
    sync.take_queued(Span(0, 0))

    deleted = asyncio.ensure_future(send(rest, "DELETE", f"{VS}/a?wait=10s"))
    await acknowledges(sync)
    status, headers, _, body = await deleted
    assert (status, headers["Gossamer-Outcome"], body["status"]) == (200, "acknowledged", "Success")


async def test_without_wait_nothing_is_waited_for(rest: Api) -> None:
    rest.plane.connect("node-1")
    status, headers, _, body = await send(rest, "POST", "/mesh/v1/batch", [json.loads(_service_json())])
    assert (status, "Gossamer-Outcome" in headers, "wait" in body) == (200, False, False)
    status, headers, _, _ = await send(rest, "POST", "/mesh/v1/batch?wait=5s&dryRun=All", [virtual_service("a")])
    assert (status, "Gossamer-Outcome" in headers) == (200, False)


async def test_a_bad_wait_is_refused_before_the_write(rest: Api) -> None:
    for path in ("/mesh/v1/batch", VS):
        status, _, _, body = await send(rest, "POST", f"{path}?wait=soon", virtual_service("a"))
        assert (status, "wait: found 'soon'" in body["message"]) == (400, True)
    assert (await rest.get(VS))["items"] == []


def test_a_wait_is_bounded() -> None:
    assert revisions.wait_s("1h") == revisions.MAX_WAIT_S
    assert revisions.wait_s("") == revisions.DEFAULT_WAIT_S
    assert revisions.wait_s(None) == 0.0


# --- over replicas


async def two(stack: AsyncExitStack, tmp_path: Path) -> tuple[Api, Api]:
    store = MemoryStore()
    made = []
    for name in ("cp-1", "cp-2"):
        replica = await stack.enter_async_context(api(tmp_path, name=name, store=store))
        address = f"127.0.0.1:{replica.client.server.port}"
        await replica.plane.write(Put(replica_key(name), json.dumps({"rest": address}).encode()))
        made.append(replica)
    await made[0].plane.published((await store.list("/")).revision)
    return made[0], made[1]


async def test_a_wait_is_for_the_proxies_of_every_replica(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, tmp_path)
        here, there = one.plane.connect("node-1"), other.plane.connect("node-2")
        writing = asyncio.ensure_future(send(one, "POST", "/mesh/v1/batch?wait=10s", [json.loads(_service_json())]))
        await acknowledges(here)
        await refuses(there, "bad there")
        status, headers, warnings, body = await writing
        assert (status, headers["Gossamer-Outcome"]) == (202, "rejected")
        assert (body["wait"]["acked"], body["wait"]["partial"]) == (["node-1"], False)
        assert "node-2 refuses" in warnings[0]


async def test_a_silent_replica_is_not_taken_for_consent(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, tmp_path)
        await other.client.close()
        status, headers, warnings, body = await send(
            one, "POST", "/mesh/v1/batch?wait=200ms", [json.loads(_service_json())]
        )
        assert (status, headers["Gossamer-Outcome"], body["wait"]["partial"]) == (202, "timeout", True)
        assert "replica cp-2 is silent" in warnings[0]
        waiting = asyncio.ensure_future(send(one, "POST", "/mesh/v1/batch?wait=10s", [virtual_service("a")]))
        await asyncio.sleep(0.05)
        # The dead replica's lease ends: whom it served is then served by others.
        await one.plane.store.transact([], [Delete(replica_key("cp-2"))])
        status, headers, _, _ = await waiting
        assert (status, headers["Gossamer-Outcome"]) == (200, "acknowledged")


async def test_a_diff_has_the_proxies_of_every_replica(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, tmp_path)
        for replica, node in ((one, "node-1"), (other, "node-2"), (other, "node-3")):
            replica.plane.connect(node)
        found = await one.call("POST", "/mesh/v1/diff?namespace=default", [json.loads(_service_json())])
        (change,) = [item for item in found["changes"] if item["type"] == "CDS" and item["name"] == CLUSTER]
        assert (change["change"], change["nodes"]) == ("added", ["node-1", "node-2", "node-3"])
        assert (found["unaffected"], found["partial"]) == ([], False)
        await other.client.close()
        partial = await one.call("POST", "/mesh/v1/diff", [json.loads(_service_json())])
        assert (partial["partial"], [item["replica"] for item in partial["silent"]]) == (True, ["cp-2"])
