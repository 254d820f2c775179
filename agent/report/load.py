"""Load reports: how many requests went where, told by the LRS protocol.

Owns:   the sums since the last report, the stream.
Not:    counting (workers' StatsDelta), which locality a host is in (`locality_of`).
Source: envoy/service/load_stats/v3/lrs.proto. As in Envoy: clusters that the server does not ask for are not told,
        endpoints are when it asks for that granularity, a 5xx is an error.
Differs: Envoy forgets what it counted without a stream; here it is in the next report, whose interval is as long.
Invariants: while there is no stream the sums go on, for at most MAX_HOSTS hosts; a report covers the time since the
        one before; what was being written when a stream broke is lost, never told twice. Requests that no host got
        (host "") are errors of their cluster in no locality: a server that compares proxies must see them.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from mesh.clock import Clock
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff
from mesh.vocabulary import Locality

_log = get_logger(__name__)

METHOD = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 15.0
MAX_HOSTS = 100_000
MIN_INTERVAL_S = 1.0  # workers report to the supervisor once a second
_WRITE_S = 30.0
_FIRST_ANSWER_S = 60.0
_UNIMPLEMENTED_S = 300.0  # the server has no such service: it may get one with its next version

Wanted = Callable[[str], bool]  # of a cluster's name
HostRow = tuple[str, str, int, int, int, int]  # StatsDelta.hosts: cluster, host, requests, successes, errors, active
Place = tuple[Locality, int]  # locality, priority


class LoadSums:
    """Requests per (cluster, host) since the last report."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[int]] = {}
        self._active: dict[tuple[int, str, str], int] = {}
        self.dropped = 0

    def add(self, worker: int, rows: Iterable[HostRow]) -> None:
        """Add one worker's increases."""
        for cluster, host, requests, successes, errors, active in rows:
            row = self._rows.get((cluster, host))
            if row is None:
                if len(self._rows) >= MAX_HOSTS:
                    self.dropped += 1
                    continue
                row = self._rows[cluster, host] = [0, 0, 0]
            row[0] += requests
            row[1] += successes
            row[2] += errors
            if active:
                self._active[worker, cluster, host] = active
            else:
                self._active.pop((worker, cluster, host), None)

    def forget_worker(self, worker: int) -> None:
        """A worker is gone, and what it had in flight with it."""
        for key in [key for key in self._active if key[0] == worker]:
            del self._active[key]

    def take(
        self,
        place_of: Callable[[str, str], Place],
        interval_s: float,
        *,
        wanted: Wanted = lambda _: True,
        service_of: Callable[[str], str] = lambda _: "",
        per_endpoint: bool = False,
    ) -> list[ClusterStats]:
        """The sums as messages, per wanted cluster and locality; all begin at zero again."""
        rows = {key: [*row, 0] for key, row in self._rows.items() if wanted(key[0])}
        for (_, cluster, host), active in self._active.items():
            if wanted(cluster):
                rows.setdefault((cluster, host), [0, 0, 0, 0])[3] += active
        self._rows.clear()
        by_place: dict[str, dict[Place, dict[str, list[int]]]] = {}
        for (cluster, host), row in rows.items():
            by_place.setdefault(cluster, {}).setdefault(place_of(cluster, host), {})[host] = row
        return [
            _cluster_stats(cluster, service_of(cluster), places, interval_s, per_endpoint=per_endpoint)
            for cluster, places in sorted(by_place.items())
        ]


def _cluster_stats(
    cluster: str, service: str, places: dict[Place, dict[str, list[int]]], interval_s: float, *, per_endpoint: bool
) -> ClusterStats:
    stats = ClusterStats(cluster_name=cluster, cluster_service_name=service)
    stats.load_report_interval.FromNanoseconds(int(interval_s * 1e9))
    for (locality, priority), hosts in sorted(places.items()):
        sums = [sum(column) for column in zip(*hosts.values(), strict=True)]
        row = UpstreamLocalityStats(priority=priority)
        _count(row, sums)
        row.locality.region, row.locality.zone = locality.region, locality.zone
        row.locality.sub_zone = locality.sub_zone
        if per_endpoint:
            row.upstream_endpoint_stats.extend(
                _endpoint_stats(host, own) for host, own in sorted(hosts.items()) if host
            )
        stats.upstream_locality_stats.append(row)
    return stats


