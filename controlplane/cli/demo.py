"""`meshctl demo`: the whole mesh on loopback, each claim shown and checked.

Owns:   the story: start, post the policies, show the finding, split, eject, mTLS, shift, and an exit code that is 0
        only if every step held.
Not:    the processes (local_mesh), the services (demo_service).
"""

import argparse
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Column, Table

from controlplane.cli.demo_policies import (
    BREAKER,
    DESTINATION_RULE,
    SERVICE,
    STRICT,
    SUBSETS,
    UNVERIFIED,
    VIRTUAL_SERVICE,
)
from controlplane.cli.local_mesh import LocalAgent, LocalMesh, LocalService, Reply, wait_until
from mesh.errors import MeshError

# Two nodes with a copy of each version, one node that calls. The document's targetPort is 3001; copies beside it on
# the same node listen elsewhere, and their registered port wins.
_V1 = LocalService(name="user-service", version="v1", port=3001)
_V2 = LocalService(name="user-service", version="v2", port=3002)
USERS = {2: (_V1, _V2), 3: (_V1, _V2)}
CALLER_PORT = 15100
ORDERS = LocalService(name="order-service", version="v1", port=3003, outbound_port=CALLER_PORT)
CALLER = 4

SPLIT_REQUESTS = 3000
SHIFTED_REQUESTS = 1500
BREAKER_LIMIT = 1000  # far above the ten requests that open it
# A share is a binomial draw: five standard deviations miss once in 1.7 million runs.
SIGMAS = 5


class Failed(Exception):
    """A step did not hold. Its text says what was expected and what was seen."""


