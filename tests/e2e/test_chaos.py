"""Faults, copies of requests, cross-origin answers and delegates: from a posted policy to what a caller gets."""

import json
from collections.abc import Callable, Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh, Reply, request, wait_until
from tests.support import meshes

pytestmark = pytest.mark.e2e
Call = Callable[..., Reply]


def apply(mesh: LocalMesh, *texts: str) -> None:
    """Apply and wait until every proxy has it."""
    mesh.wait_revision(mesh.apply(meshes.documents(*texts)))


@pytest.fixture(autouse=True)
def _usual_policies(mesh: LocalMesh) -> Iterator[None]:
    yield
    apply(mesh, meshes.virtual_service(100, 0))


def rules(http: str, *, annotations: str = "{}") -> str:
    """The VirtualService of user-service; `http` is YAML, indented by two."""
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: user-service, annotations: {annotations}}}
spec:
  hosts: [user-service]
  http:
{http}"""


def faulty(fault: str, *, more: str = "", annotations: str = "{}") -> str:
    """One rule with a fault; `more` is YAML of the rule, indented by four."""
    route = "    route: [{destination: {host: user-service, subset: v1}}]\n"
    return rules(f"  - fault: {fault}\n{more}{route}", annotations=annotations)


def test_errors_by_percentage(mesh: LocalMesh, caller: Call) -> None:
    apply(mesh, faulty("{abort: {httpStatus: 418, percentage: {value: 30}}}"))
    statuses = meshes.shares(lambda: str(caller().status), 400)
    assert set(statuses) == {"200", "418"}
    meshes.assert_share(statuses, "418", 0.3)
    apply(mesh, faulty("{abort: {httpStatus: 503, percentage: {value: 100}}}"))
    reply = caller()
    assert (reply.status, reply.body) == (503, b"fault filter abort")


def test_errors_are_tried_again_like_those_of_a_host(mesh: LocalMesh, caller: Call) -> None:
    """A third of the tries fails and nobody notices; as in Istio, if that is asked for, a third of the calls fails."""
    fault, retries = (
        "{abort: {httpStatus: 503, percentage: {value: 30}}}",
        "    retries: {attempts: 10, retryOn: 5xx}\n",
    )
    apply(mesh, faulty(fault, more=retries))
    assert {caller().status for _ in range(50)} == {200}
    apply(mesh, faulty(fault, more=retries, annotations="{gossamer.mesh/compat: istio}"))
    assert {caller().status for _ in range(50)} == {200, 503}


def test_slowness_ends_at_the_time_limit_of_the_rule(mesh: LocalMesh, caller: Call) -> None:
    fault, limit = "{delay: {fixedDelay: 600s, percentage: {value: 100}}}", "    timeout: 0.3s\n"
    apply(mesh, faulty(fault, more=limit))
    reply = caller()
    assert (reply.status, reply.body) == (504, b"upstream request timeout")
    apply(mesh, faulty("{delay: {fixedDelay: 0.3s, percentage: {value: 100}}}"))
    assert caller().status == 200


def test_only_some_requests_are_hit(mesh: LocalMesh, caller: Call) -> None:
    """By a header of the request, and by the labels of the workload that it comes from."""
    route = "route: [{destination: {host: user-service, subset: v1}}]"
    fault = "fault: {abort: {httpStatus: 418, percentage: {value: 100}}}"
    apply(
        mesh, rules(f"  - {{match: [{{headers: {{x-chaos: {{exact: 'on'}}}}}}], {fault}, {route}}}\n  - {{{route}}}\n")
    )
    assert (caller(x_chaos="on").status, caller(x_chaos="off").status, caller().status) == (418, 200, 200)
    for app, status in (("order-service", 418), ("another", 200)):
        apply(mesh, rules(f"  - {{match: [{{sourceLabels: {{app: {app}}}}}], {fault}, {route}}}\n  - {{{route}}}\n"))
        assert caller().status == status


def test_faults_are_told_in_logs_and_statistics(mesh: LocalMesh, caller: Call) -> None:
    agent = mesh.agents["node-4"]

    def injected() -> int:
        text = request(agent.admin, "GET", "/stats").body.decode()
        lines = [line for line in text.splitlines() if ".fault.aborts_injected: " in line]
        return sum(int(line.rpartition(" ")[2]) for line in lines)

    apply(mesh, faulty("{abort: {httpStatus: 503, percentage: {value: 100}}}", more="    retries: {attempts: 0}\n"))
    before = injected()
    caller(path="/logged")
    wait_until("the count", lambda: injected() > before, timeout_s=10)
    log = agent.state_dir / "access.log"
    wait_until("the line", lambda: '"/logged"' in log.read_text(), timeout_s=10)
    line = json.loads(next(line for line in log.read_text().splitlines() if '"/logged"' in line))
    assert (line["response_code"], line["response_flags"]) == (503, "FI")
    assert line["response_code_details"] == "fault_filter_abort"


def answered(mesh: LocalMesh, port: int) -> int:
    """How many requests the instances on this port have answered."""
    replies = [request(f"{mesh.address(number)}:{port}", "GET", "/behaviour") for number in (2, 3)]
    return sum(reply.json["answered"] for reply in replies)


def test_copies_of_requests(mesh: LocalMesh, caller: Call) -> None:
    """v2 gets a copy of what v1 answers, and its errors and slowness are nobody's."""
    mirrors = "    mirrors: [{destination: {host: user-service, subset: v2}, percentage: {value: 100}}]\n"
    apply(mesh, meshes.virtual_service(100, 0, extra=mirrors))
    for number in (2, 3):
        mesh.behave(number, meshes.USER_V2.port, status=500)
    before = answered(mesh, meshes.USER_V2.port)
    assert {caller().json["version"] for _ in range(20)} == {"v1"}
    wait_until("the copies", lambda: answered(mesh, meshes.USER_V2.port) == before + 20, timeout_s=10)
    for number in (2, 3):
        mesh.behave(number, meshes.USER_V2.port, delay_s=5)
    assert [caller().status for _ in range(5)] == [200] * 5
    for number in (2, 3):
        mesh.behave(number, meshes.USER_V2.port)


