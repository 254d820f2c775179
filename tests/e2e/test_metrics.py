"""Istio's standard metrics of one call, told by the caller's agent and by the callee's."""

import re
from collections.abc import Mapping

import pytest

from controlplane.cli.local_mesh import LocalMesh, request, wait_until

pytestmark = pytest.mark.e2e

_SAMPLE = re.compile(r"(?P<name>[a-z_]+)\{(?P<labels>.*)\} (?P<value>[0-9.]+)")
ORDERS = "spiffe://cluster.local/ns/default/sa/order-service"
USERS = "spiffe://cluster.local/ns/default/sa/user-service"
HOST = "user-service.default.svc.cluster.local"
EXPECTED = {
    "source_workload": "order-service",
    "source_canonical_service": "order-service",
    "source_workload_namespace": "default",
    "source_principal": ORDERS,
    "source_app": "order-service",
    "source_cluster": "default",
    "destination_workload": "user-service",
    "destination_canonical_service": "user-service",
    "destination_canonical_revision": "v1",
    "destination_workload_namespace": "default",
    "destination_principal": USERS,
    "destination_app": "user-service",
    "destination_version": "v1",
    "destination_cluster": "default",
    "destination_service": HOST,
    "destination_service_name": "user-service",
    "destination_service_namespace": "default",
    "request_protocol": "http",
    "response_code": "200",
    "response_flags": "-",
    "grpc_response_status": "",
}


def samples(mesh: LocalMesh, node: str, metric: str) -> list[tuple[Mapping[str, str], float]]:
    """(labels, value) of each sample that the agent's Prometheus page has."""
    text = request(mesh.agents[node].admin, "GET", "/stats/prometheus").body.decode()
    found = []
    for line in text.splitlines():
        sample = _SAMPLE.fullmatch(line)
        if sample is not None and sample["name"] == metric:
            found.append((dict(re.findall(r'([a-z_]+)="([^"]*)"', sample["labels"])), float(sample["value"])))
    return found


def test_both_reporters_tell_of_a_call(mesh: LocalMesh, caller) -> None:  # type: ignore[no-untyped-def]
    for _ in range(40):
        assert caller().status == 200

    def told(nodes: tuple[str, ...], reporter: str, policy: str) -> float:
        wanted = {**EXPECTED, "reporter": reporter, "connection_security_policy": policy}
        return sum(
            value
            for node in nodes
            for labels, value in samples(mesh, node, "istio_requests_total")
            if wanted.items() <= labels.items()
        )

    source = wait_until("the caller's report", lambda: told(("node-4",), "source", "unknown"))
    callees = ("node-2", "node-3")
    wait_until("as many at the callees", lambda: told(callees, "destination", "mutual_tls") == source)
    for node in ("node-4", *callees):
        for metric in ("istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"):
            assert samples(mesh, node, f"{metric}_bucket"), (node, metric)
