"""The rows that kubectl prints."""

import pytest

from controlplane.api.table import age, as_table, columns_of

NOW = 1_790_000_000.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (3600 * 2 + 59 * 60, "179m"),
        (3 * 3600, "3h"),
        (9 * 3600 + 5 * 60, "9h5m"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    from datetime import UTC, datetime

    stamp = datetime.fromtimestamp(NOW - seconds, UTC).isoformat()
    assert age(stamp, NOW) == text


def test_an_age_that_is_not_known() -> None:
    assert age("", NOW) == "<unknown>"


@pytest.mark.parametrize(
    ("kind", "spec", "cells"),
    [
        ("VirtualService", {"hosts": ["a", "b"], "gateways": ["mesh"]}, ["mesh", "a,b"]),
        ("DestinationRule", {"host": "a"}, ["a"]),
        (
            "ServiceEntry",
            {"hosts": ["a"], "location": "MESH_EXTERNAL", "resolution": "DNS"},
            ["a", "MESH_EXTERNAL", "DNS"],
        ),
        ("WorkloadEntry", {"address": "10.0.0.1", "serviceAccount": "x"}, ["10.0.0.1", "x"]),
        (
            "PeerAuthentication",
            {"mtls": {"mode": "STRICT"}, "selector": {"matchLabels": {"a": "b"}}},
            ["STRICT", "a=b"],
        ),
        ("PeerAuthentication", {}, ["PERMISSIVE", "<none>"]),
        (
            "RateLimit",
            {
                "scope": "GLOBAL",
                "shadow": True,
                "limits": [
                    {"name": "a", "rates": [{"requests": 5, "per": "SECOND"}, {"requests": 9, "per": "DAY"}]},
                    {"name": "b", "rates": [{"requests": 1, "per": "HOUR"}]},
                ],
            },
            ["GLOBAL (shadow)", "a 5/SECOND 9/DAY,b 1/HOUR", "<none>"],
        ),
        ("RateLimit", {"limits": [{}]}, ["LOCAL", "<unreadable>", "<none>"]),
        (
            "Service",
            {"ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]},
            ["ClusterIP", "80/TCP,53/UDP", "<none>"],
        ),
        (
            "Gateway.networking.istio.io",
            {"servers": [{"port": {"number": 80, "protocol": "HTTP"}}]},
            ["80/HTTP", "<none>"],
        ),
        ("GatewayClass", {"controllerName": "a/b"}, ["a/b", "Unknown"]),
        (
            "ReferenceGrant",
            {"from": [{"group": "g", "kind": "HTTPRoute", "namespace": "x"}], "to": [{"kind": "Service", "name": "a"}]},
            ["x/HTTPRoute", "Service/a"],
        ),
        ("Namespace", {}, []),
    ],
)
def test_the_columns_of_each_kind(kind: str, spec: object, cells: list[str]) -> None:
    manifest = {"metadata": {"name": "n", "creationTimestamp": ""}, "spec": spec}
    table = as_table(kind, [manifest], now=NOW)
    assert table["rows"][0]["cells"] == ["n", *cells, "OK", "", "<unknown>"]
    assert len(table["columnDefinitions"]) == len(columns_of(kind)) == len(cells) + 4


def cells(kind: str, spec: object, status: object) -> list[str]:
    manifest = {"metadata": {"name": "n", "creationTimestamp": ""}, "spec": spec, "status": status}
    return as_table(kind, [manifest], now=NOW)["rows"][0]["cells"][1:-3]  # type: ignore[no-any-return]


def test_the_columns_of_the_gateway_api() -> None:
    """Its Gateway has the kind of Istio's, and other columns."""
    listeners = [
        {"port": 80, "protocol": "HTTP"},
        {"port": 443, "protocol": "HTTPS"},
        {"port": 443, "protocol": "HTTPS"},
    ]
    status = {
        "addresses": [{"value": "10.0.0.1"}, {"value": "10.0.0.2"}],
        "conditions": [{"type": "Programmed", "status": "True"}],
        "listeners": [{"attachedRoutes": 2}, {"attachedRoutes": 1}],
    }
    kind = "Gateway.gateway.networking.k8s.io"
    assert cells(kind, {"gatewayClassName": "gossamer", "listeners": listeners}, status) == [
        "gossamer", "80/HTTP,443/HTTPS", "10.0.0.1,10.0.0.2", "True", "3"
    ]  # fmt: skip
    assert cells(kind, {}, {}) == ["", "", "", "Unknown", "0"]
    parents = [{"name": "g", "namespace": "edge", "sectionName": "http"}, {"name": "h"}]
    said = [
        {"conditions": [{"type": "Accepted", "status": "True"}]},
        {"conditions": [{"type": "Accepted", "status": "False"}, {"type": "ResolvedRefs", "status": "True"}]},
    ]
    for kind in ("HTTPRoute.gateway.networking.k8s.io", "GRPCRoute.gateway.networking.k8s.io"):
        assert cells(kind, {"hostnames": ["a", "b"], "parentRefs": parents}, {"parents": said}) == [
            "a,b", "edge/g/http,h", "1/2"
        ]  # fmt: skip


def test_problems_stand_in_the_status_column() -> None:
    status = {"conditions": [{"type": "Conflict", "status": "True"}, {"type": "Accepted", "status": "True"}]}
    table = as_table("DestinationRule", [{"metadata": {"name": "n"}, "spec": {}, "status": status}], now=NOW)
    assert table["rows"][0]["cells"][2] == "Conflict"


def test_what_is_not_accepted_stands_there_with_its_reason() -> None:
    status = {"conditions": [{"type": "Accepted", "status": "False", "reason": "Unreadable"}]}
    table = as_table("DestinationRule", [{"metadata": {"name": "n"}, "spec": {}, "status": status}], now=NOW)
    assert table["rows"][0]["cells"][2] == "Unreadable"


def test_what_a_row_carries_of_its_object() -> None:
    manifest = {"metadata": {"name": "n"}, "spec": {"host": "a"}}
    assert "object" not in as_table("DestinationRule", [manifest], now=NOW, include="None")["rows"][0]
    assert as_table("DestinationRule", [manifest], now=NOW, include="Object")["rows"][0]["object"] == manifest
