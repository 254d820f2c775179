"""A real Envoy and the agent's worker with the same resources, in front of the same origin, asked the same.

Owns:   starting both, running a case on one after the other, waiting for their log lines and statistics.
Not:    what is compared (outcome), what is intended to differ (differences).
Both get the same messages; only the listener's port, the log's path and where routes come from (a watched file,
ADS) are each one's own. One loop runs everything, and only while a case runs.
"""

import asyncio
import json
import signal
import socket
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mesh.xds import type_url
from tests.differential.case import Case
from tests.differential.client import run_client
from tests.differential.origin import ScriptedOrigin, host_of, scripted_origin
from tests.differential.outcome import LOG_FIELDS, Outcome, outcome
from tests.support import decoding
from tests.support.decoding import Json
from tests.support.envoys import envoy_binary
from tests.support.workers import Fed, listen, running_worker

WAIT_S = 10.0
SETTLE_S = 0.03  # for proxies to notice that the origin has closed


@dataclass(frozen=True, kw_only=True)
class World:
    """Resources of both. `listeners`: fields of the connection manager by name, `routes` says whose RouteConfiguration.

    In `clusters`, "$ORIGIN" stands for the origin's port and "$REFUSED" for one where nobody listens.
    """

    routes: Mapping[str, Json]
    clusters: tuple[Json, ...]
    listeners: Mapping[str, Json] = field(default_factory=lambda: {"http": {}})


def static_cluster(name: str, *ports: str, **more: Any) -> Json:
    """Of loopback hosts."""
    endpoints = [decoding.lb_endpoint("127.0.0.1", 0) for _ in ports]
    for endpoint, port in zip(endpoints, ports, strict=True):
        endpoint["endpoint"]["address"]["socket_address"]["port_value"] = port
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}] if endpoints else []}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **more}


ORIGIN = static_cluster("origin", "$ORIGIN")


class Side:
    """One of the two. `logs`: path of its access log."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.ports: dict[str, int] = {}
        self._read = 0

    def flush(self) -> None:
        """See that what is logged is written."""

    def lines(self) -> list[Json]:
        """Log lines that have come since the last call of `forget`."""
        text = self.log.read_bytes()[self._read :] if self.log.exists() else b""
        return [json.loads(line) for line in text.splitlines()] if text.endswith(b"\n") else []

    def forget(self) -> None:
        self._read = self.log.stat().st_size if self.log.exists() else 0

    async def wait_lines(self, count: int) -> list[Json]:
        async with asyncio.timeout(WAIT_S):
            while len(found := self.lines()) < count:
                self.flush()
                await asyncio.sleep(0.003)
        return found


class EnvoySide(Side):
    def __init__(self, folder: Path, world: World) -> None:
        super().__init__("envoy", folder)
        self._listeners = tuple(world.listeners)
        self.clusters = list(world.clusters)
        self._process: subprocess.Popen[bytes] | None = None
        self._admin = ""
        self._write_routes(world.routes)
        listeners = [self._listener(name, fields) for name, fields in world.listeners.items()]
        bootstrap = {
            "node": {"id": "n", "cluster": "c"},
            "admin": {"address": decoding.address("127.0.0.1", 0)},
            "static_resources": {"listeners": listeners, "clusters": self.clusters},
            "cluster_manager": {"outlier_detection": {"event_log_path": f"{folder}/ejections.json"}},
        }
        (folder / "bootstrap.json").write_text(json.dumps(bootstrap))

    def _write_routes(self, routes: Mapping[str, Json]) -> None:
        for name, message in routes.items():
            resource = {"@type": type_url.ROUTE_CONFIGURATION, **message, "name": name, "validate_clusters": False}
            new = self.folder / f"{name}.new"
            new.write_text(json.dumps({"resources": [resource]}))
            new.rename(self.folder / f"{name}.json")

    def _listener(self, name: str, fields: Json) -> Json:
        source = {"path_config_source": {"path": f"{self.folder}/{fields.get('routes', 'r')}.json"}}
        made = listener_message(name, fields, self.log, 0)
        manager = made["filter_chains"][0]["filters"][0]["typed_config"]
        manager["rds"]["config_source"] = {**source, "resource_api_version": "V3"}
        return made

    async def start(self) -> None:
        admin = self.folder / "admin"
        with (self.folder / "envoy.err").open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
                [
                    envoy_binary(), "-c", str(self.folder / "bootstrap.json"), "--use-dynamic-base-id",
                    "--concurrency", "1", "--log-level", "warning", "--file-flush-interval-msec", "5",
                    "--admin-address-path", str(admin),
                ],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
        await self._until(lambda: admin.exists() and ":" in admin.read_text())
        self._admin = admin.read_text()
        await self._until(lambda: len(self._bound()) == len(self._listeners))
        self.ports = self._bound()

    async def _until(self, test: Callable[[], Any]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not self._holds(test):
                assert self._process is not None
                assert self._process.poll() is None, (self.folder / "envoy.err").read_text()
                await asyncio.sleep(0.01)

    @staticmethod
    def _holds(test: Callable[[], Any]) -> bool:
        """Not while the admin's port is not there, or not any more."""
        try:
            return bool(test())
        except OSError:
            return False

    def ask(self, path: str) -> str:
        """The admin's answer."""
        with urllib.request.urlopen(f"http://{self._admin}{path}", timeout=WAIT_S) as response:
            text: str = response.read().decode()
        return text

    def _bound(self) -> dict[str, int]:
        found = json.loads(self.ask("/listeners?format=json")).get("listener_statuses", [])
        return {one["name"]: one["local_address"]["socket_address"]["port_value"] for one in found}

    def stats(self, prefix: str) -> dict[str, int]:
        """Counters and gauges that begin with `prefix`."""
        pairs = (line.partition(": ") for line in self.ask(f"/stats?filter=^{prefix}").splitlines())
        return {name: int(value) for name, _, value in pairs if value.isdigit()}

    async def change_routes(self, routes: Mapping[str, Json]) -> None:
        """Serve these instead. They must differ from those of now."""

        def updates() -> int:
            return sum(value for name, value in self.stats("http").items() if name.endswith(".config_reload"))

        before = updates()
        self._write_routes(routes)
        await self._until(lambda: updates() > before)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(timeout=5)


