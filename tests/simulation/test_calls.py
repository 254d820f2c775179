"""A policy and a call: through the compiler, the agent's decoder and router, to a cluster. No sockets.

Every case also goes through a second, dumb reading of the compiled messages.
"""

from typing import Any

import pytest
from envoy.config.route.v3.route_components_pb2 import VirtualHost

from agent.codec.head import Headers, RequestHead
from agent.config.decode import decode
from agent.model.route import DirectResponse, Forward, Redirect, RouteConfiguration
from agent.model.route import VirtualHost as AgentVirtualHost
from agent.router.table import RouteTable
from agent.router.weights import pick_cluster
from controlplane.compiler.compile import Compiler
from controlplane.compiler.types import Compiled
from mesh.xds import type_url
from tests.simulation.reference import Call, answer
from tests.support.compiling import agent, instance, mesh_of, put

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: user-service}
spec: {selector: {app: user-service}, ports: [{port: 80, targetPort: 3001}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders, namespace: shop}
spec: {selector: {app: orders}, ports: [{name: http, port: 8080}, {name: http-admin, port: 9090}]}
---
apiVersion: v1
kind: Service
metadata: {name: raw}
spec: {ports: [{name: tcp, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec:
  hosts: ["*.example.com"]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.1.0.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: user-service}
spec: {host: user-service, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"""
RULES = """\
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: user-service}
spec:
  hosts: [user-service]
  http:
  - match: [{uri: {exact: /exact}}, {uri: {prefix: /Case}, ignoreUriCase: true}]
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{uri: {regex: "/users/[0-9]+"}, method: {exact: POST}}]
    route: [{destination: {host: orders.shop.svc.cluster.local, port: {number: 9090}}}]
  - match: [{headers: {x-user: {prefix: test-}}, withoutHeaders: {x-skip: {exact: "1"}}}]
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{queryParams: {debug: {exact: "1"}, trace: {}}}]
    directResponse: {status: 418}
  - match: [{uri: {prefix: /old}}]
    redirect: {uri: /new, redirectCode: 308}
  - match: [{sourceLabels: {app: batch}}]
    route: [{destination: {host: user-service, subset: v2}}]
  - match: [{port: 81}]
    directResponse: {status: 500}
  - route:
    - {destination: {host: user-service, subset: v1}, weight: 90}
    - {destination: {host: user-service, subset: v2}, weight: 10}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: some}
spec:
  hosts: [a.example.com]
  http: [{match: [{uri: {prefix: /only}}], route: [{destination: {host: user-service}}]}]
"""
V1 = "cluster outbound|80|v1|user-service.default.svc.cluster.local"
V2 = "cluster outbound|80|v2|user-service.default.svc.cluster.local"
ORDERS = "cluster outbound|{}||orders.shop.svc.cluster.local"
WILD = "cluster outbound|80||*.example.com"

CASES = [
    (Call("user-service"), V1),
    (Call("user-service", share=0.89), V1),
    (Call("user-service", share=0.9), V2),
    (Call("USER-service.default:80"), V1),
    (Call("user-service.default.svc"), V1),
    (Call("user-service.default.svc.cluster.local:80"), V1),
    (Call("user-service:81"), "direct 502"),
    (Call("user-service", "/exact?a=b"), V2),
    (Call("user-service", "/exact/more"), V1),
    (Call("user-service", "/cAsE/x"), V2),
    (Call("user-service", "/users/12", method="POST"), ORDERS.format(9090)),
    (Call("user-service", "/users/12"), V1),
    (Call("user-service", "/users/12/x", method="POST"), V1),
    (Call("user-service", headers={"x-user": "test-1"}), V2),
    (Call("user-service", headers={"x-user": "test-1", "x-skip": "1"}), V1),
    (Call("user-service", headers={"x-user": "test-1", "x-skip": "2"}), V2),
    (Call("user-service", "/?debug=1&trace="), "direct 418"),
    (Call("user-service", "/?debug=2&trace="), V1),
    (Call("user-service", "/old/x"), "redirect 308"),
    (Call("orders.shop:8080"), ORDERS.format(8080)),
    (Call("orders.shop:9090"), ORDERS.format(9090)),
    (Call("orders.shop"), "no route"),  # several ports: 404 NR (decision 7)
    (Call("orders:8080"), "direct 502"),  # a short name of another namespace
    (Call("raw:5432"), "direct 502"),  # no HTTP
    (Call("nobody"), "direct 502"),
    (Call("x.example.com"), WILD),
    (Call("a.example.com"), "no route"),
    (Call("a.example.com", "/only"), "cluster outbound|80||user-service.default.svc.cluster.local"),
]


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    mesh = put(mesh_of(SERVICES + RULES), instance("user-1", version="v1"))
    return Compiler().compile_scope(mesh, mesh.scope_of(agent()))


@pytest.mark.parametrize(("call", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_reference(compiled: Compiled, call: Call, expected: str) -> None:
    """The messages say what the policy says."""
    hosts = [VirtualHost.FromString(item.body) for item in _virtual_hosts(compiled)]
    assert answer(hosts, call) == expected


@pytest.mark.parametrize(("call", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_agent(compiled: Compiled, call: Call, expected: str) -> None:
    """The agent does what the policy says."""
    assert _agent_answer(compiled, call) == expected


def _virtual_hosts(compiled: Compiled) -> list[Any]:
    """Those of the agent's node-wide port."""
    found = compiled.resources[type_url.VIRTUAL_HOST]
    name = next(iter(sorted(compiled.resources[type_url.ROUTE_CONFIGURATION])))
    return [item for own, item in sorted(found.items()) if own.startswith(f"{name}/")]


def _agent_answer(compiled: Compiled, call: Call) -> str:
    (routes,) = compiled.resources[type_url.ROUTE_CONFIGURATION].values()
    config = decode(routes.type_url, routes.name, routes.body)
    assert isinstance(config, RouteConfiguration), config
    hosts = [decode(item.type_url, item.name, item.body) for item in _virtual_hosts(compiled)]
    assert all(isinstance(host, AgentVirtualHost) for host in hosts), hosts
    headers = Headers()
    headers.append(b"Host", call.host.encode())
    for name, value in call.headers.items():
        headers.append(name.encode(), value.encode())
    head = RequestHead(call.method.encode(), call.path.encode(), call.host.encode(), headers)
    found = RouteTable(config, tuple(hosts)).match(head, lambda: call.share)
    if found is None:
        return "no route"
    match found.route.action:
        case Forward() as forward:
            return f"cluster {pick_cluster(forward, lambda: call.share).cluster}"
        case Redirect() as redirect:
            return f"redirect {redirect.status}"
        case DirectResponse() as direct:
            return f"direct {direct.status}"
