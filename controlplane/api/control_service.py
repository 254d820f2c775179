"""The gRPC Control service: the operations of the REST API with protobuf around them.

Owns:   protobuf in and out, the caller's token, statuses and their details.
Not:    what the operations do (operations), the views of Status (state_views).
Source: proto/mesh/api/v1/control.proto; decisions 12 and 34; google.rpc.Status in `grpc-status-details-bin`.

Invariants: every failure has the status of the table in errors; a bug is logged whole and told without its insides.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.status_pb2 import Status

from controlplane.api.analyses import Analyst
from controlplane.api.auth import Authenticator
from controlplane.api.diffs import Differ, DiffQuestion
from controlplane.api.documents import Document
from controlplane.api.errors import FieldProblem, InvalidObjects, grpc_status
from controlplane.api.exchange import dumps, parse_documents
from controlplane.api.object_watch import WatchRequest
from controlplane.api.operations import Operations
from controlplane.api.revisions import MAX_WAIT_S
from controlplane.api.rollout_messages import begun_message, plan_of_message, rollout_message
from controlplane.api.rollouts import Rollouts
from controlplane.api.selectors import parse_selector
from controlplane.api.state_views import StateViews
from controlplane.api.view import Dependencies
from controlplane.api.wait_message import wait_message
from controlplane.api.writes import BatchResult, Caller
from controlplane.policy.kinds import KINDS, KindInfo
from controlplane.store.rollouts import Stored
from mesh.api.v1 import control_pb2, control_pb2_grpc
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.vocabulary import DEFAULT_NAMESPACE

_log = get_logger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_DETAILS = "grpc-status-details-bin"


class ControlService(control_pb2_grpc.ControlServicer):
    """For the server-TLS port. `close` ends open watches, so that the server's stop does not wait for them."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._authenticator = Authenticator(dependencies.api_tokens)
        self._operations = Operations(dependencies)
        self._rollouts = Rollouts(dependencies)
        self._views = StateViews(dependencies, self._operations)
        self._differ = Differ(dependencies.view, self._operations, self._views.peers)
        self._analyst = Analyst(dependencies.view, self._operations)
        self._limits = dependencies.limits
        self._watches = 0

    async def close(self) -> None:
        """The server stops."""
        await self._operations.hub.close()
        await self._views.close()

    async def Apply(self, request: control_pb2.ApplyRequest, context: _Context) -> control_pb2.ApplyResponse:
        """Create or replace all objects in one transaction, or none."""
        try:
            caller, seconds = self._caller(context, dry_run=request.dry_run), _seconds(request.wait_ms)
            namespace = request.default_namespace or DEFAULT_NAMESPACE
            done = await self._operations.apply(caller, _documents(request.manifests), namespace=namespace)
            return await self._applied(context, caller, done, seconds)
        except Exception as error:  # noqa: BLE001 - told to the client, a bug also to the log
            await _abort(context, error)

    async def DeleteAll(self, request: control_pb2.DeleteAllRequest, context: _Context) -> control_pb2.ApplyResponse:
        """Delete all objects that the manifests name in one transaction, or none."""
        try:
            caller, seconds = self._caller(context, dry_run=request.dry_run), _seconds(request.wait_ms)
            done = await self._operations.delete_batch(
                caller,
                _documents(request.manifests),
                namespace=request.default_namespace or DEFAULT_NAMESPACE,
                missing_ok=request.ignore_not_found,
            )
            return await self._applied(context, caller, done, seconds)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def Rollback(self, request: control_pb2.RollbackRequest, context: _Context) -> control_pb2.ApplyResponse:
        """Make every object what it was as of a revision."""
        try:
            caller, seconds = self._caller(context, dry_run=request.dry_run), _seconds(request.wait_ms)
            if request.revision <= 0:
                raise MeshError(
                    ErrorCode.UNREADABLE, f"found {request.revision}, expected a revision", subject="revision"
                )
            done = await self._operations.rollback(caller, request.revision)
            return await self._applied(context, caller, done, seconds)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def Diff(self, request: control_pb2.PreviewRequest, context: _Context) -> control_pb2.Preview:
        """What Apply would change; nothing is stored."""
        try:
            caller = self._caller(context)
            question = DiffQuestion(
                documents=_documents(request.manifests),
                namespace=request.default_namespace or DEFAULT_NAMESPACE,
                authorization=_authorization(context),
            )
            return control_pb2.Preview(json=dumps(await self._differ.diff(caller, question)).encode())
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def Analyze(self, request: control_pb2.PreviewRequest, context: _Context) -> control_pb2.Preview:
        """What is wrong with the mesh, with the objects laid over it; nothing is stored."""
        try:
            caller, namespace = self._caller(context), request.default_namespace or DEFAULT_NAMESPACE
            found = await self._analyst.analyse(caller, _documents(request.manifests), namespace=namespace)
            return control_pb2.Preview(json=dumps(found).encode())
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def BeginRollout(
        self, request: control_pb2.BeginRolloutRequest, context: _Context
    ) -> control_pb2.BeginRolloutResponse:
        """Give the objects to some proxies first."""
        try:
            caller, plan = self._caller(context, dry_run=request.dry_run), plan_of_message(request.plan)
            namespace = request.default_namespace or DEFAULT_NAMESPACE
            begun = await self._rollouts.begin(caller, _documents(request.manifests), plan, namespace=namespace)
            return begun_message(begun)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def PromoteRollout(self, request: control_pb2.MoveRolloutRequest, context: _Context) -> control_pb2.Rollout:
        """On to the next stage now."""
        return await self._move_rollout(self._rollouts.promote, request, context)

    async def AbortRollout(self, request: control_pb2.MoveRolloutRequest, context: _Context) -> control_pb2.Rollout:
        """Take the candidate away from everybody."""
        return await self._move_rollout(self._rollouts.abort, request, context)

    async def _move_rollout(
        self,
        move: Callable[[str, str], Awaitable[Stored]],
        request: control_pb2.MoveRolloutRequest,
        context: _Context,
    ) -> control_pb2.Rollout:
        try:
            stored = await move(self._caller(context).author, request.id)
            return rollout_message(stored, await self._rollouts.seen(stored[0]))
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def _applied(
        self, context: _Context, caller: Caller, done: BatchResult, seconds: float
    ) -> control_pb2.ApplyResponse:
        return control_pb2.ApplyResponse(
            revision=done.revision,
            results=[
                control_pb2.ObjectResult(
                    object=str(item.ref),
                    action=item.action,
                    manifest=_manifest(item.manifest),
                    warnings=item.warnings,
                )
                for item in done.results
            ],
            wait=await self._wait(context, caller, done, seconds),
        )

    async def _wait(
        self, context: _Context, caller: Caller, done: BatchResult, seconds: float
    ) -> control_pb2.Wait | None:
        if not seconds or caller.dry_run or not done.revision:
            return None
        return wait_message(await self._views.revisions.wait(done.revision, seconds, _authorization(context)))

    async def Get(self, request: control_pb2.GetRequest, context: _Context) -> control_pb2.Object:
        """One object with its status."""
        try:
            self._caller(context)
            kind = _kind(request.group, request.kind)
            found = await self._operations.get(kind, _namespace(kind, request.namespace), request.name)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)
        return control_pb2.Object(manifest=_manifest(found))

    async def List(self, request: control_pb2.ListRequest, context: _Context) -> control_pb2.ObjectList:
        """The objects of a kind, of one namespace or of all."""
        try:
            self._caller(context)
            page = await self._operations.list(
                _kind(request.group, request.kind),
                request.namespace,
                selector=parse_selector(request.label_selector),
            )
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)
        return control_pb2.ObjectList(revision=page.revision, manifests=[_manifest(item) for item in page.items])

    async def Delete(self, request: control_pb2.DeleteRequest, context: _Context) -> control_pb2.DeleteResponse:
        """Delete one object."""
        try:
            caller, seconds = self._caller(context, dry_run=request.dry_run), _seconds(request.wait_ms)
            kind = _kind(request.group, request.kind)
            done = await self._operations.delete(caller, kind, _namespace(kind, request.namespace), request.name)
            wait = await self._wait(context, caller, done, seconds)
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)
        return control_pb2.DeleteResponse(revision=done.revision, wait=wait)

    async def Watch(
        self, request: control_pb2.WatchRequest, context: _Context
    ) -> AsyncIterator[control_pb2.WatchEvent]:
        """The present objects as ADDED, a BOOKMARK, then changes, until the client leaves or the server stops."""
        try:
            self._caller(context)
            wanted = WatchRequest(
                kind=_kind(request.group, request.kind),
                namespace=request.namespace,
                from_revision=max(request.from_revision, 0),
            )
            with self._one_watch():
                async with aclosing(self._operations.watch(wanted)) as events:
                    async for event in events:
                        yield control_pb2.WatchEvent(
                            type=event.type,
                            manifest=_manifest(event.manifest) if event.manifest else b"",
                            revision=event.revision,
                        )
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)

    async def Status(self, request: control_pb2.StatusRequest, context: _Context) -> control_pb2.StatusResponse:
        """A view of the mesh's state, as /mesh/v1 shows it."""
        try:
            self._caller(context)
            value = await self._views.answer(request.view, dict(request.parameters), _authorization(context))
        except Exception as error:  # noqa: BLE001
            await _abort(context, error)
        return control_pb2.StatusResponse(json=dumps(value).encode())

    def _caller(self, context: _Context, *, dry_run: bool = False) -> Caller:
        return Caller(author=self._authenticator.author(_authorization(context)), dry_run=dry_run)

    @contextmanager
    def _one_watch(self) -> Iterator[None]:
        if self._watches >= self._limits.watches:
            raise MeshError(ErrorCode.UNAVAILABLE, f"{self._watches} watches are open", subject="watch")
        self._watches += 1
        try:
            yield
        finally:
            self._watches -= 1