class AgentSide(Side):
    def __init__(self, folder: Path, world: World, worker: Fed) -> None:
        super().__init__("agent", folder)
        self._world = world
        self.worker = worker

    async def start(self, stack: AsyncExitStack) -> None:
        for name in self._world.listeners:
            sock = stack.enter_context(listen())
            self.ports[name] = sock.getsockname()[1]
            self.worker.add_listener(name, sock)
        await self.change_routes(self._world.routes)

    async def change_routes(self, routes: Mapping[str, Json]) -> None:
        """Serve these instead."""
        values = [decoding.value(type_url.CLUSTER, one) for one in self._world.clusters]
        for name, message in routes.items():
            own = {**message, "name": name, "validate_clusters": False}
            values.append(decoding.value(type_url.ROUTE_CONFIGURATION, own))
        for name, fields in self._world.listeners.items():
            message = listener_message(name, fields, self.log, self.ports[name])
            values.append(decoding.value(type_url.LISTENER, message))
        assert await self.worker.apply(*values) == ()

    def flush(self) -> None:
        self.worker.signal(signal.SIGUSR1)

    def stats(self, prefix: str) -> dict[str, int]:
        known = {**self.worker.gauges, **self.worker.counters}
        return {name: value for name, value in known.items() if name.startswith(prefix)}


def listener_message(name: str, fields: Json, log: Path, port: int) -> Json:
    """A listener with one connection manager that logs; a field that is None is not set."""
    written = {key: item for key, item in fields.items() if key != "routes"}
    file = decoding.typed(
        "access_loggers.file.v3.FileAccessLog", path=str(log), log_format={"json_format": dict(LOG_FIELDS)}
    )
    manager = {
        "rds": {"config_source": decoding.ADS, "route_config_name": fields.get("routes", "r")},
        "stat_prefix": name,
        "delayed_close_timeout": "0.1s",  # how long a client that was refused is listened to
        "normalize_path": False,  # its default differs, see differences
        "access_log": [{"name": "file", "typed_config": file}],
        **written,
    }
    chain = {"filters": [decoding.manager(**{key: item for key, item in manager.items() if item is not None})]}
    return {"name": name, "address": decoding.address("127.0.0.1", port), "filter_chains": [chain]}


class Pair:
    """Both, and their origin."""

    def __init__(self, envoy: EnvoySide, agent: AgentSide, origin: ScriptedOrigin) -> None:
        self.envoy = envoy
        self.agent = agent
        self.origin = origin

    async def run(self, case: Case) -> tuple[Outcome, Outcome]:
        """What Envoy did, what the agent did."""
        return await self._run(self.envoy, case), await self._run(self.agent, case)

    async def _run(self, side: Side, case: Case) -> Outcome:
        origin = self.origin
        origin.prepare(case.origin)
        side.flush()
        side.forget()
        port = side.ports[case.listener]
        heard = await run_client(port, case)
        lines = await side.wait_lines(case.logs)
        if case.copies:
            await origin.wait_requests(case.copies)
        seen = sorted(origin.seen, key=host_of) if case.copies else origin.seen
        if origin.drop_connections():
            await asyncio.sleep(SETTLE_S)
        return outcome(heard, seen, lines, {port: "PORT", origin.port: "ORIGIN"})

    async def counted(self, prefix: str, last: Case) -> tuple[dict[str, int], dict[str, int]]:
        """What both have counted under a prefix when all before `last` is counted, which has one line in the log."""
        await self.run(last)
        worker, name = self.agent.worker, "worker.access_log.written"
        before = worker.counters[name]
        await self._run(self.agent, last)
        await worker.until(lambda: worker.counters[name] > before)
        return self.envoy.stats(prefix), self.agent.stats(prefix)

    async def change_routes(self, routes: Mapping[str, Json]) -> None:
        await self.envoy.change_routes(routes)
        await self.agent.change_routes(routes)


def _refusing() -> socket.socket:
    """Bound, never listening: connections to it are refused."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


@asynccontextmanager
async def running_pair(folder: Path, world: World) -> AsyncIterator[Pair]:
    """Both serving `world`."""
    async with AsyncExitStack() as stack:
        origin = await stack.enter_async_context(scripted_origin())
        refusing = stack.enter_context(_refusing())
        text = json.dumps(world.clusters).replace('"$ORIGIN"', str(origin.port))
        text = text.replace('"$REFUSED"', str(refusing.getsockname()[1]))
        own = World(routes=world.routes, clusters=tuple(json.loads(text)), listeners=world.listeners)
        envoy = EnvoySide(folder, own)
        stack.callback(envoy.close)
        await envoy.start()
        worker = await stack.enter_async_context(running_worker(folder))
        agent = AgentSide(folder, own, worker)
        await agent.start(stack)
        yield Pair(envoy, agent, origin)
