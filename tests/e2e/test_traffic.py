"""From a posted policy to enforced traffic: routing, split, retries, timeouts, limits, mTLS, context."""

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from controlplane.cli.local_mesh import LocalMesh, request, wait_until
from tests.support import meshes

pytestmark = pytest.mark.e2e


def apply(mesh: LocalMesh, *texts: str) -> int:
    """Apply and wait until every proxy has it."""
    revision = mesh.apply(meshes.documents(*texts))
    mesh.wait_revision(revision)
    return revision


@pytest.fixture(autouse=True)
def _usual_policies(mesh: LocalMesh):  # type: ignore[no-untyped-def]
    yield
    for number in (2, 3):
        for port in (3001, 3002):
            mesh.behave(number, port)
    apply(mesh, meshes.virtual_service(90, 10), meshes.SUBSETS)


def test_split_by_weight(mesh: LocalMesh, caller) -> None:
    """90/10 by weight, and 50/50 after one more apply."""
    counts = meshes.shares(lambda: caller().json["version"], 1000)
    meshes.assert_share(counts, "v1", 0.9)
    apply(mesh, meshes.virtual_service(50, 50))
    counts = meshes.shares(lambda: caller().json["version"], 600)
    meshes.assert_share(counts, "v1", 0.5)


def test_match_by_path_header_method_and_query(mesh: LocalMesh, caller) -> None:
    """Exact, prefix and regex paths; headers; methods; query parameters; the first that matches wins."""
    apply(
        mesh,
        """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: user-service}
spec:
  hosts: [user-service]
  http:
  - match: [{uri: {exact: /exact}}]
    directResponse: {status: 210}
  - match: [{uri: {prefix: /prefix}}]
    directResponse: {status: 211}
  - match: [{uri: {regex: "/u[0-9]+/x"}}]
    directResponse: {status: 212}
  - match: [{headers: {x-canary: {exact: "yes"}}}]
    directResponse: {status: 213}
  - match: [{method: {exact: DELETE}}]
    directResponse: {status: 214}
  - match: [{queryParams: {debug: {exact: "1"}}}]
    directResponse: {status: 215}
  - route: [{destination: {host: user-service, subset: v2}}]
""",
    )
    assert caller(path="/exact").status == 210
    assert caller(path="/exact/no").status == 200
    assert caller(path="/prefixed").status == 211, "a VirtualService prefix is a string prefix"
    assert caller(path="/u42/x").status == 212
    assert caller(path="/u42/xy").status == 200, "a regex matches the whole path"
    assert caller(x_canary="yes").status == 213
    agent = mesh.agents["node-4"]
    assert agent.call("user-service", "/users/1", port=meshes.CALLER_PORT, method="DELETE").status == 214
    assert caller(path="/users/1?debug=1&x=2").status == 215
    assert caller(path="/users/1?debug=2").json["version"] == "v2"


def test_retry_hides_a_failing_instance(mesh: LocalMesh, caller) -> None:
    """With retryOn 5xx and other hosts to try, no request fails although one of two instances answers 500."""
    retries = "    retries: {attempts: 3, perTryTimeout: 2s, retryOn: 5xx}\n"
    apply(mesh, meshes.virtual_service(100, 0, extra=retries))
    mesh.behave(2, 3001, status=500)
    statuses = {caller().status for _ in range(40)}
    assert statuses == {200}


def test_timeout(mesh: LocalMesh, caller) -> None:
    """A route timeout answers 504 with Envoy's body, close to its time."""
    apply(mesh, meshes.virtual_service(100, 0, extra="    timeout: 0.5s\n"))
    for number in (2, 3):
        mesh.behave(number, 3001, delay_s=3)
    begun = time.monotonic()
    reply = caller()
    assert (reply.status, reply.body) == (504, b"upstream request timeout")
    assert 0.4 <= time.monotonic() - begun < 2.5