def _seconds(wait_ms: int) -> float:
    return min(max(wait_ms, 0) / 1000, MAX_WAIT_S)


def _authorization(context: _Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            return value
    return ""


def _documents(manifests: Any) -> list[Document]:
    """One document of each; `index` is its place in the request."""
    documents: list[Document] = []
    for index, manifest in enumerate(manifests):
        found = parse_documents(bytes(manifest), source=f"manifests[{index}]")
        if len(found) != 1:
            raise MeshError(
                ErrorCode.UNREADABLE, f"found {len(found)} documents, expected one", subject=f"manifests[{index}]"
            )
        documents.append(replace(found[0], index=index))
    return documents


def _kind(group: str, name: str) -> KindInfo:
    """By group and kind; without a group also by what people type (virtualservices, vs)."""
    kind = KINDS.by_group_kind(group, name) or (KINDS.by_word(name) if not group else None)
    if kind is None:
        subject = f"{group}/{name}" if group else name
        raise MeshError(ErrorCode.NOT_FOUND, "the server does not serve this kind", subject=subject[:128])
    return kind


def _namespace(kind: KindInfo, namespace: str) -> str:
    return (namespace or DEFAULT_NAMESPACE) if kind.namespaced else ""


def _manifest(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


async def _abort(context: _Context, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, MeshError):
        _log.error("call failed", exc_info=error)
        error = MeshError(ErrorCode.INTERNAL, "an error of the server; its log says more")
    status = grpc_status(error)
    if isinstance(error, InvalidObjects):
        await context.abort(status, str(error), ((_DETAILS, _details(status, str(error), error.problems)),))
    await context.abort(status, str(error))


def _details(status: grpc.StatusCode, message: str, problems: tuple[FieldProblem, ...]) -> bytes:
    """A google.rpc.Status with every violation as ApplyFailure."""
    failure = control_pb2.ApplyFailure(
        violations=[
            control_pb2.Violation(
                document=item.document, object=item.object, field=item.field, message=item.message
            )
            for item in problems
        ]
    )  # fmt: skip
    packed = AnyMessage()
    packed.Pack(failure)
    return Status(code=int(status.value[0]), message=message, details=[packed]).SerializeToString()
