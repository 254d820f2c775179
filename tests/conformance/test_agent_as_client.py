"""The real agent as a client of an xDS server that is not ours (tests/support/ads_server.py), delta and SotW alike.

Each test is one agent process with real traffic through it; what the agent says is read from the server's records.
"""

import http.client
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.core.v3.base_pb2 import TransportSocket
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import UpstreamTlsContext
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryResponse, DiscoveryResponse

from controlplane.cli.local_mesh import Process, Reply, request
from tests.support import ads_server, meshes
from tests.support.ads_server import CDS, EDS, LDS, RDS, AdsServer, eventually

pytestmark = pytest.mark.e2e

PORT = 8000
_numbers = itertools.count(1)


class Origin:
    """An application that answers with its own name."""

    def __init__(self, name: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                code = int(self.path[1:]) if self.path[1:].isdigit() else 200
                self.send_response(code)
                self.send_header("content-length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Agent:
    """One agent process that has joined nothing."""

    address: str
    process: Process

    def get(self, path: str = "/", *, port: int = PORT, host: str = "x") -> Reply | None:
        """A request through the listener; None when nothing listens."""
        try:
            return request(f"{self.address}:{port}", "GET", path, headers={"Host": host}, timeout_s=5)
        except (OSError, http.client.HTTPException):
            return None

    def answer(self, **where: Any) -> str:
        """Who answers: an application's name, a status, or nothing."""
        reply = self.get(**where)
        return "" if reply is None else reply.body.decode() if reply.status == 200 else str(reply.status)

    def admin(self, path: str) -> Any:
        return request(f"{self.address}:15000", "GET", path).json

    def of_type(self, url: str) -> Any:
        """Its part of the config dump."""
        return next(item for item in self.admin("/config_dump")["configs"] if item["type_url"] == url)


class Scene:
    """A server, two applications, and an agent once it is started."""

    def __init__(self, folder: Path, protocol: str) -> None:
        self.folder = folder
        self.protocol = protocol
        self.address = f"127.{80 + meshes.worker_number()}.{next(_numbers) % 250 + 1}.1"
        self.listens = f"{self.address}:{PORT}"
        self.a, self.b = Origin("a"), Origin("b")
        self.processes: list[Process] = []
        self.server = AdsServer()

    def start(self, *, tls: str = "") -> Agent:
        """The agent with the settings of a foreign server; `tls`: more lines."""
        config = self.folder / "agent.toml"
        config.write_text(
            f'[node]\nname = "n1"\naddress = "{self.address}"\n'
            f'[control_plane]\naddress = "{self.server.address}"\nmode = "xds"\nprotocol = "{self.protocol}"\n{tls}'
            f'[proxy]\nstate_dir = "state"\nadmin = "{self.address}:15000"\n'
        )
        log = self.folder / "agent.log"
        with log.open("ab") as sink:
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "agent", "--config", str(config)],
                stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            )  # fmt: skip
        process = Process("agent", popen, log)
        self.processes.append(process)
        agent = Agent(self.address, process)
        eventually("the admin port", lambda: agent.get("/", port=15000, host="127.0.0.1"))
        return agent

    def restart(self, agent: Agent) -> Agent:
        """The agent's own restart, with its disk."""
        agent.process.stop()
        return self.start()

    def basic(self) -> None:
        """One listener, its routes, a cluster with endpoints."""
        self.server.put(
            ads_server.cluster("one"),
            ads_server.assignment("one", self.a.address),
            ads_server.listener("main", self.listens, "routes"),
            ads_server.routes("routes", any="one"),
        )

    def close(self) -> None:
        for process in self.processes:
            process.stop()
        self.server.stop()
        self.a.close()
        self.b.close()