def _endpoint_stats(host: str, row: list[int]) -> UpstreamEndpointStats:
    stats = UpstreamEndpointStats()
    _count(stats, row)
    address, _, port = host.rpartition(":")
    stats.address.socket_address.address = address.strip("[]")
    stats.address.socket_address.port_value = int(port)
    return stats


def _count(stats: UpstreamLocalityStats | UpstreamEndpointStats, row: list[int]) -> None:
    requests, successes, errors, active = row
    stats.total_issued_requests = max(requests, successes + errors)  # `requests` may be without local failures
    stats.total_successful_requests, stats.total_error_requests = successes, errors
    stats.total_requests_in_progress = active


class LoadReporter:
    """Keeps one LRS stream open and reports as often as the server asks."""

    def __init__(
        self,
        node: Node,
        sums: LoadSums,
        place_of: Callable[[str, str], Place],
        connect: Callable[[], grpc.aio.Channel],
        *,
        clock: Clock,
        rng: Callable[[], float] = random.random,
        service_of: Callable[[str], str] = lambda _: "",
    ) -> None:
        """`service_of`: the name that a cluster's endpoints have in EDS, "" when it is the cluster's."""
        self._node = node
        self._sums = sums
        self._place_of = place_of
        self._connect = connect
        self._clock = clock
        self._rng = rng
        self._service_of = service_of
        self._last = clock.monotonic()
        self._is_unimplemented = False
        self.error = ""

    async def run(self) -> None:
        """Keep reporting until cancelled."""
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_MAX_S)
        while True:
            if await self._one_stream():
                backoff.reset()
            await asyncio.sleep(_UNIMPLEMENTED_S if self._is_unimplemented else backoff.next_delay_s(self._rng))

    async def _one_stream(self) -> bool:
        told = self._is_unimplemented = False
        try:
            opened = self._connect()
        except MeshError as error:
            self._ended(str(error))
            return False
        async with opened as channel:
            stream: Any = channel.stream_stream(
                METHOD,
                request_serializer=LoadStatsRequest.SerializeToString,
                response_deserializer=LoadStatsResponse.FromString,
            )(None)
            try:
                await stream.write(LoadStatsRequest(node=self._node))
                async with asyncio.timeout(_FIRST_ANSWER_S):
                    answer = await stream.read()
                while isinstance(answer, LoadStatsResponse):
                    answer = await self._report_until_answered(stream, answer)
                    told = True
                self._ended("the server ended the stream")
            except grpc.aio.AioRpcError as error:
                self._is_unimplemented = error.code() is grpc.StatusCode.UNIMPLEMENTED
                self._ended(f"{error.code().name}: {error.details() or ''}".rstrip(": "))
            except asyncio.InvalidStateError as error:
                self._ended(str(error))
            except TimeoutError:
                self._ended("no answer")
            finally:
                stream.cancel()
        return told

    async def _report_until_answered(self, stream: Any, asked: LoadStatsResponse) -> Any:
        """Report as `asked` until the server says something new."""
        every_s = max(asked.load_reporting_interval.ToNanoseconds() / 1e9, MIN_INTERVAL_S)
        reading = asyncio.ensure_future(stream.read())
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=every_s)
                if done:
                    return reading.result()
                async with asyncio.timeout(_WRITE_S):
                    await stream.write(LoadStatsRequest(cluster_stats=self._report(asked)))
        finally:
            reading.cancel()

    def _report(self, asked: LoadStatsResponse) -> list[ClusterStats]:
        now = self._clock.monotonic()
        interval_s, self._last = now - self._last, now
        names = frozenset(asked.clusters)
        return self._sums.take(
            self._place_of,
            interval_s,
            wanted=lambda cluster: asked.send_all_clusters or cluster in names,
            service_of=self._service_of,
            per_endpoint=asked.report_endpoint_granularity,
        )

    def _ended(self, reason: str) -> None:
        if reason != self.error:
            _log.info("the load report stream ended", reason=reason)
        self.error = reason
