"""ClientStatusDiscoveryService: what each proxy of this replica has, as it says itself or as it acknowledged.

Owns:   the gRPC methods, choosing nodes by matchers, who may see what.
Not:    the statuses (client_status). REST joins the replicas' answers (api.state_views).
Source: envoy/service/status/v3/csds.proto; envoy/type/matcher/v3/node.proto; docs/adr/0005.

Who sees what: on the mTLS port a node sees itself; on the server-TLS port whoever may use the API, and on the plaintext
port (loopback only) everyone, sees all. Resources themselves come only with a matcher that names nodes, since all of
them for all proxies is more than a message may hold.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
from envoy.service.status.v3.csds_pb2 import ClientStatusRequest, ClientStatusResponse
from envoy.type.matcher.v3.node_pb2 import NodeMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher

from controlplane.ca.peers import require_node
from controlplane.discovery.client_status import Chosen, ClientStatuses
from mesh.errors import ErrorCode, MeshError

SERVICE = "envoy.service.status.v3.ClientStatusDiscoveryService"
_Context = grpc.aio.ServicerContext[Any, Any]
# The node that a caller may see, None for all. Raises MeshError when it may see nothing.
Permit = Callable[[_Context], str | None]
_STATUS = {
    ErrorCode.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    ErrorCode.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    ErrorCode.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
}


class ClientStatusService:
    """CSDS for all ports of the process."""

    def __init__(self, statuses: ClientStatuses, *, trust_domain: str) -> None:
        self._statuses = statuses
        self._trust_domain = trust_domain

    def own_node(self, context: _Context) -> str | None:
        """The permit of the mTLS port."""
        return require_node(context.auth_context(), self._trust_domain)

    def handler(self, permit: Permit) -> "grpc.GenericRpcHandler[Any, Any]":
        """The gRPC methods of one port."""

        async def fetch(request: ClientStatusRequest, context: _Context) -> ClientStatusResponse:
            return await self._answer(request, context, permit)

        async def stream(
            requests: AsyncIterator[ClientStatusRequest], context: _Context
        ) -> AsyncIterator[ClientStatusResponse]:
            # Silence is no fault here: the client asks when it wants to know, and keep-alive finds dead peers.
            async for request in requests:
                yield await self._answer(request, context, permit)

        forms: dict[str, Any] = {
            "request_deserializer": ClientStatusRequest.FromString,
            "response_serializer": ClientStatusResponse.SerializeToString,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "FetchClientStatus": grpc.unary_unary_rpc_method_handler(fetch, **forms),
                "StreamClientStatus": grpc.stream_stream_rpc_method_handler(stream, **forms),
            },
        )

    async def _answer(self, request: ClientStatusRequest, context: _Context, permit: Permit) -> ClientStatusResponse:
        try:
            only = permit(context)
            wanted = chosen(request.node_matchers)
        except MeshError as error:
            await context.abort(_STATUS.get(error.code, grpc.StatusCode.UNKNOWN), str(error))
        found = await self._statuses.of(
            lambda node: only in (None, node) and wanted(node),
            contents=bool(request.node_matchers) and not request.exclude_resource_contents,
        )
        return ClientStatusResponse(config=found)


def chosen(matchers: Iterable[NodeMatcher]) -> Chosen:
    """Nodes that any of the matchers takes; all without one. Raises INVALID for a matcher that is not known here."""
    tests = [_test(one.node_id, one) for one in matchers]
    return lambda node: not tests or any(test(node) for test in tests)


def _test(matcher: StringMatcher, whole: NodeMatcher) -> Chosen:
    if whole.node_metadatas:
        raise _unknown("node_metadatas", "node_id")
    fold = str.lower if matcher.ignore_case else str
    match matcher.WhichOneof("match_pattern"):
        case "exact":
            return lambda node: fold(node) == fold(matcher.exact)
        case "prefix":
            return lambda node: fold(node).startswith(fold(matcher.prefix))
        case "suffix":
            return lambda node: fold(node).endswith(fold(matcher.suffix))
        case "contains":
            return lambda node: fold(matcher.contains) in fold(node)
        case other:
            raise _unknown(f"node_id.{other or 'match_pattern'}", "exact, prefix, suffix or contains")


def _unknown(found: str, expected: str) -> MeshError:
    return MeshError(ErrorCode.INVALID, f"found {found}, expected {expected}", subject="node_matchers")


def everyone(_: _Context) -> str | None:
    """The permit of a port that is on loopback only."""
    return None


def of_api(author: Callable[[str], str]) -> Permit:
    """The permit of a port where callers show the API's bearer token. `author` raises UNAUTHENTICATED."""

    def permit(context: _Context) -> str | None:
        metadata = dict(context.invocation_metadata() or ())
        author(str(metadata.get("authorization", "")))
        return None

    return permit
