"""LoadReportingService: agents and Envoys say how many requests they sent where; the sum is kept in memory.

Owns:   the LRS stream and its reading.
Not:    the sums (distribution.traffic).
Source: envoy/service/load_stats/v3/lrs.proto. Every cluster is asked for, every `REPORT_EVERY_S`.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats, UpstreamLocalityStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from controlplane.ca.peers import require_node
from controlplane.distribution.traffic import LoadRow, TrafficTable
from mesh.clock import Clock
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger
from mesh.vocabulary import Locality

_log = get_logger(__name__)

SERVICE = "envoy.service.load_stats.v3.LoadReportingService"
REPORT_EVERY_S = 5
_Context = grpc.aio.ServicerContext[Any, Any]
NodeOf = Callable[[LoadStatsRequest, _Context], str]


class LoadReportingService:
    """LRS for all ports of the process."""

    def __init__(self, table: TrafficTable, *, trust_domain: str, clock: Clock) -> None:
        self._table = table
        self._trust_domain = trust_domain
        self._clock = clock

    def handler(self, *, authenticated: bool) -> "grpc.GenericRpcHandler[Any, Any]":
        """The gRPC method; `authenticated`: the node is the certificate's."""

        async def stream(requests: AsyncIterator[LoadStatsRequest], context: _Context) -> AsyncIterator[bytes]:
            async for answer in self._stream(requests, context, authenticated=authenticated):
                yield answer

        method = grpc.stream_stream_rpc_method_handler(
            stream, request_deserializer=LoadStatsRequest.FromString, response_serializer=None
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"StreamLoadStats": method})

    async def _stream(
        self, requests: AsyncIterator[LoadStatsRequest], context: _Context, *, authenticated: bool
    ) -> AsyncIterator[bytes]:
        # Silence is no fault here: a client without traffic may have nothing to say, and keep-alive finds dead peers.
        first = await anext(requests, None)
        if first is None:
            return
        node = await self._node(first, context, authenticated=authenticated)
        answer = LoadStatsResponse(send_all_clusters=True)
        answer.load_reporting_interval.FromSeconds(REPORT_EVERY_S)
        yield answer.SerializeToString()
        try:
            self._record(node, first)
            async for request in requests:
                self._record(node, request)
        finally:
            self._table.forget(node)

    async def _node(self, first: LoadStatsRequest, context: _Context, *, authenticated: bool) -> str:
        if not authenticated:
            return first.node.id or context.peer()
        try:
            node = require_node(context.auth_context(), self._trust_domain)
            if first.node.id not in ("", node):
                raise MeshError(
                    ErrorCode.PERMISSION_DENIED,
                    f"found {first.node.id[:64]!r}, but the client certificate names node {node!r}",
                    subject="node.id",
                )
        except MeshError as error:
            _log.warning("load report refused", peer=context.peer(), reason=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        return node

    def _record(self, node: str, request: LoadStatsRequest) -> None:
        now = self._clock.monotonic()
        rows: dict[tuple[str, Locality], LoadRow] = {}
        for cluster in request.cluster_stats:
            for stats in cluster.upstream_locality_stats:
                row = _row(cluster, stats)
                # A locality stands once for each of its priorities.
                before = rows.get((row.cluster, row.locality))
                rows[row.cluster, row.locality] = row if before is None else _sum(before, row)
        for row in rows.values():
            self._table.record(node, row, now)


def _row(cluster: ClusterStats, stats: UpstreamLocalityStats) -> LoadRow:
    interval = cluster.load_report_interval
    return LoadRow(
        cluster=cluster.cluster_name[:512],
        locality=Locality(stats.locality.region[:128], stats.locality.zone[:128], stats.locality.sub_zone[:128]),
        interval_s=interval.seconds + interval.nanos / 1e9,
        issued=stats.total_issued_requests,
        succeeded=stats.total_successful_requests,
        failed=stats.total_error_requests,
        in_progress=stats.total_requests_in_progress,
    )


def _sum(one: LoadRow, other: LoadRow) -> LoadRow:
    return replace(
        one,
        issued=one.issued + other.issued,
        succeeded=one.succeeded + other.succeeded,
        failed=one.failed + other.failed,
        in_progress=one.in_progress + other.in_progress,
    )
