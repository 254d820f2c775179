"""A whole mesh on this machine's loopback: control plane, embedded etcd, agents and services as real processes.

Owns:   starting them, waiting until they answer, talking to their HTTP ports, stopping every one of them.
Not:    what is shown or asserted: `meshctl demo`, the end-to-end tests and the benches are its users.
Invariant: after `close` none of its processes is left; each was started here and is ended by its own pid.

Every node has a loopback address of its own (127.x.y.z), so all of them can use the standard ports.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mesh.errors import ErrorCode, MeshError

_STOP_S = 12.0  # the control plane and agents promise to stop within 10 s
_START_S = 60.0  # a first start imports everything from a cold disk


@dataclass(slots=True)
class Reply:
    """An HTTP answer, read whole."""

    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(
    address: str,
    method: str,
    path: str,
    *,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> Reply:
    """One HTTP/1.1 exchange with `host:port` on a connection of its own. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return Reply(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def wait_until(what: str, test: Callable[[], Any], *, timeout_s: float = 30.0, every_s: float = 0.05) -> Any:
    """Call `test` until it gives something true, and return that. TIMEOUT names `what` and the last error."""
    deadline = time.monotonic() + timeout_s
    last = ""
    while True:
        try:
            result = test()
            if result:
                return result
            last = ""
        except (OSError, http.client.HTTPException, ValueError, KeyError, MeshError) as error:
            last = repr(error)
        if time.monotonic() >= deadline:
            raise MeshError(ErrorCode.TIMEOUT, f"not reached within {timeout_s:g} s {last}".rstrip(), subject=what)
        time.sleep(every_s)


@dataclass(slots=True)
class Process:
    """One started process with its log file."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def stop(self, number: signal.Signals = signal.SIGTERM, *, timeout_s: float = _STOP_S) -> int:
        """Signal it and wait for its end; kill it when it does not obey. Returns the exit code."""
        if self.running:
            self.popen.send_signal(number)
        try:
            return self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait(timeout_s)

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalService:
    """One instance of a demo service on a node. `port` is where the application listens on the node's address."""

    name: str
    port: int
    version: str = "v1"
    namespace: str = "default"
    service_account: str = ""  # default: the service's name
    labels: Mapping[str, str] = field(default_factory=dict)
    outbound_port: int = 0
    check: bool = True
    protocol: str = "HTTP"

    @property
    def id(self) -> str:
        return f"{self.name}-{self.version}-{self.port}"

    def toml(self, address: str) -> str:
        """Its `[[service]]` table in the agent's config file."""
        labels = {"app": self.name, "version": self.version, **self.labels}
        pairs = ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in labels.items())
        lines = [
            "[[service]]",
            f"name = {json.dumps(self.name)}",
            f"id = {json.dumps(self.id)}",
            f"namespace = {json.dumps(self.namespace)}",
            f"service_account = {json.dumps(self.service_account or self.name)}",
            f"address = {json.dumps(address)}",
            f'ports = [{{name = "{self.protocol.lower()}", port = {self.port}, protocol = "{self.protocol}"}}]',
            f"labels = {{{pairs}}}",
        ]
        if self.outbound_port:
            lines.append(f"outbound_port = {self.outbound_port}")
        if self.check:
            lines += [
                "[service.check]",
                f'http = "http://{address}:{self.port}/health"',
                'interval = "1s"',
                'timeout = "1s"',
                "unhealthy_threshold = 2",
                "healthy_threshold = 1",
            ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalGateway:
    """What makes a node a gateway."""

    namespace: str
    service_account: str
    labels: Mapping[str, str]

    def toml(self) -> str:
        """The `[gateway]` table in the agent's config file."""
        pairs = ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in self.labels.items())
        return (
            f"[gateway]\nenabled = true\nnamespace = {json.dumps(self.namespace)}\n"
            f"service_account = {json.dumps(self.service_account)}\nlabels = {{{pairs}}}\n"
        )