@pytest.fixture(params=["delta", "sotw"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, request.param)
    try:
        yield made
    finally:
        made.close()


# --- following the server ---------------------------------------------------------------------------------------------


def test_everything_is_followed(scene: Scene) -> None:
    """Endpoints, routes and listeners come, change and go, and the traffic with them."""
    server = scene.server
    with server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        server.put(ads_server.assignment("one", scene.b.address))
        eventually("other endpoints", lambda: agent.answer() == "b")
        server.put(
            ads_server.cluster("two", service="endpoints-of-two"),
            ads_server.assignment("endpoints-of-two", scene.a.address),
            ads_server.routes("routes", any="one", **{"two.test": "two"}),
        )
        eventually("another route", lambda: agent.answer(host="two.test") == "a")
        assert agent.answer() == "b"
        server.put(ads_server.assignment("one"))
        eventually("no endpoints", lambda: agent.answer() == "503")
        server.put(ads_server.listener("second", f"{scene.address}:8001", "routes"))
        eventually("another listener", lambda: agent.answer(port=8001, host="two.test") == "a")
        server.remove(LDS, "main")
        eventually("the listener is gone", lambda: agent.answer() == "")
        assert agent.answer(port=8001, host="two.test") == "a"
        server.remove(CDS, "one")
        eventually("the cluster is gone", lambda: agent.of_type(CDS)["resources"][0]["name"] == "two")
        assert agent.answer(port=8001) == "503", "a route to a cluster that is gone"
        assert server.refusals() == []
        assert len(server.streams) == 1


def test_inline_routes_and_endpoints(scene: Scene) -> None:
    """What a small server sends: a listener that holds its routes, a cluster that holds its endpoints."""
    with scene.server as server:
        server.put(
            ads_server.static_cluster("fixed", scene.a.address), ads_server.listener("main", scene.listens, any="fixed")
        )
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        server.put(ads_server.static_cluster("fixed", scene.b.address))
        eventually("other endpoints", lambda: agent.answer() == "b")
        assert {one.type_url for one in server.requests()} == {CDS, LDS}, "nothing is asked for that nothing names"
        first, *others = server.requests()
        assert first.node.id == "n1"
        assert "xds.config.supports-resource-ttl" in first.node.client_features
        assert not any(one.HasField("node") for one in others)


def test_routes_before_their_clusters(scene: Scene) -> None:
    """Whatever the order in which the server speaks, no request meets a half-known configuration."""
    server = scene.server
    server.held = {CDS, EDS}
    with server:
        scene.basic()
        agent = scene.start()
        eventually("the routes are there", lambda: agent.of_type(RDS)["resources"])
        server.release(EDS)
        server.release(CDS)
        seen = set()
        eventually("traffic", lambda: seen.add(agent.answer()) or "a" in seen)
        # A route to a cluster that nobody has told of is served as a 503 with Envoy, too.
        assert seen <= {"", "a", "503"}
        server.held = {EDS}
        server.put(ads_server.cluster("late"), ads_server.routes("routes", any="late"))
        for _ in range(20):
            assert agent.answer() == "a", "the old route serves while the new cluster waits for its endpoints"
        assert any("late" in line for line in agent.admin("/config_dump")["waiting"])
        server.put(ads_server.assignment("late", scene.b.address))
        server.release(EDS)
        answers = eventually("the new route", lambda: (one := agent.answer()) == "b" and one)
        assert answers == "b"


# --- refusing ---------------------------------------------------------------------------------------------------------


def test_what_is_bad_is_refused_and_the_last_good_one_serves(scene: Scene) -> None:
    with scene.server as server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        server.put(
            Cluster(name="one", type=Cluster.ORIGINAL_DST, lb_policy=Cluster.CLUSTER_PROVIDED),
            Cluster(name="other", type=Cluster.STRICT_DNS),
            ads_server.cluster("good"),
            ads_server.assignment("good", scene.b.address),
        )
        eventually("a NACK", lambda: server.refusals(CDS))
        words = server.refusals(CDS)[-1]
        assert "one: " in words, words
        assert "other: type: found STRICT_DNS" in words, words
        assert "good: " not in words, words
        server.put(ads_server.routes("routes", any="one", **{"good.test": "good"}))
        eventually("the good one of the refused response", lambda: agent.answer(host="good.test") == "b")
        assert agent.answer() == "a"
        assert set(agent.of_type(CDS)["refused"]) == {"one", "other"}
        if scene.protocol == "sotw":
            nack = next(one for one in reversed(server.requests(CDS)) if one.HasField("error_detail"))
            assert nack.version_info == "1.1", "the last version that was accepted whole"
        count = len(server.requests(CDS))
        server.remove(CDS, "other")
        server.put(ads_server.cluster("one"))
        eventually("nothing is refused", lambda: not agent.of_type(CDS)["refused"])
        assert len(server.requests(CDS)) <= count + 3, "no hot loop"
        assert agent.answer() == "a"


def test_a_resource_that_is_garbage(scene: Scene) -> None:
    """Bytes that are no message in a response that is one: that resource is refused, the others are taken."""
    with scene.server as server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        kind = DeltaDiscoveryResponse if scene.protocol == "delta" else DiscoveryResponse
        response = kind(type_url=EDS, nonce="garbage")
        if isinstance(response, DeltaDiscoveryResponse):
            broken = response.resources.add(name="one", version="x").resource
        else:
            broken = response.resources.add()
        broken.type_url, broken.value = EDS, b"\x0a\x03one\xff\xff\xff"
        server.say(response.SerializeToString())
        eventually("a NACK", lambda: server.refusals(EDS))
        assert agent.answer() == "a"
        assert server.requests(EDS)[-1].response_nonce == "garbage"


def test_a_response_that_is_garbage(scene: Scene) -> None:
    """The stream is given up with its reason, the next one goes on from what is held; the traffic does not notice."""
    with scene.server as server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        server.say(b"\xff\xfe\xfd")
        eventually("another stream", lambda: len(server.streams) == 2 and server.requests())
        assert agent.answer() == "a"
        assert "3 bytes that are no response" in agent.process.log.read_text()
        server.put(ads_server.assignment("one", scene.b.address))
        eventually("the new stream works", lambda: agent.answer() == "b")


def test_types_that_were_not_asked_for(scene: Scene) -> None:
    with scene.server as server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        strange = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
        kind = DeltaDiscoveryResponse if scene.protocol == "delta" else DiscoveryResponse
        for number in range(20):
            server.say(kind(type_url=strange, nonce=str(number)).SerializeToString())
        server.put(ads_server.assignment("one", scene.b.address))
        eventually("what was asked for is followed", lambda: agent.answer() == "b")
        assert 0 < len(server.requests(strange)) < 20, "the same answer is not given as fast as it is asked for"


# --- reconnecting -----------------------------------------------------------------------------------------------------


def test_the_server_is_away_and_comes_back_with_the_same_versions(scene: Scene) -> None:
    with scene.server as server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        eventually("everything is acknowledged", lambda: len(server.requests(RDS)) >= 2)
        server.stop()
        eventually("it is noticed", lambda: agent.admin("/server_info")["control_plane"]["error"])
        assert agent.answer() == "a"
        server.start()
        eventually("another stream", lambda: len(server.streams) == 2 and server.requests(RDS))
        first = {url: server.requests(url)[0] for url in (CDS, EDS, LDS, RDS)}
        assert all(not one.response_nonce for one in first.values())
        if scene.protocol == "delta":
            assert [dict(one.initial_resource_versions) for one in first.values()] == [
                {"one": "1.1"}, {"one": "1.1"}, {"main": "1.1"}, {"routes": "1.1"}
            ]  # fmt: skip
            assert list(first[EDS].resource_names_subscribe) == ["one"]
        else:
            assert {one.version_info for one in first.values()} == {"1.1"}
            assert list(first[EDS].resource_names) == ["one"]
        assert agent.answer() == "a"
        server.put(ads_server.assignment("one", scene.b.address))
        eventually("a change after it", lambda: agent.answer() == "b")
        assert server.refusals() == []


def test_the_server_comes_back_with_other_versions_and_less(scene: Scene) -> None:
    with scene.server as server:
        scene.basic()
        server.put(
            ads_server.listener("second", f"{scene.address}:8001", "routes"), ads_server.cluster("spare"),
            ads_server.assignment("spare", scene.b.address),
        )  # fmt: skip
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a" and agent.answer(port=8001) == "a")
        server.stop()
        server.renumber("2")
        for url, name in ((LDS, "second"), (CDS, "spare"), (EDS, "spare")):
            del server.content[url][name], server.versions[url][name]
        server.start()
        eventually("the second listener is gone", lambda: agent.answer(port=8001) == "")
        assert agent.answer() == "a"
        held = {item["name"] for item in agent.of_type(CDS)["resources"]}
        assert held == {"one"}
        assert server.refusals() == []


def test_the_agent_restarts_from_its_disk_without_a_server(scene: Scene) -> None:
    with scene.server as server:
        scene.basic()
        agent = scene.start()
        eventually("traffic", lambda: agent.answer() == "a")
        server.stop()
        agent = scene.restart(agent)
        eventually("the last known good serves", lambda: agent.answer() == "a")
        server.renumber("2")
        server.put(ads_server.assignment("one", scene.b.address), tell=False)
        server.start()
        eventually("and the server is followed again", lambda: agent.answer() == "b")


@pytest.mark.parametrize("answers_first", [False, True])
def test_a_server_that_hangs_up_is_not_asked_in_a_loop(scene: Scene, answers_first: bool) -> None:
    server = scene.server
    server.hangs_up, server.answers_first = True, answers_first
    with server:
        scene.basic()
        agent = scene.start()
        eventually("five streams", lambda: len(server.streams) >= 5, timeout_s=30)
        attempts = len(server.streams)
        assert agent.admin("/health")["status"] == "degraded"
        server.hangs_up = False
        eventually("traffic", lambda: agent.answer() == "a")
        assert len(server.streams) <= attempts + 2


# --- what does not exist ----------------------------------------------------------------------------------------------


def test_names_that_do_not_exist(scene: Scene) -> None:
    """A cluster without endpoints and a listener without routes are served in the end, and shown as such."""
    with scene.server as server:
        server.put(
            ads_server.cluster("empty"),
            ads_server.listener("main", scene.listens, any="empty"),
            ads_server.listener("second", f"{scene.address}:8001", "nobody"),
        )
        agent = scene.start()
        eventually("no endpoints", lambda: agent.answer() == "503", timeout_s=40)
        eventually("no routes", lambda: agent.answer(port=8001) == "404", timeout_s=40)
        eventually("the first is shown", lambda: set(agent.of_type(EDS)["absent"]) == {"empty"})
        eventually("the second is shown", lambda: set(agent.of_type(RDS)["absent"]) == {"nobody"})
        server.put(ads_server.assignment("empty", scene.a.address), ads_server.routes("nobody", any="empty"))
        eventually("they come", lambda: agent.answer() == "a" and agent.answer(port=8001) == "a")
        assert agent.of_type(EDS)["absent"] == {}


# --- TLS, identities --------------------------------------------------------------------------------------------------


class Certificates:
    """A CA of the foreign server's, a server certificate for xds.test, a client certificate."""

    def __init__(self, folder: Path) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.folder = folder
        self.ca = self._make("ca", self.key, is_ca=True)
        (folder / "ca.pem").write_bytes(self.ca)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """(key, certificate), also as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = self._make(name, key, is_ca=False)
        (self.folder / f"{name}.key").write_bytes(pem)
        (self.folder / f"{name}.pem").write_bytes(chain)
        return pem, chain

    def _make(self, name: str, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_a_server_with_tls_of_its_own(scene: Scene) -> None:
    """Server and client prove themselves with certificates from files; nothing is joined."""
    made = Certificates(scene.folder)
    key, chain = made.issue("xds.test")
    made.issue("client")
    scene.server = AdsServer(grpc.ssl_server_credentials([(key, chain)], made.ca, require_client_auth=True))
    with scene.server:
        scene.basic()
        agent = scene.start(
            tls='tls_ca = "ca.pem"\ntls_cert = "client.pem"\ntls_key = "client.key"\nserver_name = "xds.test"\n'
        )
        eventually("traffic", lambda: agent.answer() == "a")
        shown = agent.admin("/server_info")
        assert shown["control_plane"]["mode"] == "xds"
        assert shown["reports"] == {"connected": False, "error": ""}
        assert agent.admin("/certs")["certificates"] == []


def test_what_needs_an_identity_is_refused(scene: Scene) -> None:
    """An agent that has joined nothing has no certificate of a mesh to show."""
    context = UpstreamTlsContext()
    common = context.common_tls_context
    common.tls_certificate_provider_instance.instance_name = "mesh"
    common.tls_certificate_provider_instance.certificate_name = "caller"
    common.validation_context.ca_certificate_provider_instance.instance_name = "mesh"
    common.validation_context.ca_certificate_provider_instance.certificate_name = "roots"
    socket = TransportSocket(name="tls")
    socket.typed_config.Pack(context)
    with scene.server as server:
        scene.basic()
        secured = ads_server.cluster("secured")
        secured.transport_socket.CopyFrom(socket)
        server.put(secured)
        agent = scene.start()
        eventually("a NACK", lambda: server.refusals(CDS))
        assert "secured: found TLS with the mesh's certificates" in server.refusals(CDS)[-1]
        eventually("the plaintext cluster serves", lambda: agent.answer() == "a")


# --- load -------------------------------------------------------------------------------------------------------------


def test_load_is_reported_as_the_server_asks(scene: Scene) -> None:
    """Per cluster, locality and endpoint, and only of the clusters that are asked for."""
    server = scene.server
    server.load_answer.send_all_clusters = False
    server.load_answer.clusters.append("one")
    server.load_answer.report_endpoint_granularity = True
    with server:
        scene.basic()
        server.put(
            ads_server.cluster("one", service="of-one"),
            ads_server.assignment("of-one", zones={"z1": (scene.a.address,), "z2": (scene.b.address,)}),
            ads_server.static_cluster("unasked", scene.a.address),
            ads_server.routes("routes", any="one", **{"unasked.test": "unasked"}),
        )
        agent = scene.start()
        eventually("traffic", lambda: agent.answer(host="unasked.test") == "a" and agent.answer() in "ab")
        eventually("a report", lambda: _told(server))
        before = _told(server)
        for _ in range(30):
            agent.get()
        for _ in range(10):
            agent.get("/503")
        eventually("all requests", lambda: _sum(server, "issued") - _sum(before, "issued") == 40)
        assert _sum(server, "failed") - _sum(before, "failed") == 10
        assert _sum(server, "ok") - _sum(before, "ok") == 30
        told = _told(server)
        assert {(cluster, zone) for cluster, zone, _ in told} == {("one", "z1"), ("one", "z2")}
        assert {endpoint for _, _, endpoint in told} == {scene.a.address, scene.b.address}
        stats = [one for report in server.load_reports for one in report.cluster_stats]
        assert {one.cluster_service_name for one in stats} == {"of-one"}
        assert all(one.load_report_interval.ToMilliseconds() >= 500 for one in stats)
        assert server.load_reports[0].node.id == "n1"
        assert not server.load_reports[0].cluster_stats


Told = dict[tuple[str, str, str], dict[str, int]]


def _told(server: AdsServer) -> Told:
    """(cluster, zone, endpoint) -> sums over all reports; the endpoints of a locality add up to it."""
    found: Told = {}
    for report in list(server.load_reports):
        for cluster in report.cluster_stats:
            for row in cluster.upstream_locality_stats:
                assert row.total_issued_requests == sum(
                    one.total_issued_requests for one in row.upstream_endpoint_stats
                )
                for one in row.upstream_endpoint_stats:
                    place = one.address.socket_address
                    key = (cluster.cluster_name, row.locality.zone, f"{place.address}:{place.port_value}")
                    sums = found.setdefault(key, {"issued": 0, "ok": 0, "failed": 0})
                    sums["issued"] += one.total_issued_requests
                    sums["ok"] += one.total_successful_requests
                    sums["failed"] += one.total_error_requests
    return found


def _sum(told: AdsServer | Told, what: str) -> int:
    rows = _told(told) if isinstance(told, AdsServer) else told
    return sum(row[what] for row in rows.values())