def test_a_share_of_copies(mesh: LocalMesh, caller: Call) -> None:
    mirrors = "    mirror: {host: user-service, subset: v2}\n    mirrorPercentage: {value: 25}\n"
    apply(mesh, meshes.virtual_service(100, 0, extra=mirrors))
    before = answered(mesh, meshes.USER_V2.port)
    assert {caller().status for _ in range(200)} == {200}

    def copies() -> int:
        return answered(mesh, meshes.USER_V2.port) - before

    wait_until("some copies", lambda: copies() > 0, timeout_s=10)
    assert 10 <= copies() <= 90


CORS = """\
    corsPolicy:
      allowOrigins: [{exact: https://shop.example}, {regex: "https://[a-z]+[.]test"}]
      allowMethods: [GET, POST]
      allowHeaders: [x-token]
      exposeHeaders: [x-told]
      allowCredentials: true
      maxAge: 24h
"""


def test_cross_origin_requests(mesh: LocalMesh, caller: Call) -> None:
    apply(mesh, meshes.virtual_service(100, 0, extra=CORS))
    agent = mesh.agents["node-4"]

    def preflight(origin: str) -> Reply:
        return agent.call(
            "user-service", "/users/1", port=meshes.CALLER_PORT, method="OPTIONS", origin=origin,
            access_control_request_method="POST",
        )  # fmt: skip

    allowed = preflight("https://abc.test")
    assert allowed.status == 200
    told = {name: value for name, value in allowed.headers.items() if name.startswith("access-control-")}
    assert told == {
        "access-control-allow-origin": "https://abc.test",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET,POST",
        "access-control-allow-headers": "x-token",
        "access-control-expose-headers": "x-told",
        "access-control-max-age": "86400",
    }
    assert not any(name.startswith("access-control-") for name in preflight("https://evil.example").headers)
    assert caller(origin="https://shop.example").headers["access-control-allow-origin"] == "https://shop.example"
    assert "access-control-allow-origin" not in caller(origin="https://evil.example").headers


def delegate(name: str, http: str) -> str:
    return f"""\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec: {{http: [{http}]}}
"""


def test_delegates(mesh: LocalMesh, caller: Call) -> None:
    """Two teams' rules below one host; the change of one of them reaches the callers, and what is missing is said."""
    root = rules(
        "  - {match: [{uri: {prefix: /one}}], delegate: {name: team-one}}\n"
        "  - {match: [{uri: {prefix: /two}}], delegate: {name: team-two}}\n"
        "  - {route: [{destination: {host: user-service, subset: v1}}]}\n"
    )
    one = delegate(
        "team-one", "{match: [{uri: {prefix: /one/a}}], directResponse: {status: 210}}, {directResponse: {status: 211}}"
    )
    apply(mesh, root, one, delegate("team-two", "{route: [{destination: {host: user-service, subset: v2}}]}"))
    assert (caller(path="/one/a").status, caller(path="/one/b").status) == (210, 211)
    assert caller(path="/two").json["version"] == "v2"
    assert caller(path="/three").json["version"] == "v1"
    apply(mesh, delegate("team-two", "{directResponse: {status: 212}}"))
    assert caller(path="/two").status == 212
    prefix = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"
    mesh.rest("DELETE", f"{prefix}/team-two")
    wait_until("the rule is gone", lambda: caller(path="/two").status == 200, timeout_s=10)

    def missing() -> list[str]:
        conditions = mesh.rest("GET", f"{prefix}/user-service").json.get("status", {}).get("conditions", [])
        return [item["message"] for item in conditions if item["reason"] == "UnknownDelegate"]

    [message] = wait_until("the condition", missing, timeout_s=10)
    assert message.startswith("spec.http[1].delegate: there is no VirtualService default/team-two ")
    mesh.rest("DELETE", f"{prefix}/team-one")
