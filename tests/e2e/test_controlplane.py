"""The control plane as a process: start, ready.json, ports, settings, signals, kill -9, an etcd of one's own."""

import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controlplane.cli import demo_policies as demo
from controlplane.cli.local_mesh import Process, Reply, request, wait_until
from controlplane.store.etcd.binary import find_binary
from mesh.api.v1 import control_pb2, control_pb2_grpc

pytestmark = pytest.mark.e2e

ANY_PORT = "127.0.0.1:0"
VS = "/apis/networking.istio.io/v1/namespaces/default/virtualservices/user-service"
DOCUMENTS = "---\n".join((demo.SERVICE, demo.DESTINATION_RULE, demo.VIRTUAL_SERVICE))
NAME = (("grpc.ssl_target_name_override", "gossamer-controlplane"),)


class ControlPlane:
    """One control plane on free ports, its state below `root`."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self.state = root / "state"
        ports = ("--rest", ANY_PORT, "--grpc-mtls", ANY_PORT, "--grpc-tls", ANY_PORT)
        store = () if "--etcd" in arguments else ("--embedded-etcd", str(root / "etcd"))
        command = [
            sys.executable,
            "-P",
            "-m",
            "controlplane",
            *store,
            "--state-dir",
            str(self.state),
            *ports,
            *arguments,
        ]
        root.mkdir(parents=True, exist_ok=True)
        self.ready_file = self.state / "ready.json"
        self.ready_file.unlink(missing_ok=True)
        with (root / "log").open("ab") as log:
            popen = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.process = Process("controlplane", popen, root / "log")
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> "ControlPlane":
        def read() -> Any:
            assert self.process.running, self.process.tail()
            return json.loads(self.ready_file.read_text())

        self.ready = wait_until("ready.json", read, timeout_s=60)
        return self

    def rest(self, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
        return request(str(self.ready["rest"]), method, path, body=body, headers=headers)

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@contextmanager
def running(root: Path, *arguments: str) -> Iterator[ControlPlane]:
    plane = ControlPlane(root, *arguments)
    try:
        yield plane.wait_ready()
    finally:
        plane.process.stop()


def test_start_serve_and_stop(tmp_path: Path) -> None:
    """ready.json names every port; every port answers; SIGTERM ends it with 0 and takes ready.json and etcd away."""
    with running(tmp_path) as plane:
        assert set(plane.ready) == {"rest", "grpc_mtls", "grpc_tls", "etcd", "pid"}
        assert plane.ready["pid"] == plane.process.pid
        assert plane.state.stat().st_mode & 0o777 == 0o700
        assert plane.rest("GET", "/readyz").body.endswith(b"ready\n")
        done = plane.rest("POST", "/mesh/v1/batch", DOCUMENTS)
        assert done.status == 200, done.body
        assert "ReferencedResourceNotFound" in done.headers["warning"]
        revision = done.json["revision"]
        assert plane.rest("GET", f"/mesh/v1/revisions/{revision}?wait=10s").json["settled"]

        def condition() -> Any:
            return plane.rest("GET", VS).json["status"]["conditions"][0]["type"] == "ReferencedResourceNotFound"

        wait_until("the finding on the object", condition, timeout_s=15)
        assert b"gossamer_published_revision" in plane.rest("GET", "/metrics").body
        (etcd,) = plane.children()
        assert etcd.name() == "etcd"
        assert plane.process.stop() == 0
        assert not plane.ready_file.exists()
        assert not etcd.is_running()


def test_the_grpc_ports(tmp_path: Path) -> None:
    """Control API, health and reflection with server TLS; the mTLS port turns a client without certificate away."""
    with running(tmp_path) as plane:
        roots = plane.rest("GET", "/mesh/v1/certificates/bundle").body
        credentials = grpc.ssl_channel_credentials(roots)
        with grpc.secure_channel(plane.ready["grpc_tls"], credentials, options=NAME) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            control = control_pb2_grpc.ControlStub(channel)
            manifests = [text.encode() for text in (demo.SERVICE, demo.VIRTUAL_SERVICE)]
            done = control.Apply(control_pb2.ApplyRequest(manifests=manifests), timeout=10)
            assert [item.action for item in done.results] == ["created", "created"]
            status = control.Status(control_pb2.StatusRequest(view="status"), timeout=10)
            assert json.loads(status.json)["objects"] == {"Service": 1, "VirtualService": 1}
            reflection = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                request_serializer=bytes,
                response_deserializer=bytes,
            )
            # list_services: field 7, an empty string
            assert b"mesh.api.v1.Control" in next(iter(reflection(iter([b"\x3a\x00"]), timeout=10)))
        assert answer_without_certificate(str(plane.ready["grpc_mtls"]), roots.decode()) == b""


def answer_without_certificate(address: str, roots: str) -> bytes:
    """What a TLS client without a certificate gets to read: TLS 1.3 refuses it after its handshake (decision 39)."""
    context = ssl.create_default_context(cadata=roots)
    context.check_hostname = False
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw, context.wrap_socket(raw) as connection:
        connection.settimeout(10)
        try:
            return connection.recv(1)
        except (ssl.SSLError, ConnectionResetError):
            return b""


def test_kill_9_leaves_no_etcd_and_loses_nothing(tmp_path: Path) -> None:
    """What was acknowledged is there after a restart, under the same replica name."""
    with running(tmp_path) as plane:
        revision = plane.rest("POST", "/mesh/v1/batch", DOCUMENTS).json["revision"]
        before = plane.rest("GET", VS).json
        name = (plane.state / "replica-id").read_text()
        roots = plane.rest("GET", "/mesh/v1/certificates/bundle").body
        children = plane.children()
        assert plane.process.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until("etcd's end", lambda: not any(child.is_running() for child in children), timeout_s=10)
        assert plane.ready_file.exists(), "kill -9 leaves it; the next start removes it"
    with running(tmp_path) as again:
        after = again.rest("GET", VS).json
        assert {**after["metadata"], "resourceVersion": ""} == {**before["metadata"], "resourceVersion": ""}
        assert again.rest("GET", "/mesh/v1/history").json["items"][0]["revision"] == revision
        assert (again.state / "replica-id").read_text() == name
        assert again.rest("GET", "/mesh/v1/certificates/bundle").body == roots


def test_writes_and_watches_outlive_an_etcd_that_is_killed(tmp_path: Path) -> None:
    """The embedded etcd is started again; state views answer meanwhile; a write after it reaches the mesh."""
    with running(tmp_path) as plane:
        plane.rest("POST", "/mesh/v1/batch", demo.SERVICE)
        (etcd,) = plane.children()
        os.kill(etcd.pid, signal.SIGKILL)
        assert len(plane.rest("GET", "/mesh/v1/services").json["items"]) == 1

        def write() -> Any:
            done = plane.rest("POST", "/mesh/v1/batch", demo.DESTINATION_RULE)
            return done.json["revision"] if done.status == 200 else None

        revision = wait_until("a write after the outage", write, timeout_s=30)
        wait_until(
            "the write in the mesh",
            lambda: plane.rest("GET", f"/mesh/v1/revisions/{revision}").json["published"],
            timeout_s=30,
        )
        assert plane.rest("GET", "/mesh/v1/services").json["items"][0]["destination_rules"] != []
        wait_until("ready again", lambda: plane.rest("GET", "/readyz").status == 200, timeout_s=30)


@contextmanager
def own_etcd(root: Path) -> Iterator[str]:
    """An etcd that nobody of ours started."""
    binary = find_binary()
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        client, peer = probe.getsockname()[1], other.getsockname()[1]
    urls = (f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}")
    root.mkdir(parents=True, exist_ok=True)
    with (root / "etcd.log").open("ab") as log:
        popen = subprocess.Popen(
            [
                *(str(binary), f"--data-dir={root / 'data'}"),
                *(f"--listen-client-urls={urls[0]}", f"--advertise-client-urls={urls[0]}"),
                *(f"--listen-peer-urls={urls[1]}", f"--initial-advertise-peer-urls={urls[1]}"),
                f"--initial-cluster=default={urls[1]}",
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"127.0.0.1:{client}"
    finally:
        popen.terminate()
        popen.wait(20)


def test_two_replicas_on_an_existing_etcd(tmp_path: Path) -> None:
    """What one replica takes the other serves; each names the other; a batch is one of etcd's 128 operations."""
    with own_etcd(tmp_path / "etcd") as etcd:
        wait_until("etcd", lambda: request(etcd, "GET", "/health").status == 200)
        with running(tmp_path / "one", "--etcd", etcd) as one:
            (tmp_path / "two" / "state").mkdir(parents=True, mode=0o700)
            key = "ca-encryption.key"
            (tmp_path / "two" / "state" / key).write_bytes((one.state / key).read_bytes())
            (tmp_path / "two" / "state" / key).chmod(0o600)
            with running(tmp_path / "two", "--etcd", etcd) as two:
                assert one.children() == []
                revision = one.rest("POST", "/mesh/v1/batch", DOCUMENTS).json["revision"]
                wait_until(
                    "both replicas have it",
                    lambda: two.rest("GET", f"/mesh/v1/revisions/{revision}?wait=5s").json["settled"],
                )
                assert two.rest("GET", VS).json["metadata"]["name"] == "user-service"

                def replicas() -> Any:
                    items = two.rest("GET", "/mesh/v1/replicas").json["items"]
                    return len(items) == 2 and all(item["reachable"] for item in items)

                wait_until("both replicas know each other", replicas, timeout_s=10)
                many = "---\n".join(demo.SERVICE.replace("user-service", f"s{index}") for index in range(200))
                refused = one.rest("POST", "/mesh/v1/batch", many)
                assert (refused.status, "--max-txn-ops" in refused.json["message"]) == (413, True)
                one.process.stop()
                wait_until(
                    "the replica that stopped is gone",
                    lambda: len(two.rest("GET", "/mesh/v1/replicas").json["items"]) == 1,
                    timeout_s=10,
                )


