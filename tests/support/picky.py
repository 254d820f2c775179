"""An xDS client that refuses what a test tells it to: in this process, or in a thread against a real control plane."""

import asyncio
import threading
from types import TracebackType
from typing import Any, Self

import grpc
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse
from google.rpc.status_pb2 import Status

from mesh.xds import type_url
from tests.support.ads import RawStream, node


class PickyClient:
    """A delta client of clusters and listeners that takes everything but what has `dislikes` in its name.

    It refuses as our agent does: by a typed list that names the resources. What it has accepted it brings along to the
    next stream (`initial_resource_versions`), as clients do.
    """

    def __init__(self, name: str, dislikes: str, reason: str = "I do not like it") -> None:
        self.name, self.dislikes, self._reason = name, dislikes, reason
        self._held: dict[str, dict[str, str]] = {type_url.CLUSTER: {}, type_url.LISTENER: {}}
        self.sent: list[str] = []  # every name that a server sent, in order

    @property
    def accepted(self) -> set[str]:
        """The names that it holds."""
        return {name for held in self._held.values() for name in held}

    async def run(self, stream: RawStream) -> None:
        """Until the server ends the stream."""
        for url, held in self._held.items():
            await stream.send(type_url=url, initial_resource_versions=held)
        while True:
            data = await stream.call.read()  # as long as it takes: servers have nothing to say for hours
            if data is grpc.aio.EOF:
                return
            response = DeltaDiscoveryResponse.FromString(data)
            refused = {}
            for item in response.resources:
                self.sent.append(item.name)
                if self.dislikes and self.dislikes in item.name:
                    refused[item.name] = self._reason
                else:
                    self._held[response.type_url][item.name] = item.version
            for name in response.removed_resources:
                self._held[response.type_url].pop(name, None)
            fields: dict[str, Any] = {"type_url": response.type_url, "response_nonce": response.nonce}
            if refused:
                text = ", ".join(f"{name}: {why}" for name, why in refused.items())
                fields["error_detail"] = Status(code=3, message=text)
            await stream.send(**fields)


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
