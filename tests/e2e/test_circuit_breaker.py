"""Circuit breakers and bulkheads from a posted policy to an answer; who calls has two workloads and two workers."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from controlplane.cli.local_mesh import LocalMesh, LocalService, Reply, request, wait_until
from tests.support import meshes

pytestmark = pytest.mark.e2e

USERS = meshes.USER_V1
CART = LocalService(name="cart", version="v1", port=3004, outbound_port=15101)
CALLERS = {"order-service": meshes.CALLER_PORT, "cart": 15101}
KINDS = "/apis/gossamer.mesh/v1/namespaces/default"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with meshes.local_mesh(tmp_path_factory.mktemp("breaker")) as mesh:
        mesh.start_control_plane()
        mesh.start_service(USERS, 2)
        mesh.start_agent("node-2", 2, (USERS,), proxy={"workers": 2})
        mesh.start_agent("node-4", 4, (meshes.ORDERS, CART), proxy={"workers": 2})
        mesh.wait_revision(mesh.apply(meshes.SERVICE))
        yield mesh


def breaker(more: str = "", name: str = "users") -> str:
    return f"""\
apiVersion: gossamer.mesh/v1
kind: CircuitBreaker
metadata: {{name: {name}}}
spec:
  target: {{host: user-service}}
  requestVolume: 10
  sleepWindow: 1s
{more}"""


FALLBACK = "  fallback: {response: {status: 203, body: {string: nobody}}}\n"


def apply(mesh: LocalMesh, text: str) -> None:
    mesh.behave(2, USERS.port)
    mesh.wait_revision(mesh.apply(text))


def delete(mesh: LocalMesh, plural: str, name: str) -> None:
    reply = mesh.rest("DELETE", f"{KINDS}/{plural}/{name}")
    assert reply.status == 200, reply.body
    mesh.wait_revision(int(reply.headers["gossamer-revision"]))


def call(mesh: LocalMesh, caller: str = "cart") -> Reply:
    return mesh.agents["node-4"].call("user-service", "/users/1", port=CALLERS[caller])


def calls(mesh: LocalMesh, count: int, caller: str = "cart") -> Counter[int]:
    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(lambda _: call(mesh, caller).status, range(count)))


def states(mesh: LocalMesh, caller: str = "") -> list[str]:
    items = mesh.rest("GET", "/mesh/v1/circuit_breakers?breaker=users&node=node-4").json["items"]
    return [item["state"] for item in items if caller in item["caller"]]


def becomes(mesh: LocalMesh, state: str, caller: str = "") -> None:
    wait_until(f"the breaker {state}", lambda: states(mesh, caller) == [state], timeout_s=15)


def test_it_opens_serves_its_fallback_probes_and_closes(mesh: LocalMesh) -> None:
    apply(mesh, breaker(FALLBACK))
    assert calls(mesh, 20) == {200: 20}
    mesh.behave(2, USERS.port, status=500)
    answered: Counter[int] = Counter()
    wait_until("the fallback", lambda: _counted(answered, call(mesh).status) == 203, timeout_s=10)
    assert answered[500] >= 10
    seen = mesh.answered(2, USERS.port)
    assert set(calls(mesh, 100)) <= {203, 500}
    assert mesh.answered(2, USERS.port) - seen <= 2, "nothing but probes"
    mesh.behave(2, USERS.port)
    wait_until("an answer", lambda: call(mesh).status == 200, timeout_s=15)
    becomes(mesh, "CLOSED")
    assert calls(mesh, 20) == {200: 20}
    events = [event for event in mesh.rest("GET", "/mesh/v1/events").json["items"] if "users" in event["subject"]]
    types = [event["type"] for event in events if "node-4" in event["message"]]
    assert (types[0], types[-1]) == ("CircuitBreakerOpened", "CircuitBreakerClosed")
    metrics = request(mesh.agents["node-4"].admin, "GET", "/stats/prometheus").body.decode()
    assert 'gossamer_circuit_breaker_state{circuit_breaker="default/users",caller=""} 0' in metrics
    delete(mesh, "circuitbreakers", "users")
    wait_until("no breaker", lambda: states(mesh) == [], timeout_s=10)


def test_a_person_opens_and_closes_it(mesh: LocalMesh) -> None:
    apply(mesh, breaker("  forced: OPEN\n"))
    refused = call(mesh)
    assert (refused.status, refused.body) == (503, b"circuit breaker is open")
    assert calls(mesh, 20) == {503: 20}
    becomes(mesh, "FORCED_OPEN")
    apply(mesh, breaker("  forced: DISABLED\n"))
    mesh.behave(2, USERS.port, status=500)
    assert calls(mesh, 40) == {500: 40}
    becomes(mesh, "DISABLED")
    apply(mesh, breaker())
    assert call(mesh).status == 200
    delete(mesh, "circuitbreakers", "users")


def test_each_caller_has_its_own(mesh: LocalMesh) -> None:
    apply(mesh, breaker("  per: CALLER\n").replace("sleepWindow: 1s", "sleepWindow: 60s"))
    assert call(mesh, "order-service").status == 200
    mesh.behave(2, USERS.port, status=500)
    wait_until("cart is refused", lambda: call(mesh, "cart").status == 503, timeout_s=10)
    becomes(mesh, "OPEN", "sa/cart")
    mesh.behave(2, USERS.port)
    assert call(mesh, "cart").status == 503
    assert call(mesh, "order-service").status == 200
    delete(mesh, "circuitbreakers", "users")


def test_what_it_names_and_is_not_there_is_said(mesh: LocalMesh) -> None:
    apply(mesh, breaker("  fallback: {service: {host: nowhere}}\n", name="lost"))

    def found() -> Any:
        conditions = mesh.rest("GET", f"{KINDS}/circuitbreakers/lost").json.get("status", {}).get("conditions", [])
        return next((item for item in conditions if item["type"] == "ReferencedResourceNotFound"), None)

    assert "spec.fallback.service.host" in wait_until("the finding", found, timeout_s=10)["message"]
    delete(mesh, "circuitbreakers", "lost")


def test_a_bulkhead_shares_its_room_out(mesh: LocalMesh) -> None:
    apply(
        mesh,
        "apiVersion: gossamer.mesh/v1\nkind: Bulkhead\nmetadata: {name: users}\n"
        "spec: {target: {host: user-service}, maxConcurrent: 4, sharePercent: 50}\n",
    )
    mesh.behave(2, USERS.port, delay_s=1.5)
    with ThreadPoolExecutor(2) as pool:
        cart, orders = pool.map(lambda caller: calls(mesh, 8, caller), CALLERS)
    for answers in (cart, orders):
        assert set(answers) == {200, 503}
        # Two workers: each may let one more in at the same instant.
        assert 2 <= answers[200] <= 3
    mesh.behave(2, USERS.port)
    assert call(mesh).status == 200
    delete(mesh, "bulkheads", "users")


def test_at_the_callee_a_flood_leaves_the_others_their_share(mesh: LocalMesh) -> None:
    """Callers are known by their certificates; who shows none has the share of all such."""
    apply(
        mesh,
        "apiVersion: gossamer.mesh/v1\nkind: Bulkhead\nmetadata: {name: users}\n"
        "spec: {target: {host: user-service}, enforceAt: [INBOUND], maxConcurrent: 6, sharePercent: 34,\n"
        "       queue: {size: 1, maxWait: 50ms}}\n",
    )
    mesh.behave(2, USERS.port, delay_s=1.0)
    callee, flooded, ended = mesh.agents["node-2"], Counter[tuple[int, bytes]](), threading.Event()

    def flood() -> None:
        while not ended.is_set():
            reply = call(mesh, "cart")
            flooded[reply.status, reply.body if reply.status != 200 else b""] += 1

    plain = f"{callee.address}:{inbound_port(mesh)}"
    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(flood) for _ in range(10)]
        try:
            wait_until("refusals", lambda: flooded[503, b"bulkhead is full"] >= 20)
            assert [call(mesh, "order-service").status for _ in range(4)] == [200] * 4
            assert [request(plain, "GET", "/users/1").status for _ in range(2)] == [200] * 2
            shown = request(callee.admin, "GET", "/stats/prometheus").body.decode()
        finally:
            ended.set()
        assert all(one.exception() is None for one in running)
    assert flooded.keys() == {(200, b""), (503, b"bulkhead is full")}
    found = re.findall(r'gossamer_bulkhead_requests{bulkhead="(.*)",caller="(.*)"} ([0-9]+)', shown)
    cart = [int(count) for name, caller, count in found if caller.endswith("/sa/cart")]
    assert len(cart) == 1
    assert 1 <= cart[0] <= 3, "a share of two; two workers may each let one more in at the same instant"
    assert {name for name, _, _ in found} == {f"default/users/{USERS.id}"}
    assert {caller.rpartition("/")[2] for _, caller, _ in found} == {"", "cart", "order-service", "others"}
    log = (callee.state_dir / "access.log").read_text()
    assert '"UO"' in log
    assert "bulkhead_full" in log
    mesh.behave(2, USERS.port)
    delete(mesh, "bulkheads", "users")


def inbound_port(mesh: LocalMesh) -> int:
    [service] = mesh.rest("GET", "/mesh/v1/endpoints?service=user-service").json["items"]
    return int(service["address"].rpartition(":")[2])


def _counted(seen: Counter[int], status: int) -> int:
    seen[status] += 1
    return status
