"""RateLimits enforced by a real Envoy and by our agent alike: local and global, by identity, with two replicas, without
any control plane."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh, LocalService, Reply, request, wait_until
from tests.support import envoys, meshes
from tests.support.tokens import jwks, secret_signer

pytestmark = [pytest.mark.e2e, pytest.mark.envoy]

BILLING = LocalService(name="billing", version="v1", port=3005)
CALLER = LocalService(name="order-service", version="v1", port=3003, outbound_port=15100)
AGENT, ENVOY, CALLING = 2, 6, 3
RATE_LIMITS = "/apis/gossamer.mesh/v1/namespaces/default/ratelimits"
SECURITY = "/apis/security.istio.io/v1/namespaces/default"
TOKENS = """\
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: HOST}
spec: {selector: {matchLabels: {app: HOST}}, jwtRules: [{issuer: me, jwks: 'JWKS'}]}
"""
HOSTS = {"agent": "user-service", "envoy": "billing"}

# A connection that was open before a RateLimit changes ends after it: these are used once.
ONCE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: HOST}
spec: {host: HOST, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}
"""


def limit(service: str, limits: str, more: str = "", name: str = "limits") -> str:
    return (
        f"apiVersion: gossamer.mesh/v1\nkind: RateLimit\nmetadata: {{name: {name}-{service}}}\n"
        f"spec: {{selector: {{matchLabels: {{app: {service}}}}}, {more} limits: [{limits}]}}\n"
    )


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """user-service behind our agent on one node, billing behind an Envoy on another, order-service calls both."""
    with meshes.local_mesh(tmp_path_factory.mktemp("limits")) as mesh:
        mesh.start_control_plane()
        mesh.start_service(meshes.USER_V1, AGENT)
        mesh.start_agent("node-2", AGENT, (meshes.USER_V1,), proxy={"workers": 2})
        mesh.start_service(CALLER, CALLING)
        mesh.start_agent("node-3", CALLING, (CALLER,))
        mesh.apply(meshes.documents(meshes.SERVICE, *(ONCE.replace("HOST", host) for host in HOSTS.values())))
        mesh.start_service(BILLING, ENVOY)
        envoys.start_envoy(
            mesh, "node-6", ENVOY,
            f"name=billing,namespace=default,service-account=billing,port=3005,address={mesh.address(ENVOY)},"
            "inbound-port=20000,labels.app=billing",
        )  # fmt: skip
        for host in HOSTS.values():
            wait_until(f"{host} answers", lambda host=host: ask(mesh, host).status == 200, timeout_s=30)
        yield mesh


def ask(mesh: LocalMesh, host: str, path: str = "/users/1", **headers: str) -> Reply:
    """As order-service."""
    return mesh.agents["node-3"].call(host, path, port=15100, **headers)


def apply(mesh: LocalMesh, *texts: str) -> None:
    mesh.wait_revision(mesh.apply(meshes.documents(*texts)))


def delete(mesh: LocalMesh, name: str) -> None:
    reply = mesh.rest("DELETE", f"{RATE_LIMITS}/{name}")
    assert reply.status == 200
    mesh.wait_revision(int(reply.headers["gossamer-revision"]))


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return HOSTS[request.param]


@pytest.fixture
def limited(mesh: LocalMesh, host: str) -> Iterator[Callable[..., None]]:
    """Applies a RateLimit to the host; it is gone afterwards."""
    given: list[str] = []

    def apply_limit(limits: str, more: str = "", name: str = "limits") -> None:
        given.append(f"{name}-{host}")
        apply(mesh, limit(host, limits, more, name))

    yield apply_limit
    left = {item["metadata"]["name"] for item in mesh.rest("GET", RATE_LIMITS).json["items"]}
    for name in left.intersection(given):
        delete(mesh, name)


