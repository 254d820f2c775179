"""An xDS client that refuses what a test tells it to: in this process, or in a thread against a real control plane."""

import asyncio
import threading
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from google.rpc.status_pb2 import Status

from controlplane.compiler.types import Resource
from controlplane.snapshot.references import eds_name, has_vhds, routes_named
from mesh.xds import type_url
from tests.support.ads import RawStream, node


class PickyClient:
    """A delta client that takes all clusters and listeners but those with `dislikes` in their name; it asks for what
    they lead to.

    It refuses as our agent does: by a typed list that names the resources. What it has accepted it brings along to the
    next stream (`initial_resource_versions`), as clients do; but endpoints and routes it asks for anew.
    """

    def __init__(self, name: str, dislikes: str, reason: str = "I do not like it") -> None:
        self.name, self.dislikes, self._reason = name, dislikes, reason
        self._held: dict[str, dict[str, str]] = {type_url.CLUSTER: {}, type_url.LISTENER: {}}
        self._leads_to: dict[str, set[tuple[str, str]]] = {}  # by the type that leads there
        self.sent: list[str] = []  # every cluster and listener that a server sent, in order

    @property
    def accepted(self) -> set[str]:
        """The names that it holds."""
        return {name for held in self._held.values() for name in held}

    async def run(self, stream: RawStream) -> None:
        """Until the server ends the stream."""
        asked: dict[str, set[str]] = {}
        for url, held in self._held.items():
            await stream.send(type_url=url, initial_resource_versions=held)
            await _ask(stream, asked, self._leads_to.get(url, ()))
        while True:
            data = await stream.call.read()  # as long as it takes: servers have nothing to say for hours
            if data is grpc.aio.EOF:
                return
            response = DeltaDiscoveryResponse.FromString(data)
            refused = self._take(response)
            fields: dict[str, Any] = {"type_url": response.type_url, "response_nonce": response.nonce}
            if refused:
                text = ", ".join(f"{name}: {why}" for name, why in refused.items())
                fields["error_detail"] = Status(code=3, message=text)
            await _ask(stream, asked, self._leads_to.get(response.type_url, ()))
            await stream.send(**fields)

    def _take(self, response: DeltaDiscoveryResponse) -> dict[str, str]:
        """Name -> reason of what it refuses."""
        held, leads_to = self._held.get(response.type_url), self._leads_to.setdefault(response.type_url, set())
        refused = {}
        for item in response.resources:
            if held is not None:
                self.sent.append(item.name)
            if held is not None and self.dislikes and self.dislikes in item.name:
                refused[item.name] = self._reason
                continue
            leads_to |= _led_to(Resource(response.type_url, item.name, item.version, item.resource.value, b""))
            if held is not None:
                held[item.name] = item.version
        for name in response.removed_resources:
            self._held.get(response.type_url, {}).pop(name, None)
        return refused


def _led_to(resource: Resource) -> set[tuple[str, str]]:
    """(type, name) of what a client asks for that takes it; an empty name: all of the type."""
    if resource.type_url == type_url.CLUSTER:
        name = eds_name(resource)
        return {(type_url.CLUSTER_LOAD_ASSIGNMENT, name)} if name else set()
    if resource.type_url == type_url.LISTENER:
        return {(type_url.ROUTE_CONFIGURATION, name) for name in routes_named(resource)}
    if resource.type_url == type_url.ROUTE_CONFIGURATION and has_vhds(resource):
        return {(type_url.VIRTUAL_HOST, "")}
    return set()


async def _ask(stream: RawStream, asked: dict[str, set[str]], wanted: Collection[tuple[str, str]]) -> None:
    for url in sorted({url for url, _ in wanted}):
        names = {name for own, name in wanted if own == url}
        new = names - asked.setdefault(url, set())
        asked[url] |= new
        if new:
            await stream.send(type_url=url, resource_names_subscribe=sorted(new - {""}))


class PickyProxy:
    """A PickyClient on the plaintext port of a control plane, in a thread of its own, from `with` to its end."""

    def __init__(self, client: PickyClient, address: str) -> None:
        self._client, self._address = client, address
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(lambda: self._task.cancel() if self._task is not None else None)
        self._thread.join(20)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        async with grpc.aio.insecure_channel(self._address) as channel:
            stream = RawStream(channel, node(self._client.name), delta=True)
            try:
                await self._client.run(stream)
            except (asyncio.CancelledError, grpc.aio.AioRpcError):
                stream.cancel()