@dataclass(slots=True)
class LocalAgent:
    """An agent with its addresses. `process` is the latest one that was started for it."""

    name: str
    address: str
    state_dir: Path
    config: Path
    started: list[Process] = field(default_factory=list)

    @property
    def process(self) -> Process:
        return self.started[-1]

    @property
    def outbound(self) -> str:
        """The node-wide outbound port."""
        return f"{self.address}:15001"

    @property
    def admin(self) -> str:
        return f"{self.address}:15000"

    def call(
        self,
        host: str,
        path: str = "/",
        *,
        port: int = 15001,
        method: str = "GET",
        timeout_s: float = 10.0,
        **extra: str,
    ) -> Reply:
        """A request to `host` through this node's outbound port, as an application would send it."""
        headers = {"Host": host, **{key.replace("_", "-"): value for key, value in extra.items()}}
        return request(f"{self.address}:{port}", method, path, headers=headers, timeout_s=timeout_s)


class LocalMesh:
    """The processes of one mesh below `root`; `subnet` is the first three bytes of its loopback addresses."""

    def __init__(self, root: Path, *, subnet: str = "127.77.7") -> None:
        self.root = root
        self.subnet = subnet
        self.processes: list[Process] = []
        self.agents: dict[str, LocalAgent] = {}
        self.ready: dict[str, Any] = {}
        root.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def address(self, number: int) -> str:
        """The `number`th loopback address of this mesh, 1..254."""
        return f"{self.subnet}.{number}"

    @property
    def rest_address(self) -> str:
        return str(self.ready["rest"])

    def spawn(self, name: str, command: Sequence[str], *, env: Mapping[str, str] | None = None) -> Process:
        """Start a process that logs to `<root>/<name>.log` and gets no standard input."""
        log = self.root / f"{name}.log"
        with log.open("ab") as sink:
            popen = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env={**os.environ, **(env or {})}
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        return process

    # --- the control plane --------------------------------------------------------------------------------------

    def start_control_plane(self, *extra: str, name: str = "controlplane", etcd: str = "") -> Process:
        """Start it (embedded etcd below `root` unless `etcd` names one) and wait until it is ready."""
        state = self.root / name
        state.mkdir(mode=0o700, exist_ok=True)
        (state / "ready.json").unlink(missing_ok=True)
        store = ["--etcd", etcd] if etcd else ["--embedded-etcd", str(self.root / "etcd")]
        here = self.address(1)
        command = [
            *(sys.executable, "-P", "-m", "controlplane", *store, "--state-dir", str(state)),
            *("--rest", f"{here}:8080", "--grpc-mtls", f"{here}:18000", "--grpc-tls", f"{here}:18001"),
            *extra,
        ]
        process = self.spawn(name, command)
        self.ready = self._wait_ready(process, lambda: json.loads((state / "ready.json").read_text()))
        return process

    def _wait_ready(self, process: Process, test: Callable[[], Any]) -> Any:
        def alive() -> Any:
            try:
                return test()
            finally:
                if not process.running:
                    raise SystemExit(f"{process.name} ended with {process.popen.returncode}:\n{process.tail()}")

        return wait_until(f"{process.name} ready", alive, timeout_s=_START_S)

    def rest(self, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Reply:
        """A request to the REST API; a `body` that is not bytes or text is sent as JSON."""
        headers: dict[str, str] = {}
        if body is not None and not isinstance(body, bytes | str):
            body = json.dumps(body)
            headers["Content-Type"] = "application/json"
        elif body is not None:
            headers["Content-Type"] = "application/yaml"
        return request(self.rest_address, method, path, body=body, headers=headers, timeout_s=timeout_s)

    def apply(self, manifests: str) -> int:
        """Post YAML documents as one batch; the revision. Raises MeshError with the answer when it is refused."""
        reply = self.rest("POST", "/mesh/v1/batch", manifests)
        if reply.status not in (200, 201):
            raise MeshError(ErrorCode.INVALID, reply.body.decode(errors="replace"), subject="apply")
        return int(reply.json["revision"])

    def wait_revision(self, revision: int, *, timeout_s: float = 30.0) -> Any:
        """Wait until every proxy has acknowledged `revision`; the revision's status."""

        def acknowledged() -> Any:
            status = self.rest("GET", f"/mesh/v1/revisions/{revision}").json
            return status if not status["pending"] and not status["rejected"] else None

        return wait_until(f"revision {revision} on every proxy", acknowledged, timeout_s=timeout_s)

    # --- nodes --------------------------------------------------------------------------------------------------

    def token(self, node: str, *, namespaces: Sequence[str] = ("default",)) -> str:
        """A join token for `node`, for any service account of `namespaces`."""
        reply = self.rest("POST", "/mesh/v1/tokens", {"node": node, "namespaces": list(namespaces), "uses": 1})
        if reply.status not in (200, 201):
            raise MeshError(ErrorCode.INVALID, reply.body.decode(errors="replace"), subject=f"token for {node}")
        return str(reply.json["token"])

    def write_agent_config(
        self, name: str, number: int, services: Sequence[LocalService], *, proxy: Mapping[str, Any] | None = None,
        gateway: LocalGateway | None = None,
    ) -> LocalAgent:  # fmt: skip
        """The config file and token of an agent on address `number`; nothing is started."""
        address = self.address(number)
        folder = self.root / name
        folder.mkdir(mode=0o700, exist_ok=True)
        token = folder / "token"
        token.touch(mode=0o600)
        namespaces = {service.namespace for service in services} | {"default"}
        namespaces |= {gateway.namespace} if gateway is not None else set()
        token.write_text(self.token(name, namespaces=sorted(namespaces)))
        settings = {"outbound_address": address, "admin": f"{address}:15000", "state_dir": str(folder / "state")}
        settings.update(proxy or {})
        config = folder / "agent.toml"
        config.write_text(
            f'[node]\nname = "{name}"\naddress = "{address}"\n'
            f'[control_plane]\naddress = "{self.ready["grpc_mtls"]}"\njoin_address = "{self.ready["grpc_tls"]}"\n'
            f"token_file = {json.dumps(str(token))}\n"
            "[proxy]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
            + (gateway.toml() if gateway is not None else "")
            + "".join(service.toml(address) for service in services)
        )
        return LocalAgent(name, address, folder / "state", config)

    def start_agent(
        self, name: str, number: int, services: Sequence[LocalService] = (), *, proxy: Mapping[str, Any] | None = None,
        gateway: LocalGateway | None = None,
    ) -> LocalAgent:  # fmt: skip
        """Write its config, start it, and wait until it serves."""
        agent = self.write_agent_config(name, number, services, proxy=proxy, gateway=gateway)
        self.agents[name] = agent
        return self.run_agent(agent)

    def agent_command(self, agent: LocalAgent) -> list[str]:
        """What starts the agent."""
        return [sys.executable, "-P", "-m", "agent", "--config", str(agent.config)]

    def run_agent(self, agent: LocalAgent) -> LocalAgent:
        """Start the agent (again) from its config and wait until /ready says 200."""
        agent.started.append(self.spawn(agent.name, self.agent_command(agent)))
        self._wait_ready(agent.process, lambda: request(agent.admin, "GET", "/ready", timeout_s=2).status == 200)
        return agent

    def start_service(self, service: LocalService, number: int, *, mesh_port: int = 15001) -> Process:
        """Start the application of `service` on address `number` and wait until it answers."""
        address = self.address(number)
        process = self.spawn(
            f"{service.id}-{number}",
            [
                *(sys.executable, "-P", "-m", "controlplane.cli.demo_service"),
                *("--name", service.name, "--version", service.version, "--instance", service.id),
                *("--address", address, "--port", str(service.port), "--mesh-port", f"{address}:{mesh_port}"),
            ],
        )
        self._wait_ready(
            process, lambda: request(f"{address}:{service.port}", "GET", "/behaviour", timeout_s=2).status == 200
        )
        return process

    def behave(self, number: int, port: int, *, status: int = 200, health: int = 200, delay_s: float = 0.0) -> None:
        """Tell the application on `address(number):port` how to answer from now on."""
        body = json.dumps({"status": status, "health": health, "delay_s": delay_s})
        request(f"{self.address(number)}:{port}", "PUT", "/behaviour", body=body)

    def answered(self, number: int, port: int) -> int:
        """How many requests the application on `address(number):port` has answered."""
        return int(request(f"{self.address(number)}:{port}", "GET", "/behaviour").json["answered"])

    def close(self) -> None:
        """Stop everything, agents first so that they can say good-bye; never raises for one that is gone."""
        running = [process for process in self.processes if process.running]
        control_plane = [process for process in running if process.name.startswith("controlplane")]
        others = [process for process in running if process not in control_plane]
        for group in (others, control_plane):
            for process in group:
                with contextlib.suppress(ProcessLookupError):
                    process.popen.send_signal(signal.SIGTERM)
            for process in group:
                process.stop()