def test_connection_pool_limits_overflow(mesh: LocalMesh, caller) -> None:
    """One connection, one pending: of six slow requests at once some are refused with 503 and x-envoy-overloaded."""
    limited = meshes.SUBSETS.replace(
        "  subsets:",
        "  trafficPolicy:\n    connectionPool:\n      tcp: {maxConnections: 1}\n"
        "      http: {http1MaxPendingRequests: 1}\n  subsets:",
    )
    apply(mesh, limited, meshes.virtual_service(100, 0, extra="    retries: {attempts: 0}\n"))
    for number in (2, 3):
        mesh.behave(number, 3001, delay_s=1)
    with ThreadPoolExecutor(6) as pool:
        replies = [future.result() for future in [pool.submit(caller) for _ in range(6)]]
    refused = [reply for reply in replies if reply.status == 503]
    assert refused, [reply.status for reply in replies]
    assert all(reply.headers["x-envoy-overloaded"] == "true" for reply in refused)
    assert all(reply.body.endswith(b"reset reason: overflow") for reply in refused)
    assert any(reply.status == 200 for reply in replies)


def test_unknown_host_is_refused(caller) -> None:
    """An explicit proxy port knows only the registry (decision 7)."""
    assert caller("nowhere.example").status == 502


def test_identity_context_and_access_log(mesh: LocalMesh, caller) -> None:
    """The callee learns the caller's SPIFFE id; the trace goes on; both agents log the request under one id."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    seen = caller(traceparent=f"00-{trace}-00f067aa0ba902b7-01").json["headers"]
    assert "URI=spiffe://cluster.local/ns/default/sa/order-service" in seen["x-forwarded-client-cert"]
    assert seen["traceparent"].split("-")[1] == trace
    request_id = seen["x-request-id"]

    def logged() -> list[dict[str, object]]:
        lines = []
        for agent in mesh.agents.values():
            text = (agent.state_dir / "access.log").read_text()
            lines += [json.loads(line) for line in text.splitlines() if request_id in line]
        return lines if len(lines) == 2 else []

    for line in wait_until("both access logs", logged, timeout_s=10):
        assert line["response_code"] == 200
        assert line["path"] == "/users/1"


def test_a_malformed_traceparent_is_restarted(caller) -> None:
    """W3C Trace Context: an invalid header is ignored and a new trace begins."""
    seen = caller(traceparent="00-zz-zz-01").json["headers"]
    version, trace, span, _flags = seen["traceparent"].split("-")
    assert version == "00"
    assert len(trace) == 32
    assert len(span) == 16


def test_peer_authentication_modes(mesh: LocalMesh, caller) -> None:
    """PERMISSIVE answers plaintext and mTLS, STRICT only mTLS, DISABLE only plaintext."""
    items = mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
    host, _, port = str(items[0]["address"]).rpartition(":")

    def plaintext() -> bytes:
        try:
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(b"GET /users/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return connection.recv(65536)
        except ConnectionResetError:
            return b""

    assert plaintext().startswith(b"HTTP/1.1 200"), "PERMISSIVE is the default"
    for mode, answered in (("STRICT", False), ("DISABLE", True)):
        apply(mesh, _peer_authentication(mode))
        wait_until(mode, lambda want=answered: plaintext().startswith(b"HTTP/1.1 200") is want, timeout_s=10)
        assert caller().status == 200, f"the mesh follows {mode} on both sides"
    mesh.rest("DELETE", "/apis/security.istio.io/v1/namespaces/default/peerauthentications/default")


def _peer_authentication(mode: str) -> str:
    return f"""\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default}}
