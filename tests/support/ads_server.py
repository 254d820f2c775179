"""A small xDS server of its own: it shares no code with the control plane, nor with what both planes have in common.

Owns:   ADS in SotW and delta, and LRS, on a plain gRPC server; what it sends can be scripted, what it is sent is kept.
Source: xds_protocol.rst; envoy/service/load_stats/v3/lrs.proto.

It answers as the plainest servers do: SotW by version and names, delta by what each stream was sent. `held` types are
not answered until `release`; `say` puts any bytes on the wire.
"""

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Resource,
)
from envoy.service.load_stats.v3.lrs_pb2 import LoadStatsRequest, LoadStatsResponse
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

Request = DiscoveryRequest | DeltaDiscoveryRequest
CDS, EDS, LDS, RDS = (
    f"type.googleapis.com/{kind.DESCRIPTOR.full_name}"
    for kind in (Cluster, ClusterLoadAssignment, Listener, RouteConfiguration)
)
WHOLE = (CDS, LDS)
ORDER = (CDS, EDS, LDS, RDS)
_LOADED = (router_pb2, http_connection_manager_pb2)  # ParseDict finds them by name


@dataclass(slots=True)
class _Type:
    """One type on one stream. SotW: the last response; delta: name -> version that the client has."""

    nonce: str = ""
    version: str = ""
    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    has: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """An open stream and what came on it."""

    delta: bool
    requests: list[Any] = field(default_factory=list)
    types: dict[str, _Type] = field(default_factory=dict)
    out: "queue.Queue[bytes | None]" = field(default_factory=queue.Queue)


