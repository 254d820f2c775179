"""Where faults work: at each try in our agents, before the router in Envoys and for `compat: istio`."""

import pytest
from envoy.config.route.v3.route_components_pb2 import Route, VirtualHost

from controlplane.compiler.compile import Compiler
from controlplane.model.proxy import Proxy
from controlplane.settings import MeshSettings
from mesh.vocabulary import Dialect
from mesh.xds import type_url
from tests.support.compiling import SETTINGS, agent, instance, mesh_of, proxy_of, put

AGENT = agent()
ENVOY = proxy_of({"id": "sidecar~10.0.0.1~e.default~x", "userAgentName": "envoy", "metadata": {"NAMESPACE": "default"}})
ISTIO = MeshSettings.model_validate({"compat_istio": True})
BEFORE, OF_TRIES = "envoy.filters.http.fault", "gossamer.fault_of_tries"


def rules(annotations: str = "{}") -> str:
    return f"""\
apiVersion: v1
kind: Service
metadata: {{name: user-service}}
spec: {{selector: {{app: user-service}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: x, annotations: {annotations}}}
spec:
  hosts: [user-service]
  http:
  - fault: {{abort: {{httpStatus: 503, percentage: {{value: 0.1}}}}}}
    route: [{{destination: {{host: user-service}}}}]
"""


def compiled(proxy: Proxy, text: str, settings: MeshSettings) -> tuple[Route, list[str]]:
    """The route, and the messages of conditions that say Approximated."""
    mesh = put(mesh_of(text, settings=settings), instance("u"))
    compiler = Compiler()
    found = compiler.compile_scope(mesh, mesh.scope_of(proxy))
    hosts = [VirtualHost.FromString(item.body) for item in found.resources[type_url.VIRTUAL_HOST].values()]
    [route] = [route for host in hosts for route in host.routes if route.HasField("route")]
    return route, [item.message for item in found.conditions if item.type == "Approximated"]


@pytest.mark.parametrize(
    ("proxy", "annotations", "settings", "filter_name", "told"),
    [
        (AGENT, "{}", SETTINGS, OF_TRIES, False),
        (AGENT, "{gossamer.mesh/compat: istio}", SETTINGS, BEFORE, False),
        (AGENT, "{}", ISTIO, BEFORE, False),
        (ENVOY, "{}", SETTINGS, BEFORE, True),
        (ENVOY, "{gossamer.mesh/compat: istio}", SETTINGS, BEFORE, False),
        (ENVOY, "{}", ISTIO, BEFORE, False),
    ],
)
def test_where(proxy: Proxy, annotations: str, settings: MeshSettings, filter_name: str, told: bool) -> None:
    route, messages = compiled(proxy, rules(annotations), settings)
    assert list(route.typed_per_filter_config) == [filter_name]
    expected = "Envoys inject spec.http[0].fault before they route: the rule's retries and timeout do not apply to it"
    assert messages == ([expected] if told else [])


def test_the_two_proxies_are_what_they_seem() -> None:
    assert (AGENT.dialect, ENVOY.dialect) == (Dialect.GOSSAMER, Dialect.ENVOY)