class Traffic:
    """What a burst of requests was answered with. Counted by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()

    def record(self, status: int, version: str) -> None:
        """One answer; `version` is empty when it did not come from a service."""
        with self._lock:
            self._statuses[status] += 1
            if version:
                self._versions[version] += 1

    @property
    def statuses(self) -> Counter[int]:
        """How many so far, by status."""
        with self._lock:
            return Counter(self._statuses)

    @property
    def versions(self) -> Counter[str]:
        """How many so far, by the version that answered."""
        with self._lock:
            return Counter(self._versions)


class Demo:
    """One run of the story on a mesh that is not started yet."""

    def __init__(self, mesh: LocalMesh, console: Console) -> None:
        self.mesh = mesh
        self.console = console
        self.started = time.monotonic()

    def run(self) -> None:
        """Every step in order. Raises Failed at the first that does not hold."""
        self.start()
        self.post()
        self.finding()
        self.subsets()
        self.split(0.9, SPLIT_REQUESTS)
        self.chain()
        self.mutual_tls()
        self.ejection()
        self.breaker()
        self.refusal()
        self.shift()
        self.links()

    # --- steps --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Embedded etcd, the control plane, three agents, five services."""
        self.title("Start: etcd, the control plane, three nodes and their services")
        with self.console.status("starting the control plane with its embedded etcd"):
            self.mesh.start_control_plane()
        self.fact(f"control plane  {self.mesh.ready['rest']} (REST)  {self.mesh.ready['grpc_mtls']} (xDS over mTLS)")
        placed = {**USERS, CALLER: (ORDERS,)}
        for number, services in placed.items():
            for service in services:
                with self.console.status(f"starting {service.id}"):
                    self.mesh.start_service(service, number, mesh_port=CALLER_PORT if number == CALLER else 15001)
        for number, services in placed.items():
            with self.console.status(f"starting the agent of node-{number}"):
                agent = self.mesh.start_agent(f"node-{number}", number, services)
            names = ", ".join(service.id for service in services)
            self.fact(f"{agent.name}  {agent.address}  {names}")
        wait_until("three proxies connected", lambda: len(self.proxies()) == len(placed))

    def post(self) -> None:
        """The three objects of the document, unchanged, in one batch."""
        self.title("Post three objects as a team has them (Istio v1alpha3)")
        documents = "---\n".join((SERVICE, DESTINATION_RULE, VIRTUAL_SERVICE))
        self.console.print(Syntax(documents, "yaml", background_color="default"))
        revision = self.mesh.apply(documents)
        self.mesh.wait_revision(revision)
        self.fact(f"stored in one etcd transaction as revision {revision}; every proxy has it")

    def finding(self) -> None:
        """The subsets that the VirtualService names are defined nowhere, and the mesh says so."""
        self.title("What these three objects leave open")

        def condition() -> Any:
            reply = self.mesh.rest(
                "GET", "/apis/networking.istio.io/v1/namespaces/default/virtualservices/user-service"
            )
            conditions = reply.json.get("status", {}).get("conditions", [])
            return next((item for item in conditions if item["type"] == "ReferencedResourceNotFound"), None)

        found = wait_until("the finding on the VirtualService", condition, timeout_s=10)
        self.console.print(Panel(f"{found['type']}: {found['message']}", title="VirtualService default/user-service"))
        reply = self.caller.call("user-service", "/users/1", port=CALLER_PORT)
        self.expect(reply.status == 503, f"a request before the subsets exist: expected 503, got {reply.status}")
        self.fact("until then a request is answered 503: no such cluster, and nothing is guessed")

    def subsets(self) -> None:
        """A third object with only the subsets; it merges with the first DestinationRule."""
        self.title("Define the subsets in a DestinationRule of their own; it merges")
        self.console.print(Syntax(SUBSETS, "yaml", background_color="default"))
        self.apply_and_wait(SUBSETS)
        wait_until(
            "a request through the mesh",
            lambda: self.caller.call("user-service", "/users/1", port=CALLER_PORT).status == 200,
            timeout_s=10,
        )

    def split(self, share: float, count: int) -> None:
        """Send requests and compare the measured split with the policy."""
        self.title(f"Traffic: {count} requests, {share:.0%} to v1 by policy")
        traffic = self.burst(count)
        self.expect(traffic.statuses == {200: count}, f"expected {count} times 200, got {dict(traffic.statuses)}")
        self.show_split(traffic, share, count)

    def chain(self) -> None:
        """One call through two hops: the trace context is the same at the end."""
        self.title("A call through two services: client, order-service, user-service")
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        entry = self.mesh.agents["node-2"]
        reply = entry.call("order-service", "/orders/7", traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        self.expect(reply.status == 200, f"order-service through the mesh: expected 200, got {reply.status}")
        seen = reply.json["user"]["headers"]
        self.expect(trace in seen.get("traceparent", ""), f"expected trace {trace} at user-service, got {seen}")
        self.fact(f"order-service answered with user-service {reply.json['user']['version']}")
        self.fact(f"traceparent at the last hop   {seen['traceparent']}")
        self.fact(f"x-request-id at the last hop  {seen.get('x-request-id', '-')}")

    def mutual_tls(self) -> None:
        """Between nodes it is mTLS with SPIFFE identities, and STRICT refuses plaintext."""
        self.title("Between nodes: mTLS")
        seen = self.caller.call("user-service", "/users/1", port=CALLER_PORT).json["headers"]
        certificate = seen.get("x-forwarded-client-cert", "")
        client = "spiffe://cluster.local/ns/default/sa/order-service"
        server = "spiffe://cluster.local/ns/default/sa/user-service"
        self.expect(f"URI={client}" in certificate, f"expected the caller {client}, got {certificate!r}")
        self.expect(f"By={server}" in certificate, f"expected the server {server}, got {certificate!r}")
        self.fact(f"caller  {client}")
        self.fact(f"server  {server}")
        self.apply_and_wait(STRICT)
        target = self.endpoints()[0]["address"]
        answer = wait_until("STRICT at the inbound port", lambda: _plaintext(target) or None, timeout_s=10)
        self.expect(answer == "refused", f"plaintext to {target} under STRICT: expected no answer, got {answer!r}")
        self.fact(f"plaintext to {target}, an inbound port under STRICT: the connection is closed without an answer")
        reply = self.caller.call("user-service", "/users/1", port=CALLER_PORT)
        self.expect(reply.status == 200, f"the mesh's own call under STRICT: expected 200, got {reply.status}")

    def ejection(self) -> None:
        """One instance fails; it is ejected, REST says why and until when, and traffic goes on."""
        self.title("Outlier detection: user-service v1 on node-2 starts to answer 500")
        self.mesh.behave(2, 3001, status=500)
        stop = threading.Event()
        traffic = Traffic()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.flow, traffic, stop.is_set)
            try:
                ejected = wait_until("the ejection in REST", self.ejected, timeout_s=20)
                before = traffic.statuses
                time.sleep(2)
                after = traffic.statuses - before
            finally:
                stop.set()
            running.result(timeout=30)
        endpoint, why = ejected
        times = (Column(name, no_wrap=True) for name in ("since", "until"))
        endpoint_column = Column("endpoint", no_wrap=True)
        table = Table(endpoint_column, "node", "ejected by", "reason", *times, title="GET /mesh/v1/endpoints")
        for item in why:
            table.add_row(
                endpoint["address"], endpoint["node"], item["node"], item["detail"] or item["reason"],
                _clock(item["since"]), _clock(item["until"]),
            )  # fmt: skip
        self.console.print(table)
        failed = traffic.statuses[500]
        self.fact(f"{failed} requests saw its 500 before the ejection; since then {after[200]} were answered 200")
        self.expect(after[200] > 0, "expected traffic to go on after the ejection")
        self.expect(after[500] == 0, f"expected no 500 after the ejection, got {after[500]}")
        self.mesh.behave(2, 3001)

    def breaker(self) -> None:
        """A service fails altogether: its breaker opens, a fallback answers, a probe closes it again."""
        self.title("Circuit breaker: order-service fails, and has only one instance")
        self.console.print(Syntax(BREAKER, "yaml", background_color="default"))
        self.apply_and_wait(BREAKER)
        self.mesh.behave(CALLER, ORDERS.port, status=500)
        failed = 0
        while (reply := self.order()).status == 500 and failed < BREAKER_LIMIT:
            failed += 1
        self.expect(reply.status == 200, f"after {failed} failures: expected the fallback's 200, got {reply.status}")
        asked = self.mesh.answered(CALLER, ORDERS.port)
        answers = Counter(self.order().json.get("from", "order-service") for _ in range(20))
        more = self.mesh.answered(CALLER, ORDERS.port) - asked
        self.expect(answers["the fallback"] + more >= 20, f"expected the fallback, got {dict(answers)}")
        self.expect(more <= 1, f"expected no request at order-service but a probe, got {more}")
        self.fact(f"{failed} requests saw its 500; of the next 20 the fallback answered {answers['the fallback']}")
        self.broken("OPEN", "HALF_OPEN")
        self.meshctl("breakers")
        self.mesh.behave(CALLER, ORDERS.port)
        self.fact("order-service is well again:")
        wait_until("an answer of the probe", lambda: self.order().json.get("service") == "order-service", timeout_s=10)
        self.broken("CLOSED")
        self.meshctl("breakers")

    def refusal(self) -> None:
        """A policy that proxies refuse: said at once, explained on the object, and taken back."""
        self.title("A policy that proxies refuse")
        before = int(self.mesh.rest("GET", "/mesh/v1/history").json["items"][0]["revision"])
        self.console.print(Syntax(UNVERIFIED, "yaml", background_color="default"))
        done = self.meshctl("apply", "--wait", "-f", "-", stdin=UNVERIFIED)
        self.expect(done.returncode == 1, f"apply --wait of a refused policy: expected exit 1, got {done.returncode}")
        self.expect("node-4 refuses" in done.stderr, f"expected node-4 among the refusals, got {done.stderr!r}")
        self.fact(f"exit code {done.returncode}; the last good configuration stays in use:")
        reply = self.mesh.agents["node-2"].call("order-service", "/orders/7")
        self.expect(reply.status == 200, f"order-service under its last good policy: expected 200, got {reply.status}")
        self.fact(f"order-service still answers {reply.status}")
        done = self.meshctl("rollback", str(before), "--wait")
        self.expect(
            done.returncode == 0, f"rollback to {before}: expected exit 0, got {done.returncode}: {done.stderr}"
        )

    def shift(self) -> None:
        """Shift the canary to 50/50 and say when every proxy had it."""
        self.title("Shift the canary to 50/50")
        shifted = VIRTUAL_SERVICE.replace("weight: 90", "weight: 50").replace("weight: 10", "weight: 50")
        self.apply_and_wait(shifted)
        self.split(0.5, SHIFTED_REQUESTS)

    def links(self) -> None:
        """Where to look on."""
        self.title(f"Done in {time.monotonic() - self.started:.0f} s: every step held")
        rest = self.mesh.rest_address
        for name, url in (
            ("REST API", f"http://{rest}/docs"),
            ("services", f"http://{rest}/mesh/v1/services"),
            ("endpoints, health, ejections", f"http://{rest}/mesh/v1/endpoints"),
            ("proxies and their sync state", f"http://{rest}/mesh/v1/proxies"),
            ("control plane metrics", f"http://{rest}/metrics"),
            ("an agent's statistics", f"http://{self.caller.admin}/stats/prometheus"),
            ("an agent's configuration", f"http://{self.caller.admin}/config_dump"),
            (
                "call through the mesh",
                f"curl -H 'Host: user-service' http://{self.caller.address}:{CALLER_PORT}/users/1",
            ),
            ("meshctl", f"meshctl --server http://{rest} status"),
        ):
            self.fact(f"{name:<30}{url}")

    # --- pieces -------------------------------------------------------------------------------------------------

    @property
    def caller(self) -> LocalAgent:
        return self.mesh.agents[f"node-{CALLER}"]

    def order(self) -> Reply:
        """A request to order-service from another node."""
        return self.mesh.agents["node-2"].call("order-service", "/stock/7")

    def broken(self, *states: str) -> None:
        """Wait until REST shows the breaker of node-2 in one of these states."""

        def shown() -> bool:
            items = self.mesh.rest("GET", "/mesh/v1/circuit_breakers?node=node-2").json["items"]
            return bool(items) and items[0]["state"] in states

        wait_until(f"the breaker {' or '.join(states)} in REST", shown, timeout_s=10)

    def title(self, text: str) -> None:
        self.console.print()
        self.console.rule(f"[bold]{text}", align="left")

    def fact(self, text: str) -> None:
        self.console.print(f"  {text}", highlight=False, soft_wrap=True)

    def expect(self, held: bool, otherwise: str) -> None:
        if not held:
            raise Failed(otherwise)

    def proxies(self) -> list[dict[str, Any]]:
        return list(self.mesh.rest("GET", "/mesh/v1/proxies").json["items"])

    def endpoints(self) -> list[dict[str, Any]]:
        items = self.mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
        return sorted(items, key=lambda item: str(item["address"]))

    def ejected(self) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
        for endpoint in self.endpoints():
            enforced = [item for item in endpoint["ejections"] if item["enforced"]]
            if enforced:
                return endpoint, enforced
        return None

    def apply_and_wait(self, manifests: str) -> None:
        """Apply as a user would, and show when every proxy has acknowledged the revision."""
        begun = time.monotonic()
        done = self.meshctl("apply", "--wait", "-f", "-", stdin=manifests)
        self.expect(done.returncode == 0, f"apply --wait: expected exit 0, got {done.returncode}: {done.stderr}")
        self.fact(f"acknowledged by every proxy; meshctl took {time.monotonic() - begun:.1f} s, its own start included")

    def meshctl(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run meshctl against this mesh, and show the command and what it says."""
        self.fact(f"$ meshctl {' '.join(arguments)}")
        command = [
            *(sys.executable, "-P", "-m", "controlplane.cli", "--server", f"http://{self.mesh.rest_address}"),
            *arguments,
        ]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        for line in (done.stdout + done.stderr).splitlines():
            self.fact(f"  {line}")
        return done

    def burst(self, count: int) -> Traffic:
        """`count` requests on four connections, with a progress bar."""
        traffic = Traffic()
        columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task("requests", total=count)
            left = iter(range(count))
            lock = threading.Lock()

            def done() -> bool:
                with lock:
                    if next(left, None) is None:
                        return True
                progress.advance(task)
                return False

            with ThreadPoolExecutor(4) as pool:
                for running in [pool.submit(self.flow, traffic, done) for _ in range(4)]:
                    running.result(timeout=120)
        return traffic

    def flow(self, traffic: Traffic, done: Callable[[], bool]) -> None:
        """Requests one after another on one connection until `done`."""
        connection = http.client.HTTPConnection(self.caller.address, CALLER_PORT, timeout=10)
        try:
            while not done():
                connection.request("GET", "/users/1", headers={"Host": "user-service"})
                reply = connection.getresponse()
                body = reply.read()
                is_json = reply.headers.get("content-type", "").startswith("application/json")
                traffic.record(reply.status, json.loads(body)["version"] if is_json else "")
        finally:
            connection.close()

    def show_split(self, traffic: Traffic, share: float, count: int) -> None:
        table = Table("version", "policy", "measured", "requests")
        for version, wanted in (("v1", share), ("v2", 1 - share)):
            got = traffic.versions[version]
            table.add_row(version, f"{wanted:.0%}", f"{got / count:.1%}", str(got))
        self.console.print(table)
        allowed = SIGMAS * (share * (1 - share) * count) ** 0.5
        off = abs(traffic.versions["v1"] - share * count)
        self.expect(
            off <= allowed, f"v1 got {traffic.versions['v1']} of {count}, expected {share:.0%} +- {allowed:.0f}"
        )


def _plaintext(target: str) -> str:
    """What a plain HTTP request to `host:port` gets: its status line, or `refused` when the peer just closes."""
    host, _, port = target.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"GET /users/1 HTTP/1.1\r\nHost: user-service\r\n\r\n")
            answer = connection.recv(4096)
    except ConnectionResetError:
        return "refused"
    first = answer.split(b"\r\n", 1)[0].decode("latin-1")
    return first if first.startswith("HTTP/") else "refused"


def _clock(stamp: str) -> str:
    """`2026-01-31T10:20:30.123Z` -> `10:20:30`."""
    return stamp.partition("T")[2].partition(".")[0].rstrip("Z") or stamp


def _free_subnet() -> str:
    """The first 127.77.x whose control-plane port is free, so that two demos do not meet."""
    for third in range(7, 250):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((f"127.77.{third}.1", 8080))
            except OSError:
                continue
            return f"127.77.{third}"
    raise Failed("no free loopback address found for a demo in 127.77.7.0-127.77.249.0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `meshctl demo`."""
    parser.add_argument("--keep", action="store_true", help="leave the mesh running until Ctrl-C, to play with")
    parser.add_argument(
        "--dir", type=Path, help="keep its files here (default: a temporary folder, removed at the end)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0 only if every step held."""
    console = Console(no_color=arguments.no_color or None)  # None: as NO_COLOR says
    folder: Path = arguments.dir or Path(tempfile.mkdtemp(prefix="gossamer-demo-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    code = 1
    try:
        with LocalMesh(folder, subnet=_free_subnet()) as mesh:
            try:
                Demo(mesh, console).run()
                code = 0
                if arguments.keep:
                    _keep(console)
            except (Failed, MeshError, OSError, http.client.HTTPException) as error:
                console.print(f"[bold red]the demo failed:[/] {error}", highlight=False)
                _show_logs(console, mesh)
    except KeyboardInterrupt:
        console.print("\nstopped")
        code = code if arguments.keep else 130
    finally:
        if arguments.dir is None and code == 0:
            shutil.rmtree(folder, ignore_errors=True)
        elif arguments.dir is None:
            console.print(f"its files and logs are in {folder}", soft_wrap=True)
    return code


def _keep(console: Console) -> None:
    console.print("\nrunning; Ctrl-C ends it")
    while True:
        signal.pause()


def _show_logs(console: Console, mesh: LocalMesh, names: Sequence[str] = ()) -> None:
    for process in mesh.processes:
        tail = process.tail(8)
        if tail and (not names or process.name in names):
            console.print(Panel(tail, title=f"{process.name} ({'running' if process.running else 'ended'})"))