def test_tokens_beyond_loopback(tmp_path: Path) -> None:
    """Decision 12: another bind than loopback needs a token file, and then every request a token."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann:{hashlib.sha256(b's3cret').hexdigest()}\n")
    with running(tmp_path / "cp", "--rest", "0.0.0.0:0", "--api-token-file", str(tokens)) as plane:
        plane.ready["rest"] = "127.0.0.1:" + str(plane.ready["rest"]).rpartition(":")[2]
        assert plane.rest("GET", "/healthz").status == 200
        assert plane.rest("GET", "/mesh/v1/status").status == 401
        assert plane.rest("GET", "/mesh/v1/status", Authorization="Bearer s3cret").status == 200


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "found neither --etcd nor --embedded-etcd"),
        (("--embedded-etcd", "x", "--etcd", "127.0.0.1:1"), "found both"),
        (("--embedded-etcd", "x", "--rest", "0.0.0.0:0"), "api_token_file"),
        (("--embedded-etcd", "x", "--rest", "nowhere"), "expected host:port"),
        (("--embedded-etcd", "x", "--xds-plaintext", "10.0.0.1:1"), "expected a loopback address"),
        (("--embedded-etcd", "x", "--log-level", "loud"), "log_level"),
        (("--embeded-etcd", "x"), "did you mean --embedded-etcd?"),
        (("--embedded-etcd", "x", "--api-token-file", "/nonexistent"), "cannot read /nonexistent"),
        (("--config", "/nonexistent"), "cannot read /nonexistent"),
    ],
)
def test_bad_settings_exit_64_before_anything_is_bound(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "controlplane", "--state-dir", "state", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 64, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x").exists(), "no etcd was started"


def test_settings_from_file_and_environment(tmp_path: Path) -> None:
    """Flags win over the environment, which wins over the file; an unknown key names the nearest."""
    config = tmp_path / "settings.yaml"
    config.write_text("log_jsn: true\n")
    command = [sys.executable, "-P", "-m", "controlplane", "--config", str(config), "--embedded-etcd", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
    assert (done.returncode, "did you mean log_json?" in done.stderr) == (64, True)
    config.write_text("log_json: true\nmesh: {trust_domain: file.example}\n")
    with running(tmp_path / "cp", "--config", str(config), "--mesh-trust-domain", "flag.example") as plane:
        assert plane.rest("GET", "/mesh/v1/status").json["mesh"]["trust_domain"] == "flag.example"
        assert all(json.loads(line)["event"] for line in plane.process.tail(3).splitlines())


def test_no_etcd_prints_one_line_with_the_remedy(tmp_path: Path) -> None:
    plane = ControlPlane(tmp_path, "--etcd", "127.0.0.1:9")
    assert plane.process.popen.wait(60) == 1
    last = plane.process.tail().splitlines()[-1]
    assert last.startswith("gossamer-controlplane: ")
    assert "127.0.0.1:9" in last
    assert "Traceback" not in plane.process.tail(100)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        plane = ControlPlane(tmp_path, "--rest", f"127.0.0.1:{taken.getsockname()[1]}")
        assert plane.process.popen.wait(60) == 1
    assert "cannot listen on" in plane.process.tail(1)
    assert not plane.ready_file.exists()


def test_a_state_folder_is_one_control_planes(tmp_path: Path) -> None:
    """It holds the replica's name: a second one with it is refused, and the first one stays as it is."""
    with running(tmp_path / "one") as first:
        second = ControlPlane(tmp_path / "two", "--state-dir", str(first.state))
        assert second.process.popen.wait(30) == 64
        assert "another control plane uses" in second.process.tail()
        assert first.ready_file.exists()
        assert request(first.ready["rest"], "GET", "/readyz").status == 200