spec: {{mtls: {{mode: {mode}}}}}
"""


def test_health_check_takes_an_instance_out_and_back(mesh: LocalMesh, caller) -> None:
    """An instance that fails its health check gets no traffic; REST shows why; it comes back by itself."""
    apply(mesh, meshes.virtual_service(100, 0))
    mesh.behave(2, 3001, health=503)

    def endpoint(health: str) -> dict[str, object] | None:
        items = mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
        unwell = [item for item in items if item["node"] == "node-2" and item["labels"]["version"] == "v1"]
        return next((item for item in unwell if item["health"] == health), None)

    found = wait_until("UNHEALTHY in REST", lambda: endpoint("UNHEALTHY"), timeout_s=15)
    assert "503" in str(found["health_reason"])
    before = json.loads(_behaviour(mesh, 2))["answered"]

    def quiet() -> bool:
        nonlocal before
        for _ in range(20):
            assert caller().status == 200
        now = json.loads(_behaviour(mesh, 2))["answered"]
        still, before = now == before, now
        return still

    wait_until("no more traffic to the unhealthy instance", quiet, timeout_s=10)
    mesh.behave(2, 3001)
    wait_until("healthy again", lambda: endpoint("HEALTHY"), timeout_s=15)
    wait_until("traffic again", lambda: not quiet(), timeout_s=10)


def _behaviour(mesh: LocalMesh, number: int) -> bytes:
    return request(f"{mesh.address(number)}:3001", "GET", "/behaviour").body


def test_ejection_is_enforced_reported_and_ends(mesh: LocalMesh, caller) -> None:
    """Consecutive 5xx eject an instance; REST says by whom, why and until when; it returns after its time."""
    outlier = meshes.SUBSETS.replace(
        "  subsets:",
        "  trafficPolicy:\n    outlierDetection:\n      consecutive5xxErrors: 3\n      interval: 1s\n"
        "      baseEjectionTime: 3s\n      maxEjectionPercent: 50\n  subsets:",
    )
    apply(mesh, outlier, meshes.virtual_service(100, 0, extra="    retries: {attempts: 0}\n"))
    mesh.behave(2, 3001, status=500)

    def ejections() -> list[dict[str, object]]:
        caller()
        items = mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
        return [ejection for item in items for ejection in item["ejections"] if ejection["enforced"]]

    found = wait_until("the ejection in REST", ejections, timeout_s=15)[0]
    assert found["node"] == "node-4"
    assert found["reason"] == "consecutive_5xx"
    assert str(found["until"]) > str(found["since"])
    assert [caller().status for _ in range(20)] == [200] * 20, "an ejected host gets no traffic"
    mesh.behave(2, 3001)
    wait_until("the end of the ejection", lambda: not ejections(), timeout_s=20)


def v1_policy(text: str) -> str:
    """The subsets' DestinationRule with a trafficPolicy; `text` is YAML, indented by four."""
    return meshes.SUBSETS.replace("  subsets:", f"  trafficPolicy:\n{text}  subsets:")


def test_random_load_balancing(mesh: LocalMesh, caller) -> None:
    """Both instances get their half, and in no order: round robin would alternate, or stay, all the time."""
    apply(mesh, v1_policy("    loadBalancer: {simple: RANDOM}\n"), meshes.virtual_service(100, 0))
    clusters = request(mesh.agents["node-4"].admin, "GET", "/clusters").json["clusters"]
    policies = {item["lb_policy"] for item in clusters if item["name"].startswith("outbound|80|v1|user-service")}
    assert policies == {"RANDOM"}
    before = [json.loads(_behaviour(mesh, number))["answered"] for number in (2, 3)]
    order = []
    for _ in range(200):
        caller()
        now = [json.loads(_behaviour(mesh, number))["answered"] for number in (2, 3)]
        order.append("23"[[later - earlier for later, earlier in zip(now, before, strict=True)].index(1)])
        before = now
    counts = Counter(order)
    meshes.assert_share(counts, "2", 0.5)
    changes = Counter(str(first != second) for first, second in pairwise(order))
    meshes.assert_share(changes, "True", 0.5)


