"""Many delta streams in one process, one connection each; tells on stdout, in JSON lines, what they received.

Commands on stdin, answered by one line each (`expect` by two):
    expect MARKER N   `expecting`, then `delivered` when N streams have seen the bytes MARKER: moments and counts
    counts            `counts`: what was received since the command before
    reconnect         close all; `connected` when all have come back with their versions and are up to date
    comeback          `connected` likewise, after the server has ended all streams

Streams in the namespace `elsewhere` (every other one with --mixed) are counted as `others`. Times are seconds since the
epoch. The clients share what they know of versions, as the streams of one namespace are sent the same.
"""

import argparse
import asyncio
import gc
import json
import random
import resource
import sys
import time
from typing import Any

import uvloop
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from bench.grpc_stream import GrpcStream, opening
from mesh.xds import type_url

PATH = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
WILDCARDS = (type_url.CLUSTER, type_url.LISTENER, type_url.VIRTUAL_HOST)
_DIAL_AT_ONCE = 64
_WAIT_S = 300.0


class Group:
    """What the streams of one namespace know together."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.versions: dict[str, dict[str, str]] = {}  # by type and name
        self.bytes = self.resources = self.streams = 0
        self._first: list[bytes] = []

    def forget_requests(self) -> None:
        self._first = []

    def first_requests(self) -> list[bytes]:
        """The first requests of a stream that knows all that the group knows, CDS first, without a node."""
        if not self._first:
            for url in (type_url.CLUSTER, type_url.VIRTUAL_HOST, type_url.CLUSTER_LOAD_ASSIGNMENT):
                request = discovery_pb2.DeltaDiscoveryRequest(type_url=url)
                request.initial_resource_versions.update(self.versions.get(url, {}))
                if url == type_url.CLUSTER_LOAD_ASSIGNMENT:
                    request.resource_names_subscribe.extend(sorted(self.versions.get(url, ())))
                self._first.append(request.SerializeToString())
        return self._first


class Expectation:
    """What `expect` waits for."""

    def __init__(self, marker: bytes, streams: int) -> None:
        self.marker, self.left = marker, streams
        self.first = self.last = 0.0
        self.met = asyncio.Event()

    def saw(self) -> None:
        self.last = time.time()
        self.first = self.first or self.last
        self.left -= 1
        if not self.left:
            self.met.set()


class Stream:
    """One client: LDS, CDS and VHDS wildcard, EDS by the clusters it got."""

    def __init__(self, fleet: "Fleet", group: Group, number: int) -> None:
        self._fleet, self._group, self._number = fleet, group, number
        self._wire: GrpcStream | None = None
        self._listeners: dict[str, str] = {}  # versions; they carry the node's own identity
        self._awaited: set[str] = set()
        self._missing_endpoints: set[str] = set()
        self._asked = False  # for endpoints
        self._knows = False  # all that its group knows
        self._seen: Expectation | None = None
        self._lost = asyncio.Event()
        self._progress = asyncio.Event()  # complete, or lost

    async def dial(self) -> None:
        """Connect, with back-off, and send the first requests."""
        loop = asyncio.get_running_loop()
        self._lost.clear()
        self._progress.clear()
        self._awaited = set(WILDCARDS)
        for attempt in range(400):
            try:
                _, self._wire = await loop.create_connection(
                    lambda: GrpcStream(self._fleet.opening, self._on_message, self._on_end),
                    *self._fleet.target,
                )
            except OSError:
                await asyncio.sleep(min(0.05 * 1.3**attempt, 0.5) * (0.5 + random.random()))
            else:
                break
        else:
            raise SystemExit("cannot connect")
        self._send_first(self._wire)

    def _send_first(self, wire: GrpcStream) -> None:
        node = base_pb2.Node(id=f"bench-{self._number}", user_agent_name="gossamer-agent")
        node.metadata.update({"DIALECT": "gossamer", "NAMESPACE": self._group.namespace})
        with_node = discovery_pb2.DeltaDiscoveryRequest(node=node).SerializeToString()
        listeners = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url.LISTENER)
        if self._knows:
            clusters, *rest = self._group.first_requests()
            listeners.initial_resource_versions.update(self._listeners)
        else:
            clusters, *rest = (
                discovery_pb2.DeltaDiscoveryRequest(type_url=url).SerializeToString()
                for url in (type_url.CLUSTER, type_url.VIRTUAL_HOST)
            )
        for request in (with_node + clusters, listeners.SerializeToString(), *rest):
            wire.send(request)

    def _on_end(self, reason: str) -> None:
        self._lost.set()
        self._progress.set()
        if self._knows and not self._awaited and not self._fleet.expects_loss:
            say(event="lost", stream=self._number, reason=reason)

    @property
    def is_complete(self) -> bool:
        return self._knows and not self._awaited

    async def complete_or_lost(self) -> None:
        """Until it is up to date, or was refused: the server admits so many at a time."""
        await self._progress.wait()
        if not self.is_complete:
            self._fleet.retries += 1
            await asyncio.sleep(0.5 + random.random())

    def begin(self) -> None:
        """A new life: nothing is up to date any more."""
        self._awaited = set(WILDCARDS)

    async def lost(self) -> None:
        await self._lost.wait()

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()

    def _on_message(self, raw: bytes) -> None:
        group, expectation = self._group, self._fleet.expectation
        group.bytes += len(raw)
        if expectation is not None and expectation is not self._seen and expectation.marker in raw:
            self._seen = expectation
            expectation.saw()
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(raw)
        url = response.type_url
        group.resources += len(response.resources)
        ack = discovery_pb2.DeltaDiscoveryRequest(type_url=url, response_nonce=response.nonce)
        assert self._wire is not None
        self._wire.send(ack.SerializeToString())
        known = self._listeners if url == type_url.LISTENER else group.versions.setdefault(url, {})
        known.update((item.name, item.version) for item in response.resources)
        for name in response.removed_resources:
            known.pop(name, None)
        if self._progress.is_set():
            return
        if not self._knows:
            self._follow(response)
        self._awaited.discard(url)
        self._look()

    def _follow(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        """The first time: ask for the endpoints of the clusters."""
        if response.type_url == type_url.CLUSTER and response.resources:
            names = {item.name for item in response.resources}
            self._asked = True
            self._awaited.add(type_url.CLUSTER_LOAD_ASSIGNMENT)
            self._missing_endpoints |= names
            subscribe = discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url.CLUSTER_LOAD_ASSIGNMENT, resource_names_subscribe=sorted(names)
            )
            assert self._wire is not None
            self._wire.send(subscribe.SerializeToString())
        elif response.type_url == type_url.CLUSTER_LOAD_ASSIGNMENT:
            self._missing_endpoints.difference_update(item.name for item in response.resources)
            if self._missing_endpoints:
                self._awaited.add("endpoints")
            else:
                self._awaited.discard("endpoints")

    def _look(self) -> None:
        if not self._awaited and (self._knows or self._asked):
            self._knows, self._missing_endpoints = True, set()
            self._progress.set()
            self._fleet.completed()


class Fleet:
    """All streams and the present expectation."""

    def __init__(self, target: str, streams: int, *, mixed: bool) -> None:
        host, _, port = target.rpartition(":")
        self.target = (host, int(port))
        self.opening = opening(target, PATH)
        self.own, self.others = Group("default"), Group("elsewhere")
        groups = (self.own, self.others) if mixed else (self.own,)
        self._streams = [Stream(self, groups[number % len(groups)], number) for number in range(streams)]
        self.expectation: Expectation | None = None
        self.expects_loss = False
        self._complete = self.retries = 0
        self._all_complete = asyncio.Event()

    def completed(self) -> None:
        self._complete += 1
        if self._complete == len(self._streams):
            self._all_complete.set()

    async def connect(self, *, lost: bool = False) -> dict[str, Any]:
        """Dial with every stream and wait until each has its answers. `lost`: first until it has lost its server."""
        self._complete = self.retries = 0
        self._all_complete.clear()
        for stream in self._streams:
            stream.begin()
        for group in (self.own, self.others):
            group.forget_requests()
        self.counts()
        turns = asyncio.Semaphore(_DIAL_AT_ONCE)

        async def one(stream: Stream) -> None:
            if lost:
                await stream.lost()
            while not stream.is_complete:
                async with turns:
                    await stream.dial()
                await stream.complete_or_lost()

        begun = time.time()
        async with asyncio.timeout(_WAIT_S):
            await asyncio.gather(*(one(stream) for stream in self._streams))
            await self._all_complete.wait()
        return {"began": begun, "last": time.time(), "retries": self.retries, **self.counts()}

    async def reconnect(self) -> dict[str, Any]:
        for stream in self._streams:
            stream.close()
        return await self.connect()

    def counts(self) -> dict[str, int]:
        """What was received since the last time."""
        found = {
            "bytes": self.own.bytes,
            "resources": self.own.resources,
            "others_bytes": self.others.bytes,
            "others_resources": self.others.resources,
        }
        for group in (self.own, self.others):
            group.bytes = group.resources = 0
        return found

    async def expect(self, marker: str, streams: int) -> None:
        self.counts()
        self.expectation = Expectation(marker.encode(), streams)
        say(event="expecting")
        await asyncio.wait_for(self.expectation.met.wait(), 120)
        found = self.expectation
        say(event="delivered", first=found.first, last=found.last, **self.counts())


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def main_async(fleet: Fleet) -> None:
    say(event="connected", **await fleet.connect())
    gc.freeze()
    loop = asyncio.get_running_loop()
    while words := (await loop.run_in_executor(None, sys.stdin.readline)).split():
        match words:
            case ["expect", marker, streams]:
                await fleet.expect(marker, int(streams))
            case ["counts"]:
                say(event="counts", **fleet.counts())
            case ["reconnect"]:
                say(event="connected", **await fleet.reconnect())
            case ["comeback"]:
                fleet.expects_loss = True
                say(event="waiting")
                say(event="connected", **await fleet.connect(lost=True))
                fleet.expects_loss = False
            case _:
                raise SystemExit(f"found {words}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("streams", type=int)
    parser.add_argument("--mixed", action="store_true", help="every other stream is in another namespace")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.install()
    asyncio.run(main_async(Fleet(arguments.target, arguments.streams, mixed=arguments.mixed)))
