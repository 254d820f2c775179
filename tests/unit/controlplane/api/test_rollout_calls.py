"""Beginning, promoting and aborting a staged rollout: one suite over REST and over the gRPC control API."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import grpc
import pytest
from google.rpc.status_pb2 import Status

from controlplane.api.control_service import ControlService
from controlplane.api.errors import ANSWERS
from mesh.api.v1 import control_pb2, control_pb2_grpc
from mesh.errors import ErrorCode
from tests.support.plane import Api, api, virtual_service

TOKENS = {hashlib.sha256(b"s3cret").hexdigest(): "ann"}
PATH = "/mesh/v1/rollouts"
PEER_AUTHENTICATION = {
    "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": {"name": "default"},
    "spec": {"mtls": {"mode": "STRICT"}},
}  # fmt: skip
_PARAMETERS = {"stages": "stages", "pause_ms": "pause", "min_requests": "minRequests",
               "max_error_points": "maxErrorPoints", "wait_limit_ms": "waitLimit"}  # fmt: skip


class Refused(Exception):
    """`fields`: (document, field) of each violation."""

    def __init__(self, code: ErrorCode, message: str, fields: Iterable[tuple[int, str]] = ()) -> None:
        super().__init__(message)
        self.code, self.message, self.fields = code, message, sorted(fields)


@dataclass(frozen=True)
class Begun:
    """`rollout` as REST shows it; `actions` by object, with the warnings of all."""

    rollout: Any
    actions: Mapping[str, str]
    warnings: tuple[str, ...]


class Way(ABC):
    """How the API is called."""

    def __init__(self, rest: Api) -> None:
        self.rest = rest

    @abstractmethod
    async def begin(self, *manifests: Any, token: str = "s3cret", dry_run: bool = False, **plan: Any) -> Begun: ...

    @abstractmethod
    async def move(self, verb: str, id_: str, token: str = "s3cret") -> Any: ...

    async def shown(self, id_: str) -> Any:
        return await self.rest.get(f"{PATH}/{id_}", Authorization="Bearer s3cret")


class Rest(Way):
    async def _call(self, path: str, body: Any, token: str) -> tuple[Any, tuple[str, ...]]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.rest.client.post(path, json=body, headers=headers) as response:
            value, warnings = await response.json(), tuple(response.headers.getall("Warning", ()))
            if response.status < 400:
                return value, warnings
        (code,) = {code for code, answer in ANSWERS.items() if answer.reason == value["reason"]} - {ErrorCode.SETTINGS}
        causes = value.get("details", {}).get("causes", ())
        raise Refused(code, value["message"], [(cause["document"], cause["field"]) for cause in causes])

    async def begin(self, *manifests: Any, token: str = "s3cret", dry_run: bool = False, **plan: Any) -> Begun:
        query = {_PARAMETERS[name]: f"{value}ms" if name.endswith("_ms") else value for name, value in plan.items()}
        query |= {"dryRun": "All"} if dry_run else {}
        found, warnings = await self._call(f"{PATH}?{urlencode(query)}", list(manifests), token)
        actions = {item["object"]: item["action"] for item in found["results"]}
        return Begun(found["rollout"], actions, warnings)

    async def move(self, verb: str, id_: str, token: str = "s3cret") -> Any:
        return (await self._call(f"{PATH}/{id_}/{verb}", None, token))[0]


class Grpc(Way):
    def __init__(self, rest: Api, stub: control_pb2_grpc.ControlStub) -> None:
        super().__init__(rest)
        self._stub = stub

    async def _call(self, name: str, request: Any, token: str) -> Any:
        try:
            metadata = (("authorization", f"Bearer {token}"),)
            return await getattr(self._stub, name)(request, timeout=10, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error

    async def begin(self, *manifests: Any, token: str = "s3cret", dry_run: bool = False, **plan: Any) -> Begun:
        request = control_pb2.BeginRolloutRequest(
            manifests=[json.dumps(item).encode() for item in manifests],
            plan=control_pb2.RolloutPlan(**plan),
            dry_run=dry_run,
        )
        done = await self._call("BeginRollout", request, token)
        actions = {item.object: item.action for item in done.results}
        warnings = tuple(text for item in done.results for text in item.warnings)
        return Begun(_shown(done.rollout) if done.HasField("rollout") else None, actions, warnings)

    async def move(self, verb: str, id_: str, token: str = "s3cret") -> Any:
        name = f"{verb.capitalize()}Rollout"
        return _shown(await self._call(name, control_pb2.MoveRolloutRequest(id=id_), token))


def _shown(rollout: control_pb2.Rollout) -> Any:
    shown = json.loads(rollout.json)
    for name in ("id", "phase", "reason", "message", "stage", "revision"):
        assert getattr(rollout, name) == shown[name]
    return shown


def _refused(error: grpc.aio.AioRpcError) -> Refused:
    codes = {code for code, answer in ANSWERS.items() if answer.grpc is error.code()}
    found = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    if not isinstance(found, bytes):
        (code,) = codes - {ErrorCode.INVALID, ErrorCode.NO_SPACE}
        return Refused(code, error.details() or "")
    failure = control_pb2.ApplyFailure()
    assert Status.FromString(found).details[0].Unpack(failure)
    return Refused(
        ErrorCode.INVALID, error.details() or "", [(item.document, item.field) for item in failure.violations]
    )


@pytest.fixture(params=["rest", "grpc"])
async def way(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Way]:
    async with api(tmp_path, tokens=TOKENS) as rest:
        if request.param == "rest":
            yield Rest(rest)
            return
        service, server = ControlService(rest.dependencies), grpc.aio.server()
        control_pb2_grpc.add_ControlServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Grpc(rest, control_pb2_grpc.ControlStub(channel))
        await service.close()
        await server.stop(None)


async def test_begin_promote_abort(way: Way) -> None:
    way.rest.plane.connect("node-1")
    begun = await way.begin(virtual_service("a"), stages="1,100%", pause_ms=1500, min_requests=7)
    id_ = begun.rollout["id"]
    assert begun.actions == {"VirtualService default/a": "created"}
    assert any("NoService" in text or "a.default" in text for text in begun.warnings)
    plan = {"stages": ["1", "100%"], "pause_s": 1.5, "min_requests": 7, "max_error_points": 5.0, "wait_s": 300.0}
    assert (begun.rollout["phase"], begun.rollout["stage"], begun.rollout["plan"]) == ("Spreading", 1, plan)
    assert begun.rollout["author"] == "ann"
    moved = await way.move("promote", id_)
    assert (moved["stage"], moved["id"]) == (2, id_)
    assert moved == await way.shown(id_)
    ended = await way.move("abort", id_)
    assert (ended["phase"], ended["reason"], ended["message"]) == ("Aborted", "Requested", "ann aborts it")
    assert ended["progress"] is None
    for verb in ("abort", "promote"):
        with pytest.raises(Refused, match="it has ended already: Aborted") as again:
            await way.move(verb, id_)
        assert again.value.code is ErrorCode.CONFLICT


async def test_one_at_a_time(way: Way) -> None:
    first = await way.begin(virtual_service("a"), stages="100%")
    with pytest.raises(Refused, match=f"rollout {first.rollout['id']}: another rollout is under way") as refused:
        await way.begin(virtual_service("b"), stages="100%")
    assert refused.value.code is ErrorCode.CONFLICT


async def test_a_dry_run_and_what_is_stored_already_begin_nothing(way: Way) -> None:
    dry = await way.begin(virtual_service("a"), stages="100%", dry_run=True)
    assert (dry.rollout, dry.actions) == (None, {"VirtualService default/a": "created"})
    stored = await way.rest.client.post(
        "/mesh/v1/batch", json=[virtual_service("a")], headers={"Authorization": "Bearer s3cret"}
    )
    assert stored.status == 200
    same = await way.begin(virtual_service("a"), stages="100%")
    assert (same.rollout, same.actions) == (None, {"VirtualService default/a": "unchanged"})
    assert (await way.rest.get(PATH, Authorization="Bearer s3cret"))["items"] == []


async def test_every_violation_is_told(way: Way) -> None:
    bad = virtual_service("b")
    bad["spec"]["http"][0]["route"][0]["weight"] = -1
    with pytest.raises(Refused) as refused:
        await way.begin(virtual_service("a"), bad, stages="100%")
    assert (refused.value.code, refused.value.fields) == (ErrorCode.INVALID, [(1, "spec.http[0].route[0].weight")])
    with pytest.raises(Refused) as refused:
        await way.begin(virtual_service("a"), PEER_AUTHENTICATION, stages="100%")
    assert [document for document, _ in refused.value.fields] == [1]


@pytest.mark.parametrize(
    ("plan", "field", "parameter"),
    [
        ({}, "stages", "stages"),
        ({"stages": "50%"}, "stages", "stages"),
        ({"stages": "100%", "pause_ms": -1}, "pause_ms", "pause"),
        ({"stages": "100%", "min_requests": -1}, "min_requests", "minRequests"),
        ({"stages": "100%", "max_error_points": 100.5}, "max_error_points", "maxErrorPoints"),
        ({"stages": "100%", "wait_limit_ms": 8 * 86_400_000}, "wait_limit_ms", "waitLimit"),
    ],
)
async def test_a_plan_that_cannot_be_is_refused_by_name(
    way: Way, plan: dict[str, Any], field: str, parameter: str
) -> None:
    with pytest.raises(Refused) as refused:
        await way.begin(virtual_service("a"), **plan)
    name = parameter if isinstance(way, Rest) else f"plan.{field}"
    assert refused.value.code is ErrorCode.UNREADABLE
    assert refused.value.message.startswith(f"{name}: found ")


async def test_zero_is_not_the_default(way: Way) -> None:
    begun = await way.begin(
        virtual_service("a"), stages="100%", pause_ms=0, min_requests=0, max_error_points=0.0, wait_limit_ms=0
    )
    plan = begun.rollout["plan"]
    assert (plan["pause_s"], plan["min_requests"], plan["max_error_points"], plan["wait_s"]) == (0.0, 0, 0.0, 0.0)


async def test_nothing_to_begin_and_nothing_of_that_name(way: Way) -> None:
    with pytest.raises(Refused) as refused:
        await way.begin(stages="100%")
    assert refused.value.code is ErrorCode.UNREADABLE
    for verb in ("promote", "abort"):
        with pytest.raises(Refused) as refused:
            await way.move(verb, "01NOTHING")
        assert refused.value.code is ErrorCode.NOT_FOUND


async def test_a_token_is_wanted(way: Way) -> None:
    id_ = (await way.begin(virtual_service("a"), stages="100%")).rollout["id"]
    with pytest.raises(Refused) as refused:
        await way.begin(virtual_service("b"), stages="100%", token="wrong")
    assert refused.value.code is ErrorCode.UNAUTHENTICATED
    for verb in ("promote", "abort"):
        with pytest.raises(Refused) as refused:
            await way.move(verb, id_, token="wrong")
        assert refused.value.code is ErrorCode.UNAUTHENTICATED
    assert (await way.shown(id_))["stage"] == 1