@pytest.mark.parametrize("algorithm", ["ringHash: {minimumRingSize: 512}", "maglev: {tableSize: 1021}"])
def test_consistent_hashing(mesh: LocalMesh, caller, algorithm: str) -> None:
    """One user, one instance; the users are spread over both."""
    hashing = f"    loadBalancer: {{consistentHash: {{httpHeaderName: x-user, {algorithm}}}}}\n"
    apply(mesh, v1_policy(hashing), meshes.virtual_service(100, 0))

    def answered() -> list[int]:
        return [json.loads(_behaviour(mesh, number))["answered"] for number in (2, 3)]

    chosen = Counter()
    for user in range(24):
        before = answered()
        for _ in range(4):
            assert caller(x_user=f"user-{user}").status == 200
        increases = [later - earlier for later, earlier in zip(answered(), before, strict=True)]
        assert sorted(increases) == [0, 4]
        chosen[increases.index(4)] += 1
    assert len(chosen) == 2


def test_panic(mesh: LocalMesh, caller) -> None:
    """With minHealthPercent 60 and one of two instances healthy all get traffic; with 0 only the healthy one does."""
    outlier = "    outlierDetection: {{consecutive5xxErrors: 5, minHealthPercent: {percent}}}\n"
    apply(mesh, v1_policy(outlier.format(percent=60)), meshes.virtual_service(100, 0))
    mesh.behave(2, 3001, health=503)

    def unhealthy() -> bool:
        items = mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
        return ("node-2", "UNHEALTHY") in [(item["node"], item["health"]) for item in items]

    def known_at_the_caller() -> bool:
        clusters = request(mesh.agents["node-4"].admin, "GET", "/clusters").json["clusters"]
        hosts = next(item["hosts"] for item in clusters if item["name"].startswith("outbound|80|v1|user-service"))
        return sorted(host["health"] for host in hosts) == ["HEALTHY", "UNHEALTHY"]

    def answered(number: int) -> int:
        return int(json.loads(_behaviour(mesh, number))["answered"])

    wait_until("UNHEALTHY in REST", unhealthy, timeout_s=15)
    wait_until("UNHEALTHY at the caller", known_at_the_caller)
    before = answered(2)
    assert [caller().status for _ in range(40)] == [200] * 40
    assert answered(2) > before, "panic"

    apply(mesh, v1_policy(outlier.format(percent=0)), meshes.virtual_service(100, 0))
    before = answered(2)
    assert [caller().status for _ in range(40)] == [200] * 40
    assert answered(2) == before, "no panic"


def test_split_local_origin_errors(mesh: LocalMesh, caller) -> None:
    """Connections that fail eject by themselves, and answers with 500 then do not."""
    entry = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: legacy}}
spec:
  hosts: [legacy.example]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 3001}}]
  endpoints: [{{address: {mesh.address(2)}}}, {{address: {mesh.address(200)}}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: legacy}}
spec:
  host: legacy.example
  trafficPolicy:
    outlierDetection:
      splitExternalLocalOriginErrors: true
      consecutiveLocalOriginFailures: 3
      consecutive5xxErrors: 0
      interval: 1s
      baseEjectionTime: 60s
      maxEjectionPercent: 100
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: legacy}}
spec:
  hosts: [legacy.example]
  http: [{{route: [{{destination: {{host: legacy.example}}}}], retries: {{attempts: 0}}}}]
"""
    apply(mesh, entry)
    wait_until("known", lambda: caller("legacy.example").status in (200, 503))

    def ejected() -> list[tuple[str, str]]:
        caller("legacy.example")
        items = mesh.rest("GET", "/mesh/v1/endpoints?service=legacy.example").json["items"]
        return [(item["address"], own["reason"]) for item in items for own in item["ejections"] if own["enforced"]]

    found = wait_until("the ejection", ejected, timeout_s=20)
    assert found == [(f"{mesh.address(200)}:3001", "consecutive_local_origin_failure")]
    mesh.behave(2, 3001, status=500)
    assert [caller("legacy.example").status for _ in range(20)] == [500] * 20, "an answer is no local failure"
    assert ejected() == found
    for plural in ("virtualservices", "destinationrules", "serviceentries"):
        mesh.rest("DELETE", f"/apis/networking.istio.io/v1/namespaces/default/{plural}/legacy")
