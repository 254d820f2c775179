"""Many delta ADS clients in one process, for bench.controlplane. Each stream subscribes to everything and ACKs all.

Standard input: `expect MARKER` lines. Standard output, one JSON line each: `ready` when every stream has its first
full state, then per expectation the moments (seconds since the epoch) at which the first and the last stream received
a response that holds MARKER, and how many bytes all streams received for it.
"""

import argparse
import asyncio
import json
import sys
import time

import grpc.aio
import uvloop
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import struct_pb2

from mesh.xds import type_url

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"


class Expectation:
    """What `expect MARKER` waits for."""

    def __init__(self, marker: bytes, streams: int) -> None:
        self.marker, self.left = marker, streams
        self.first = self.last = 0.0
        self.bytes = 0
        self.met = asyncio.Event()

    def saw(self) -> None:
        self.last = time.time()
        self.first = self.first or self.last
        self.left -= 1
        if not self.left:
            self.met.set()


class Fleet:
    """All streams and the present expectation."""

    def __init__(self, streams: int) -> None:
        self.streams = streams
        self.expectation: Expectation | None = None
        self.complete = 0
        self.all_complete = asyncio.Event()
        self.bytes = 0

    def completed(self) -> None:
        self.complete += 1
        if self.complete == self.streams:
            self.all_complete.set()


class Stream:
    """One client: LDS and CDS wildcard, EDS by the clusters it got, VHDS wildcard."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self._fleet, self._number = fleet, number
        self._endpoints_wanted: set[str] = set()
        self._endpoints_got: set[str] = set()
        self._first_state = False
        self._seen: Expectation | None = None

    async def run(self, channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(METHOD)()
        node = base_pb2.Node(id=f"bench-{self._number}", user_agent_name="gossamer-agent")
        node.metadata.CopyFrom(struct_pb2.Struct())
        node.metadata.update({"DIALECT": "gossamer", "NAMESPACE": "default"})
        for url in (type_url.CLUSTER, type_url.LISTENER, type_url.VIRTUAL_HOST):
            request = discovery_pb2.DeltaDiscoveryRequest(type_url=url)
            if url == type_url.CLUSTER:
                request.node.CopyFrom(node)
            await call.write(request.SerializeToString())
        while True:
            raw = await call.read()
            if raw is grpc.aio.EOF:
                raise RuntimeError(f"stream {self._number} ended: {await call.code()} {await call.details()}")
            for answer in self._on_response(raw):
                await call.write(answer)

    def _on_response(self, raw: bytes) -> list[bytes]:
        fleet, expectation = self._fleet, self._fleet.expectation
        fleet.bytes += len(raw)
        if expectation is not None and expectation is not self._seen and expectation.marker in raw:
            self._seen = expectation
            expectation.saw()
        response = discovery_pb2.DeltaDiscoveryResponse.FromString(raw)
        ack = discovery_pb2.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        answers = [ack.SerializeToString()]
        if response.type_url == type_url.CLUSTER:
            names = {resource.name for resource in response.resources} - self._endpoints_wanted
            if names:
                self._endpoints_wanted |= names
                subscribe = discovery_pb2.DeltaDiscoveryRequest(
                    type_url=type_url.CLUSTER_LOAD_ASSIGNMENT, resource_names_subscribe=sorted(names)
                )
                answers.append(subscribe.SerializeToString())
        elif response.type_url == type_url.CLUSTER_LOAD_ASSIGNMENT:
            self._endpoints_got.update(resource.name for resource in response.resources)
        if not self._first_state and self._endpoints_wanted and self._endpoints_got >= self._endpoints_wanted:
            self._first_state = True
            fleet.completed()
        return answers


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


async def main_async(target: str, streams: int, per_connection: int) -> None:
    fleet = Fleet(streams)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20)]
    channels = [
        grpc.aio.insecure_channel(target, options=[*options, ("bench.channel", number)])
        for number in range((streams + per_connection - 1) // per_connection)
    ]
    begun = time.time()
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        for number in range(streams):
            group.create_task(Stream(fleet, number).run(channels[number // per_connection]))
        await asyncio.wait_for(fleet.all_complete.wait(), 300)
        say(event="ready", seconds=time.time() - begun, bytes=fleet.bytes)
        while True:
            line = await loop.run_in_executor(None, sys.stdin.readline)
            if not line:
                sys.exit(0)
            marker = line.split()[1].encode()
            before = fleet.bytes
            expectation = fleet.expectation = Expectation(marker, streams)
            say(event="expecting")
            await asyncio.wait_for(expectation.met.wait(), 60)
            say(event="delivered", first=expectation.first, last=expectation.last, bytes=fleet.bytes - before)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("streams", type=int)
    parser.add_argument("--per-connection", type=int, default=100)
    arguments = parser.parse_args()
    uvloop.run(main_async(arguments.target, arguments.streams, arguments.per_connection))
