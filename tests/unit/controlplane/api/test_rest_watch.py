"""`?watch=1`: what a client is told, from where it resumes, and when a watch ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane.api.view import Limits
from controlplane.store.keys import ObjectKey
from controlplane.store.protocol import Delete, Put
from tests.support.plane import MERGE, OBJECTS, TABLE, Api, api, virtual_service

PATH = f"{OBJECTS}/virtualservices"


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


class Watch:
    """An open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> Any:
        async with asyncio.timeout(10):
            line = await self.response.content.readline()
        return json.loads(line) if line else None

    async def told(self) -> tuple[str, str]:
        """Type and name of the next event."""
        event = await self.next()
        return event["type"], event["object"]["metadata"].get("name", "")


async def create(rest: Api, name: str = "a", **metadata: Any) -> str:
    made = await rest.call("POST", PATH, virtual_service(name, **metadata), status=201)
    return str(made["metadata"]["resourceVersion"])


async def test_a_watch_begins_with_what_is_there_and_goes_on(rest: Api) -> None:
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1&allowWatchBookmarks=true") as response:
        watch = Watch(response)
        assert await watch.told() == ("ADDED", "a")
        assert (await watch.next())["type"] == "BOOKMARK"
        await create(rest, "b")
        assert await watch.told() == ("ADDED", "b")
        await rest.call("PATCH", f"{PATH}/a", {"metadata": {"labels": {"x": "y"}}}, headers=MERGE)
        assert await watch.told() == ("MODIFIED", "a")
        await rest.call("DELETE", f"{PATH}/a")
        assert await watch.told() == ("DELETED", "a")
        bookmark = await watch.next()
        assert bookmark["type"] == "BOOKMARK"
        revision = (await rest.plane.store.list("/")).revision
        assert bookmark["object"]["metadata"]["resourceVersion"] == str(revision)


async def test_a_watch_resumes_without_gap_or_repetition(rest: Api) -> None:
    version = await create(rest)
    await create(rest, "b")
    await rest.call("DELETE", f"{PATH}/a")
    async with rest.client.get(f"{PATH}?watch=true&resourceVersion={version}") as response:
        watch = Watch(response)
        assert {await watch.told(), await watch.told()} == {("ADDED", "b"), ("DELETED", "a")}
        await create(rest, "c")
        assert await watch.told() == ("ADDED", "c")


async def test_an_object_that_was_replaced_by_another_is_told_as_both(rest: Api) -> None:
    version = await create(rest)
    await rest.call("DELETE", f"{PATH}/a")
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1&resourceVersion={version}") as response:
        watch = Watch(response)
        assert [await watch.told(), await watch.told()] == [("DELETED", "a"), ("ADDED", "a")]


async def test_a_revision_that_is_compacted_is_410(rest: Api) -> None:
    version = await create(rest)
    await create(rest, "b")
    rest.plane.store.compact()
    answer = await rest.get(f"{PATH}?watch=1&resourceVersion={version}", status=410)
    assert (answer["reason"], answer["code"]) == ("Expired", 410)
    assert "too old resource version" in answer["message"]


async def test_selected_objects_come_and_go_with_their_labels(rest: Api) -> None:
    await create(rest, "a", labels={"app": "x"})
    await create(rest, "b")
    async with rest.client.get(f"{PATH}?watch=1&labelSelector=app=x") as response:
        watch = Watch(response)
        assert await watch.told() == ("ADDED", "a")
        await rest.call("PATCH", f"{PATH}/b", {"metadata": {"labels": {"app": "x"}}}, headers=MERGE)
        assert await watch.told() == ("ADDED", "b")
        await rest.call("PATCH", f"{PATH}/a", {"metadata": {"labels": {"app": "y"}}}, headers=MERGE)
        assert await watch.told() == ("DELETED", "a")


async def test_other_namespaces_and_kinds_are_not_told(rest: Api) -> None:
    async with rest.client.get(f"{PATH}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true") as response:
        watch = Watch(response)
        first = await watch.next()
        assert first["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        await rest.call("POST", PATH.replace("default", "other"), virtual_service(), status=201)
        service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}
        await rest.call("POST", "/api/v1/namespaces/default/services", service, status=201)
        await create(rest, "z")
        assert await watch.told() == ("ADDED", "z")


async def test_a_status_is_told(rest: Api) -> None:
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1") as response:
        watch = Watch(response)
        await watch.told()
        key = ObjectKey("networking.istio.io", "virtualservices", "default", "a").status_key("cp-1")
        await rest.plane.store.transact([], [Put(key, b'{"observedGeneration":1}')])
        event = await watch.next()
        assert (event["type"], event["object"]["status"]) == ("MODIFIED", {"observedGeneration": 1})


async def test_a_watch_as_tables(rest: Api) -> None:
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1", headers={"Accept": TABLE}) as response:
        watch = Watch(response)
        first = (await watch.next())["object"]
        assert (first["kind"], first["rows"][0]["cells"][0]) == ("Table", "a")
        await create(rest, "b")
        second = (await watch.next())["object"]
        assert second["columnDefinitions"] is None, "columns are sent once"


async def test_a_watch_ends_after_its_time(rest: Api) -> None:
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1&timeoutSeconds=1") as response:
        watch = Watch(response)
        await watch.told()
        assert await watch.next() is None


async def test_too_many_watches(tmp_path: Path) -> None:
    async with api(tmp_path, limits=Limits(watches=1)) as rest:
        await create(rest)
        async with rest.client.get(f"{PATH}?watch=1") as response:
            await Watch(response).told()
            answer = await rest.get(f"{PATH}?watch=1", status=429)
            assert answer["reason"] == "TooManyRequests"


async def test_watches_end_when_the_server_stops(rest: Api) -> None:
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1") as response:
        watch = Watch(response)
        await watch.told()
        stopping = asyncio.ensure_future(rest.client.server.close())
        event = await watch.next()
        assert (event["type"], event["object"]["code"]) == ("ERROR", 503)
        assert await watch.next() is None
        await stopping


@pytest.mark.parametrize(
    "tail", ["short", "networking.istio.io/virtualservices/x", "networking.istio.io/virtualservices/default/a/b/c"]
)
@pytest.mark.parametrize("prefix", ["/gossamer/v1/obj/", "/gossamer/v1/status/"])
async def test_a_strange_key_below_our_prefix_ends_no_watch_and_no_list(rest: Api, prefix: str, tail: str) -> None:
    await create(rest)
    async with rest.client.get(f"{PATH}?watch=1") as response:
        watch = Watch(response)
        assert await watch.told() == ("ADDED", "a")
        await rest.plane.store.transact([], [Put(prefix + tail, b"x")])
        await create(rest, "b")
        assert await watch.told() == ("ADDED", "b")
        await rest.plane.store.transact([], [Delete(prefix + tail), Put(f"{prefix}{tail}/", b"x")])
        await rest.call("DELETE", f"{PATH}/b")
        assert await watch.told() == ("DELETED", "b")
    for path in (PATH, "/apis/networking.istio.io/v1/virtualservices"):
        listed = await rest.call("GET", path)
        assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