def statuses(mesh: LocalMesh, host: str, count: int, path: str = "/users/1", **headers: str) -> Counter[int]:
    return Counter(ask(mesh, host, path, **headers).status for _ in range(count))


def test_local(mesh: LocalMesh, host: str, limited: Callable[..., None]) -> None:
    """A bucket for each client, shared by the workers of a proxy; the answer says so."""
    limited(
        "{name: per-user, match: {path: {exact: /users/1}}, keys: [{header: x-user}], "
        "rates: [{requests: 3, per: HOUR, burst: 3}]}"
    )
    first = ask(mesh, host, x_user="a")
    assert (first.status, first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == (200, "3", "2")
    assert statuses(mesh, host, 4, "/users/1?x=y", x_user="a") == {200: 2, 429: 2}
    assert statuses(mesh, host, 3, x_user="b") == {200: 3}
    assert statuses(mesh, host, 5, "/users/2", x_user="a") == {200: 5}
    assert statuses(mesh, host, 5) == {200: 5}, "without the key"
    refused = ask(mesh, host, x_user="a")
    assert (refused.status, refused.body) == (429, b"local_rate_limited")
    assert refused.headers["x-ratelimit-reset"] == "1200"


def test_local_shadow(mesh: LocalMesh, host: str, limited: Callable[..., None]) -> None:
    limited("{name: all, rates: [{requests: 1, per: HOUR}]}", "shadow: true,")
    assert statuses(mesh, host, 4) == {200: 4}


def test_global(mesh: LocalMesh, host: str, limited: Callable[..., None]) -> None:
    """The control plane counts; the refusal says when to come again."""
    limited(
        "{name: per-user, keys: [{header: x-user}, {attribute: METHOD}], rates: [{requests: 3, per: DAY}]}",
        "scope: GLOBAL, timeout: 2s, failureMode: DENY,",
    )
    first = ask(mesh, host, x_user="a")
    assert first.status == 200
    assert first.headers["x-ratelimit-limit"] == f'3, 3;w=86400;name="default/limits-{host}/per-user"'
    assert first.headers["x-ratelimit-remaining"] == "2"
    assert statuses(mesh, host, 4, x_user="a") == {200: 2, 429: 2}
    assert statuses(mesh, host, 1, x_user="b") == {200: 1}
    refused = ask(mesh, host, x_user="a")
    assert (refused.status, refused.body, refused.headers["x-envoy-ratelimited"]) == (429, b"", "true")
    assert 0 < int(refused.headers["retry-after"]) <= 86400
    assert refused.headers["x-ratelimit-reset"] == refused.headers["retry-after"]


def test_global_by_identity(mesh: LocalMesh, host: str, limited: Callable[..., None]) -> None:
    """Who calls is what its certificate says, whatever it says itself."""
    limited(
        "{name: per-caller, keys: [{attribute: PRINCIPAL}, {attribute: PATH}], rates: [{requests: 2, per: DAY}]}",
        "scope: GLOBAL, timeout: 2s, failureMode: DENY, headers: RATELIMIT,",
    )
    assert statuses(mesh, host, 3, "/users/1", x_forwarded_client_cert="URI=spiffe://x/y") == {200: 2, 429: 1}
    assert statuses(mesh, host, 3, "/users/2?x") == {200: 2, 429: 1}
    told = ask(mesh, host).headers
    assert told["ratelimit-policy"] == '"per-caller";q=2;w=86400'
    assert told["ratelimit"].startswith('"per-caller";r=0;t=')
    metrics = mesh.rest("GET", "/metrics").body.decode()
    told_line = next(line for line in metrics.splitlines() if f"limits-{host}/per-caller" in line and "over" in line)
    assert told_line.endswith(" 3.0")


def test_by_claim(mesh: LocalMesh, host: str, limited: Callable[..., None]) -> None:
    """Of a verified token; a request without one has no such key."""
    keys = secret_signer("k", b"0123456789abcdef0123456789abcdef")
    apply(mesh, TOKENS.replace("HOST", host).replace("JWKS", jwks(keys)))
    for scope in ("LOCAL", "GLOBAL"):
        limited(
            "{name: per-subject, keys: [{claim: sub}], rates: [{requests: 2, per: DAY}]}",
            f"scope: {scope}," + ("failureMode: DENY, timeout: 2s," if scope == "GLOBAL" else ""), scope.lower(),
        )  # fmt: skip
        tokens = {name: f"Bearer {keys.token({'iss': 'me', 'sub': name}).decode()}" for name in ("a", "b")}
        assert statuses(mesh, host, 3, authorization=tokens["a"]) == {200: 2, 429: 1}
        assert statuses(mesh, host, 1, authorization=tokens["b"]) == {200: 1}
        assert statuses(mesh, host, 3) == {200: 3}
        delete(mesh, f"{scope.lower()}-{host}")
    assert mesh.rest("DELETE", f"{SECURITY}/requestauthentications/{host}").status == 200


def test_without_the_control_plane(mesh: LocalMesh) -> None:
    """OPEN lets pass, DENY refuses with 500; local limits hold. It comes back, and so do the limits."""
    before = {number: settled(mesh, number) for number in (AGENT, ENVOY)}
    for host in HOSTS.values():
        apply(
            mesh,
            limit(host, "{name: all, match: {path: {prefix: /open}}, rates: [{requests: 1, per: DAY}]}",
                  "scope: GLOBAL, timeout: 1s,", "open"),
            limit(host, "{name: all, match: {path: {prefix: /deny}}, rates: [{requests: 1, per: DAY}]}",
                  "scope: GLOBAL, timeout: 1s, failureMode: DENY,", "deny"),
            limit(host, "{name: all, match: {path: {prefix: /local}}, rates: [{requests: 1, per: DAY}]}", "", "local"),
        )  # fmt: skip
        assert statuses(mesh, host, 3, "/open") == {200: 1, 429: 2}
    (plane,) = [process for process in mesh.processes if process.name == "controlplane"]
    plane.stop(signal.SIGKILL)
    for host in HOSTS.values():
        assert statuses(mesh, host, 3, "/open") == {200: 3}
        assert statuses(mesh, host, 3, "/deny") == {500: 3}
        assert statuses(mesh, host, 3, "/local") == {200: 1, 429: 2}
    wanted = {"ok": 1, "over_limit": 2, "error": 6, "failure_mode_allowed": 3}
    for number in (AGENT, ENVOY):
        wait_until(f"the counts of proxy {number}", lambda number=number: counted(mesh, number, before) == wanted)
    mesh.start_control_plane()
    for host in HOSTS.values():
        wait_until(f"{host} is limited again", lambda host=host: ask(mesh, host, "/deny").status == 429, timeout_s=30)
        for name in ("open", "deny", "local"):
            delete(mesh, f"{name}-{host}")


def counts(mesh: LocalMesh, number: int) -> Counter[str]:
    """What a proxy has counted of global limits at its own workload."""
    text = request(f"{mesh.address(number)}:15000", "GET", "/stats").body.decode()
    pairs = (line.partition(": ") for line in text.splitlines() if ".ratelimit." in line and "inbound" in line)
    return Counter({name.rpartition(".")[2]: int(value) for name, _, value in pairs})


def settled(mesh: LocalMesh, number: int) -> Counter[str]:
    """The same when nothing is on its way any more: agents tell once a second."""
    known: list[Counter[str]] = []

    def same() -> bool:
        known.append(counts(mesh, number))
        return len(known) > 12 and known[-12] == known[-1]

    wait_until(f"proxy {number} at rest", same, every_s=0.1)
    return known[-1]


def counted(mesh: LocalMesh, number: int, before: dict[int, Counter[str]]) -> Counter[str]:
    """Since then."""
    return counts(mesh, number) - before[number]
