"""The gRPC control API over a real server: the same operations, statuses and details as REST."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status

from controlplane.api.control_service import ControlService
from controlplane.api.view import Dependencies, Limits
from controlplane.distribution.stream_sync import Sent, Span
from mesh.api.v1 import control_pb2, control_pb2_grpc
from mesh.xds import type_url
from tests.support.plane import Api, api, virtual_service
from tests.support.resources import cluster

TOKENS = {hashlib.sha256(b"s3cret").hexdigest(): "ann"}
NETWORKING = "networking.istio.io"


@dataclass
class Control:
    """A client with a token, and the REST API of the same plane."""

    rest: Api
    service: ControlService
    stub: control_pb2_grpc.ControlStub
    metadata: tuple[tuple[str, str], ...] = (("authorization", "Bearer s3cret"),)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.stub, name)
        return lambda request, **more: method(request, timeout=10, **{"metadata": self.metadata, **more})

    async def refusal(self, name: str, request: Any, **more: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await getattr(self, name)(request, **more)
        return failure.value


async def serve(rest: Api, dependencies: Dependencies) -> AsyncIterator[Control]:
    service = ControlService(dependencies)
    server = grpc.aio.server()
    control_pb2_grpc.add_ControlServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Control(rest, service, control_pb2_grpc.ControlStub(channel))
    await service.close()
    await server.stop(None)


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with api(tmp_path, tokens=TOKENS) as rest:
        async for made in serve(rest, replace(rest.dependencies, limits=Limits(watches=1))):
            yield made


def manifests(*names: str, host: str = "a") -> list[bytes]:
    return [json.dumps(virtual_service(name, host)).encode() for name in names]


async def test_apply_get_list_delete(control: Control) -> None:
    done = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a", "b"), default_namespace="shop"))
    assert [(item.object, item.action) for item in done.results] == [
        ("VirtualService shop/a", "created"),
        ("VirtualService shop/b", "created"),
    ]
    assert json.loads(done.results[0].manifest)["metadata"]["generation"] == 1
    assert "VirtualService shop/a is older" in done.results[1].warnings[0]
    names = {"group": NETWORKING, "kind": "VirtualService", "namespace": "shop"}
    found = json.loads((await control.Get(control_pb2.GetRequest(name="a", **names))).manifest)
    assert found["metadata"]["resourceVersion"] == str(done.revision)
    listed = await control.List(control_pb2.ListRequest(**names))
    assert [json.loads(item)["metadata"]["name"] for item in listed.manifests] == ["a", "b"]
    assert listed.revision >= done.revision
    none = await control.List(control_pb2.ListRequest(label_selector="x=y", **names))
    assert list(none.manifests) == []
    dry = await control.Delete(control_pb2.DeleteRequest(name="a", dry_run=True, **names))
    assert dry.revision == done.revision
    gone = await control.Delete(control_pb2.DeleteRequest(name="a", **names))
    assert gone.revision > done.revision
    error = await control.refusal("Get", control_pb2.GetRequest(name="a", **names))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_numbers_stay_whole(control: Control) -> None:
    """Decision 34: manifests travel as bytes, a Struct would turn 80 into 80.0."""
    text = b"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n"
    await control.Apply(control_pb2.ApplyRequest(manifests=[text]))
    found = await control.Get(control_pb2.GetRequest(kind="Service", name="a"))
    assert b'"port":80' in found.manifest


async def test_kinds_as_people_name_them(control: Control) -> None:
    await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a")))
    for kind in ("vs", "virtualservices", "VirtualService"):
        assert (await control.Get(control_pb2.GetRequest(kind=kind, name="a"))).manifest
    error = await control.refusal("Get", control_pb2.GetRequest(group=NETWORKING, kind="Gateway", name="a"))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_refusal_carries_every_violation(control: Control) -> None:
    bad = virtual_service("b")
    bad["spec"]["http"][0]["route"][0]["weight"] = -1
    request = control_pb2.ApplyRequest(manifests=[*manifests("a", "B"), json.dumps(bad).encode()])
    error = await control.refusal("Apply", request)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    status = Status.FromString(details)
    failure = control_pb2.ApplyFailure()
    assert status.details[0].Unpack(failure)
    assert (status.code, status.message) == (grpc.StatusCode.INVALID_ARGUMENT.value[0], error.details())
    assert [(item.document, item.object, item.field) for item in failure.violations] == [
        (1, "VirtualService default/B", "metadata.name"),
        (2, "VirtualService default/b", "spec.http[0].route[0].weight"),
    ]
    assert all(item.message.startswith("found") for item in failure.violations)
    listed = await control.List(control_pb2.ListRequest(group=NETWORKING, kind="VirtualService"))
    assert list(listed.manifests) == []


@pytest.mark.parametrize("manifest", [b"{", b"\xff", b"a: 1\n---\nb: 2\n", b""])
async def test_bytes_that_are_no_manifest(control: Control, manifest: bytes) -> None:
    error = await control.refusal("Apply", control_pb2.ApplyRequest(manifests=[manifest]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "manifests[0]" in str(error.details())
    assert (await control.refusal("Apply", control_pb2.ApplyRequest())).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_dry_run_stores_nothing(control: Control) -> None:
    done = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a"), dry_run=True))
    assert done.results[0].action == "created"
    listed = await control.List(control_pb2.ListRequest(group=NETWORKING, kind="VirtualService"))
    assert list(listed.manifests) == []


async def test_watch_present_objects_then_a_bookmark_then_changes(control: Control) -> None:
    first = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a")))
    request = control_pb2.WatchRequest(group=NETWORKING, kind="VirtualService", namespace="default")
    call = control.Watch(request)
    events = [await call.read(), await call.read()]
    assert [event.type for event in events] == ["ADDED", "BOOKMARK"]
    assert events[1].revision >= first.revision
    await control.Apply(control_pb2.ApplyRequest(manifests=manifests("b")))
    event = await call.read()
    assert (event.type, json.loads(event.manifest)["metadata"]["name"]) == ("ADDED", "b")
    too_many = control.Watch(request)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await too_many.read()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    call.cancel()

    async def resumed() -> str:
        again = control.Watch(
            control_pb2.WatchRequest(group=NETWORKING, kind="VirtualService", from_revision=first.revision)
        )
        try:
            return str(json.loads((await again.read()).manifest)["metadata"]["name"])
        finally:
            again.cancel()

    async with asyncio.timeout(10):
        while True:  # the server notices the cancelled watch a moment later
            try:
                assert await resumed() == "b"
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)


async def test_a_compacted_watch_is_out_of_range(control: Control) -> None:
    first = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a")))
    await control.Apply(control_pb2.ApplyRequest(manifests=manifests("b")))
    control.rest.plane.store.compact()
    call = control.Watch(
        control_pb2.WatchRequest(group=NETWORKING, kind="VirtualService", from_revision=first.revision)
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() is grpc.StatusCode.OUT_OF_RANGE


async def test_closing_ends_open_watches(control: Control) -> None:
    call = control.Watch(control_pb2.WatchRequest(group=NETWORKING, kind="VirtualService"))
    assert (await call.read()).type == "BOOKMARK"
    await control.service.close()
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_status_answers_the_views_of_rest(control: Control) -> None:
    control.rest.plane.connect("node-1")
    answer = await control.Status(control_pb2.StatusRequest(view="proxies", parameters={"node": "node-1"}))
    assert json.loads(answer.json) == await control.rest.get("/mesh/v1/proxies", Authorization="Bearer s3cret")
    dump = await control.Status(
        control_pb2.StatusRequest(view="config_dump", parameters={"node": "node-1", "type": "LDS"})
    )
    assert set(json.loads(dump.json)["resources"]) == {"LDS"}
    error = await control.refusal("Status", control_pb2.StatusRequest(view="proxy"))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = await control.refusal("Status", control_pb2.StatusRequest(view="nothing"))
    assert (error.code(), "proxies" in str(error.details())) == (grpc.StatusCode.NOT_FOUND, True)


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "Basic s3cret"),)])
async def test_every_call_wants_the_token(control: Control, metadata: tuple[tuple[str, str], ...]) -> None:
    names = {"group": NETWORKING, "kind": "VirtualService"}
    for name, request in (
        ("Apply", control_pb2.ApplyRequest(manifests=manifests("a"))),
        ("Get", control_pb2.GetRequest(name="a", **names)),
        ("List", control_pb2.ListRequest(**names)),
        ("Delete", control_pb2.DeleteRequest(name="a", **names)),
        ("Status", control_pb2.StatusRequest(view="status")),
    ):
        error = await control.refusal(name, request, metadata=metadata)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, name
    call = control.Watch(control_pb2.WatchRequest(**names), metadata=metadata)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.read()
    assert failure.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_the_author_is_in_the_history(control: Control) -> None:
    await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a")))
    answer = await control.Status(control_pb2.StatusRequest(view="history"))
    assert json.loads(answer.json)["items"][0]["author"] == "ann"


async def test_an_error_of_ours_is_told_without_its_insides(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr(control.rest.plane.ledger, "proxies", broken)
    error = await control.refusal("Status", control_pb2.StatusRequest(view="proxies"))
    assert (error.code(), "secret" in str(error.details())) == (grpc.StatusCode.INTERNAL, False)


async def test_a_write_waits_and_says_how_it_ended(control: Control) -> None:
    service = b"apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n"
    nobody = await control.Apply(control_pb2.ApplyRequest(manifests=[service], wait_ms=5000))
    assert (nobody.wait.outcome, list(nobody.wait.acknowledged)) == (control_pb2.Wait.ACKNOWLEDGED, [])
    assert not (await control.Apply(control_pb2.ApplyRequest(manifests=[service]))).HasField("wait")

    sync = control.rest.plane.connect("node-1")
    late = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a"), wait_ms=50))
    assert late.wait.outcome == control_pb2.Wait.TIMEOUT
    assert [(item.node, item.waits_for) for item in late.wait.pending] == [("node-1", "being sent")]

    span = sync.take_queued(Span(0, 0))
    resource = cluster("c")
    sync.sent(type_url.CLUSTER, "1", Sent(span, {"c": resource}, frozenset({"c"})))
    sync.nack(type_url.CLUSTER, "1", "bad", {"c": "bad"})
    again = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a"), wait_ms=5000))
    assert again.wait.outcome == control_pb2.Wait.REJECTED
    assert [(item.node, item.resource, item.reason) for item in again.wait.rejected] == [("node-1", "c", "bad")]

    names = {"group": NETWORKING, "kind": "VirtualService", "namespace": "default", "name": "a"}
    dry = await control.Delete(control_pb2.DeleteRequest(dry_run=True, wait_ms=50, **names))
    assert not dry.HasField("wait")
    gone = await control.Delete(control_pb2.DeleteRequest(wait_ms=50, **names))
    assert gone.wait.outcome == control_pb2.Wait.TIMEOUT


async def test_rollback_and_deletion_of_many(control: Control) -> None:
    made = await control.Apply(control_pb2.ApplyRequest(manifests=manifests("a", "b")))
    missing = await control.refusal("DeleteAll", control_pb2.DeleteAllRequest(manifests=manifests("a", "c")))
    assert (missing.code(), "VirtualService default/c" in missing.details()) == (grpc.StatusCode.NOT_FOUND, True)
    done = await control.DeleteAll(
        control_pb2.DeleteAllRequest(manifests=manifests("a", "c"), ignore_not_found=True, wait_ms=1000)
    )
    assert [(item.object, item.action) for item in done.results] == [
        ("VirtualService default/a", "deleted"), ("VirtualService default/c", "unchanged"),
    ]  # fmt: skip
    dry = await control.Rollback(control_pb2.RollbackRequest(revision=made.revision, dry_run=True))
    assert [item.action for item in dry.results] == ["created"]
    back = await control.Rollback(control_pb2.RollbackRequest(revision=made.revision, wait_ms=1000))
    assert (back.revision > done.revision, back.wait.outcome) == (True, control_pb2.Wait.ACKNOWLEDGED)
    shown = json.loads((await control.Status(control_pb2.StatusRequest(view="history"))).json)
    assert shown["items"][0]["reason"] == f"rollback to {made.revision}"
    change = control_pb2.StatusRequest(view="change", parameters={"revision": str(back.revision)})
    assert json.loads((await control.Status(change)).json)["objects"][0]["before"] is None
    error = await control.refusal("Rollback", control_pb2.RollbackRequest(revision=0))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_diff_and_analyze_say_what_rest_says_and_store_nothing(control: Control) -> None:
    control.rest.plane.connect("node-1")
    headers = {"Authorization": "Bearer s3cret"}
    for name, path in (("Diff", "/mesh/v1/diff"), ("Analyze", "/mesh/v1/analyze")):
        found = json.loads((await getattr(control, name)(control_pb2.PreviewRequest(manifests=manifests("a")))).json)
        async with control.rest.client.post(path, json=[virtual_service("a")], headers=headers) as response:
            told = await response.json()
        assert found == told
        assert found.get("objects") or found["items"]
        error = await control.refusal(name, control_pb2.PreviewRequest(manifests=manifests("B")))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        error = await control.refusal(name, control_pb2.PreviewRequest(manifests=manifests("a")), metadata=())
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    listed = await control.List(control_pb2.ListRequest(group=NETWORKING, kind="VirtualService"))
    assert list(listed.manifests) == []
    assert json.loads((await control.Analyze(control_pb2.PreviewRequest())).json) == {"items": []}