class AdsServer:
    """Use as a context. `put` and `remove` change what it has and tell every stream."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None, host: str = "127.0.0.1") -> None:
        self._credentials = credentials
        self._host = host
        self._lock = threading.RLock()
        self._nonces = itertools.count(1)
        self._server: grpc.Server | None = None
        self.content: dict[str, dict[str, Message]] = {url: {} for url in ORDER}
        self.versions: dict[str, dict[str, str]] = {url: {} for url in ORDER}
        self.epoch = "1"  # part of every version
        self.counts = dict.fromkeys(ORDER, 0)
        self.streams: list[Stream] = []  # all, oldest first
        self.open: list[Stream] = []
        self.held: set[str] = set()
        self.silent_streams: frozenset[int] = frozenset()  # places in `streams` where it says nothing
        self.hangs_up = False  # ends every stream at its first request
        self.answers_first = False  # with `hangs_up`: after one response
        self.port = 0
        self.load_reports: list[LoadStatsRequest] = []
        self.load_answer = LoadStatsResponse(send_all_clusters=True)
        self.load_answer.load_reporting_interval.FromSeconds(1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"{self._host}:{self.port}"

    def start(self) -> None:
        """Listen; after a stop on the same port as before."""
        server = grpc.server(
            ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)]
        )
        server.add_generic_rpc_handlers((_discovery(self._serve), _load(self._take_loads)))
        target = f"{self._host}:{self.port}"
        if self._credentials is None:
            self.port = server.add_insecure_port(target)
        else:
            self.port = server.add_secure_port(target, self._credentials)
        server.start()
        self._server = server

    def stop(self) -> None:
        """As if killed: streams are cut."""
        with self._lock:
            for stream in self.open:
                stream.out.put(None)
        if self._server is not None:
            self._server.stop(0).wait(10)
            self._server = None

    # --- content ----------------------------------------------------------------------------------------------

    def put(self, *messages: Message, tell: bool = True) -> None:
        """Add or replace resources."""
        with self._lock:
            for message in messages:
                url = f"type.googleapis.com/{message.DESCRIPTOR.full_name}"
                self.counts[url] += 1
                self.content[url][_name(message)] = message
                self.versions[url][_name(message)] = f"{self.epoch}.{self.counts[url]}"
            if tell:
                self.tell()

    def remove(self, url: str, *names: str) -> None:
        """Have them no more."""
        with self._lock:
            for name in names:
                del self.content[url][name], self.versions[url][name]
                self.counts[url] += 1
            self.tell()

    def release(self, *urls: str) -> None:
        """Answer these types from now on."""
        with self._lock:
            self.held -= set(urls)
            self.tell()

    def renumber(self, epoch: str) -> None:
        """Another process with the same content: every version is another one."""
        with self._lock:
            self.epoch = epoch
            for versions in self.versions.values():
                versions.update({name: f"{epoch}.0" for name in versions})

    def tell(self) -> None:
        """Bring every open stream up to date."""
        for stream in self.open:
            for url in ORDER:
                if url in stream.types:
                    self._answer(stream, url)

    def say(self, data: bytes) -> None:
        """Put bytes on every open stream, as if they were a response."""
        with self._lock:
            for stream in self.open:
                stream.out.put(data)

    # --- what came --------------------------------------------------------------------------------------------

    def requests(self, url: str = "", *, stream: int = -1) -> list[Any]:
        """What one stream has said."""
        with self._lock:
            return [one for one in self.streams[stream].requests if url in ("", one.type_url)] if self.streams else []

    def refusals(self, url: str = "") -> list[str]:
        """The words of all NACKs of the newest stream."""
        return [one.error_detail.message for one in self.requests(url) if one.HasField("error_detail")]

    # --- serving ----------------------------------------------------------------------------------------------

    def _serve(self, requests: Iterable[Any], delta: bool) -> Iterator[bytes]:
        stream = Stream(delta)
        with self._lock:
            self.streams.append(stream)
            self.open.append(stream)
        threading.Thread(target=self._read, args=(requests, stream), daemon=True).start()
        try:
            while (data := stream.out.get()) is not None:
                yield data
        finally:
            with self._lock:
                self.open.remove(stream)

    def _read(self, requests: Iterable[Any], stream: Stream) -> None:
        try:
            for request in requests:
                with self._lock:
                    stream.requests.append(request)
                    self._take(stream, request)
        except grpc.RpcError:
            pass  # the client has gone
        finally:
            stream.out.put(None)

    def _take(self, stream: Stream, request: Any) -> None:
        if self.streams.index(stream) in self.silent_streams:
            return
        state = stream.types.get(request.type_url)
        is_first = state is None
        state = stream.types.setdefault(request.type_url, _Type())
        if stream.delta:
            _subscribe(state, request, is_first=is_first)
        elif is_first:
            state.version, state.names = request.version_info, set(request.resource_names)
            state.wildcard = not state.names
            state.has = dict.fromkeys(state.names if request.version_info else (), "")
        elif request.response_nonce == state.nonce:
            state.names = set(request.resource_names)
            state.has = {name: one for name, one in state.has.items() if name in state.names or state.wildcard}
        if self.answers_first or not self.hangs_up:
            self._answer(stream, request.type_url, is_first=is_first)
        if self.hangs_up:
            stream.out.put(None)

    def _answer(self, stream: Stream, url: str, *, is_first: bool = False) -> None:
        if url in self.held or url not in self.content:
            return
        make = self._delta if stream.delta else self._sotw
        response = make(stream.types[url], url, is_first=is_first)
        if response is not None:
            stream.out.put(response.SerializeToString())

    def _sotw(self, state: _Type, url: str, *, is_first: bool) -> Message | None:
        version = f"{self.epoch}.{self.counts[url]}"
        wanted = set(self.content[url]) if state.wildcard else state.names & self.content[url].keys()
        if state.version == version and (state.wildcard or wanted <= state.has.keys()):
            return None
        if not state.wildcard and not wanted:
            return None
        state.nonce, state.version, state.has = str(next(self._nonces)), version, dict.fromkeys(wanted, "")
        response = DiscoveryResponse(type_url=url, version_info=version, nonce=state.nonce)
        for name in sorted(wanted):
            response.resources.add().Pack(self.content[url][name])
        return response

    def _delta(self, state: _Type, url: str, *, is_first: bool) -> Message | None:
        have = self.versions[url]
        wanted = set(have) if state.wildcard else set(state.names)
        changed = sorted(name for name in wanted & have.keys() if state.has.get(name) != have[name])
        gone = [name for name in state.has if name not in have] + [
            name for name in wanted if name not in have and name not in state.has and name in state.names
        ]
        if not changed and not gone and not (is_first and state.wildcard):
            return None
        response = DeltaDiscoveryResponse(type_url=url, nonce=str(next(self._nonces)), system_version_info=self.epoch)
        for name in changed:
            resource = Resource(name=name, version=have[name])
            resource.resource.Pack(self.content[url][name])
            response.resources.append(resource)
            state.has[name] = have[name]
        for name in gone:
            response.removed_resources.append(name)
            state.has.pop(name, None)
            state.names.discard(name) if state.wildcard else None
        return response

    def _take_loads(self, requests: Iterable[LoadStatsRequest], context: Any) -> Iterator[bytes]:
        iterator = iter(requests)
        self.load_reports.append(next(iterator))
        yield self.load_answer.SerializeToString()
        try:
            self.load_reports.extend(iterator)
        except grpc.RpcError:
            return


def _subscribe(state: _Type, request: DeltaDiscoveryRequest, *, is_first: bool) -> None:
    added, dropped = set(request.resource_names_subscribe), set(request.resource_names_unsubscribe)
    if is_first:
        state.wildcard = not added or "*" in added
        state.has = dict(request.initial_resource_versions)
    state.names = (state.names | added) - dropped - {"*"}
    for name in added:
        state.has.pop(name, None) if not is_first else None
    for name in dropped:
        state.has.pop(name, None)


def _discovery(serve: Callable[[Iterable[Any], bool], Iterator[bytes]]) -> "grpc.GenericRpcHandler[Any, Any]":
    methods = {
        "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
            lambda requests, _: serve(requests, False), request_deserializer=DiscoveryRequest.FromString
        ),
        "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
            lambda requests, _: serve(requests, True), request_deserializer=DeltaDiscoveryRequest.FromString
        ),
    }
    return grpc.method_handlers_generic_handler("envoy.service.discovery.v3.AggregatedDiscoveryService", methods)


def _load(take: Callable[[Iterable[LoadStatsRequest], Any], Iterator[bytes]]) -> "grpc.GenericRpcHandler[Any, Any]":
    method = grpc.stream_stream_rpc_method_handler(take, request_deserializer=LoadStatsRequest.FromString)
    return grpc.method_handlers_generic_handler(
        "envoy.service.load_stats.v3.LoadReportingService", {"StreamLoadStats": method}
    )


def _name(message: Message) -> str:
    return str(getattr(message, "cluster_name", "") or getattr(message, "name", ""))


# --- resources, as small servers write them ---------------------------------------------------------------------------

_SOURCE = {"ads": {}, "resource_api_version": "V3"}


def cluster(name: str, *, service: str = "", **fields: Any) -> Cluster:
    """An EDS cluster; `service`: the name of its endpoints, when it is another."""
    eds = {"eds_config": _SOURCE, "service_name": service}
    return ParseDict(
        {"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": eds, **fields}, Cluster()
    )


def static_cluster(name: str, *addresses: str) -> Cluster:
    """A cluster that holds its endpoints."""
    endpoints = {"cluster_name": name, "endpoints": [_group(addresses)]}
    written = {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": endpoints}
    return ParseDict(written, Cluster())


def assignment(name: str, *addresses: str, zones: dict[str, tuple[str, ...]] | None = None) -> ClusterLoadAssignment:
    """Endpoints without a locality, or by zone."""
    groups = [_group(own, zone) for zone, own in (zones or {}).items()] or [_group(addresses)]
    return ParseDict({"cluster_name": name, "endpoints": groups}, ClusterLoadAssignment())


def _group(addresses: Iterable[str], zone: str = "") -> dict[str, Any]:
    place = {"locality": {"region": "r", "zone": zone}} if zone else {}
    return {"lb_endpoints": [{"endpoint": {"address": _socket(one)}} for one in addresses], **place}


def _socket(address: str) -> dict[str, Any]:
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def routes(name: str, **clusters: str) -> RouteConfiguration:
    """Domain -> cluster; `any` is every domain."""
    return ParseDict(_routes(name, clusters), RouteConfiguration())


def _routes(name: str, clusters: dict[str, str]) -> dict[str, Any]:
    hosts = [
        {
            "name": domain,
            "domains": ["*" if domain == "any" else domain],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": target}}],
        }
        for domain, target in clusters.items()
    ]
    return {"name": name, "virtual_hosts": hosts}


def listener(name: str, address: str, route_name: str = "", **inline: str) -> Listener:
    """An HTTP listener with RDS, or with `inline` routes as in `routes`."""
    package = "type.googleapis.com/envoy.extensions.filters"
    chosen: dict[str, Any] = {"rds": {"route_config_name": route_name, "config_source": _SOURCE}}
    if inline:
        chosen = {"route_config": _routes("inline", inline)}
    manager = {
        "@type": f"{package}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{package}.http.router.v3.Router"}}],
        **chosen,
    }
    chain = {"filters": [{"name": "http", "typed_config": manager}]}
    return ParseDict({"name": name, "address": _socket(address), "filter_chains": [chain]}, Listener())


def eventually(what: str, test: Callable[[], Any], *, timeout_s: float = 20.0) -> Any:
    """Call `test` until it gives something true, and return that."""
    deadline = time.monotonic() + timeout_s
    while not (found := test()):
        assert time.monotonic() < deadline, f"not reached: {what}"
        time.sleep(0.02)
    return found
