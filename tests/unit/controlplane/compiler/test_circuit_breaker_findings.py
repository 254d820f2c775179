"""What CircuitBreakers are told of the routes that they name."""

import pytest

from controlplane.compiler.circuit_breaker_findings import breaker_findings
from controlplane.compiler.filters.circuit_breaker import lost
from controlplane.policy.kinds import CIRCUIT_BREAKER
from mesh.vocabulary import Dialect
from tests.support.compiling import mesh_of

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {ports: [{name: http, port: 80}]}\n"
ROOT = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: root}
spec:
  hosts: [shop]
  http:
  - {name: old, match: [{name: m, uri: {prefix: /old}}], directResponse: {status: 410}}
  - {name: shop, delegate: {name: rules}}
"""
RULES = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: rules}
spec: {http: [{name: v2, match: [{name: n}], route: [{destination: {host: shop}}]}]}
"""
BREAKER = """
---
apiVersion: gossamer.mesh/v1
kind: CircuitBreaker
metadata: {name: one}
spec: {target: {host: shop, route: %s}}
"""


@pytest.mark.parametrize(
    ("route", "is_known"),
    [
        ("old", True),
        ("m", True),
        ("old.m", True),
        ("shop-v2", True),
        ("n", True),
        ("shop-v2.n", True),
        ("v2", False),
        ("shop", False),
        ("other", False),
    ],
)
def test_a_route_is_named_as_proxies_name_it(route: str, is_known: bool) -> None:
    mesh = mesh_of(SERVICE + ROOT + RULES + BREAKER % route)
    [rule] = [item for item in mesh.objects.values() if item.kind is CIRCUIT_BREAKER]
    reasons = [item.reason for item in breaker_findings(rule, mesh)]
    assert reasons == ([] if is_known else ["UnknownRoute"])


@pytest.mark.parametrize(
    ("forced", "words"),
    [("OPEN", []), ("DISABLED", ["Envoys obey the outlierDetection of the DestinationRule instead"])],
)
def test_a_forced_open_circuit_is_open_elsewhere_too(forced: str, words: list[str]) -> None:
    mesh = mesh_of(BREAKER.replace("route: %s}", f"}}, forced: {forced}"))
    [rule] = mesh.objects.values()
    assert list(lost(rule, Dialect.ENVOY, has_outlier_detection=True)) == words


def test_a_delegate_without_a_root_has_no_routes() -> None:
    mesh = mesh_of(SERVICE + RULES + BREAKER % "v2")
    [rule] = [item for item in mesh.objects.values() if item.kind is CIRCUIT_BREAKER]
    assert [item.reason for item in breaker_findings(rule, mesh)] == ["UnknownRoute"]
