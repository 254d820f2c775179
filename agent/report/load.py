"""Load reports: how many requests went where, told by the LRS protocol.

Owns:   the sums since the last report, the stream.
Not:    counting (workers' StatsDelta), which locality a host is in (`locality_of`).
Source: envoy/service/load_stats/v3/lrs.proto.
Invariants: while there is no stream the sums go on, for at most MAX_HOSTS hosts; a report covers the time since the
        one before; what was being written when a stream broke is lost, never told twice.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from envoy.config.core.v3.base_pb2 import Node
from envoy.config.endpoint.v3.load_report_pb2 import ClusterStats, UpstreamLocalityStats
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse

from mesh.clock import Clock
from mesh.logs import get_logger
from mesh.resilience.backoff import Backoff
from mesh.vocabulary import Locality

_log = get_logger(__name__)

METHOD = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats"
BACKOFF_BASE_S = 1.0
BACKOFF_MAX_S = 15.0
MAX_HOSTS = 100_000
_FIRST_ANSWER_S = 60.0

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

    def take(self, place_of: Callable[[str, str], Place], interval_s: float) -> list[ClusterStats]:
        """The sums as messages, per cluster and locality; they begin at zero again."""
        totals: dict[str, dict[Place, list[int]]] = {}
        for (cluster, host), row in self._rows.items():
            self._add(totals, cluster, place_of(cluster, host), (*row, 0))
        for (_, cluster, host), active in self._active.items():
            self._add(totals, cluster, place_of(cluster, host), (0, 0, 0, active))
        self._rows.clear()
        return [_cluster_stats(cluster, places, interval_s) for cluster, places in sorted(totals.items())]

    @staticmethod
    def _add(totals: dict[str, dict[Place, list[int]]], cluster: str, place: Place, row: tuple[int, ...]) -> None:
        into = totals.setdefault(cluster, {}).setdefault(place, [0, 0, 0, 0])
        for index, value in enumerate(row):
            into[index] += value


def _cluster_stats(cluster: str, places: dict[Place, list[int]], interval_s: float) -> ClusterStats:
    stats = ClusterStats(cluster_name=cluster)
    stats.load_report_interval.FromNanoseconds(int(interval_s * 1e9))
    for (locality, priority), (requests, successes, errors, active) in sorted(places.items()):
        row = UpstreamLocalityStats(
            total_issued_requests=max(requests, successes + errors),  # `requests` may be without local failures
            total_successful_requests=successes,
            total_error_requests=errors,
            total_requests_in_progress=active,
            priority=priority,
        )
        row.locality.region, row.locality.zone = locality.region, locality.zone
        row.locality.sub_zone = locality.sub_zone
        stats.upstream_locality_stats.append(row)
    return stats


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
    ) -> None:
        self._node = node
        self._sums = sums
        self._place_of = place_of
        self._connect = connect
        self._clock = clock
        self._rng = rng
        self._last = clock.monotonic()
        self.error = ""

    async def run(self) -> None:
        """Keep reporting until cancelled."""
        backoff = Backoff(BACKOFF_BASE_S, BACKOFF_MAX_S)
        while True:
            if await self._one_stream():
                backoff.reset()
            await asyncio.sleep(backoff.next_delay_s(self._rng))

    async def _one_stream(self) -> bool:
        told = False
        async with self._connect() as channel:
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
                    every_s = max(answer.load_reporting_interval.ToNanoseconds() / 1e9, 1.0)
                    answer = await self._report_until_answered(stream, every_s)
                    told = True
                self._ended("the server ended the stream")
            except grpc.aio.AioRpcError as error:
                self._ended(f"{error.code().name}: {error.details() or ''}".rstrip(": "))
            except asyncio.InvalidStateError as error:
                self._ended(str(error))
            except TimeoutError:
                self._ended("no answer")
            finally:
                stream.cancel()
        return told

    async def _report_until_answered(self, stream: Any, every_s: float) -> Any:
        """Report every `every_s` until the server says something new."""
        reading = asyncio.ensure_future(stream.read())
        try:
            while True:
                done, _ = await asyncio.wait({reading}, timeout=every_s)
                if done:
                    return reading.result()
                now = self._clock.monotonic()
                stats = self._sums.take(self._place_of, now - self._last)
                self._last = now
                await stream.write(LoadStatsRequest(cluster_stats=stats))
        finally:
            reading.cancel()

    def _ended(self, reason: str) -> None:
        if reason != self.error:
            _log.info("the load report stream ended", reason=reason)
        self.error = reason
