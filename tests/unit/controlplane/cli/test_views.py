"""What the commands over /mesh/v1 print, word for word."""

from datetime import UTC, datetime, timedelta

import pytest

from controlplane.cli.commands import breakers, config_dump, endpoints, events, nodes, proxies, services, status, token
from controlplane.cli.output.terminal import Terminal

PLAIN = Terminal(colour=False)


def stamp(seconds: float) -> str:
    """RFC 3339, so many seconds from now (and a half, so that a slow test does not tip it over)."""
    return (datetime.now(UTC) + timedelta(seconds=seconds + 0.5)).isoformat(timespec="milliseconds")


def type_state(state: str = "synced", **fields: object) -> dict[str, object]:
    return {"state": state, "resources": 3, "error": "", "rejected": [], "waits_for": [], **fields}


def proxy(node: str = "node-1", sync: str = "synced", **types: dict[str, object]) -> dict[str, object]:
    return {
        "node": node, "dialect": "gossamer", "delta": True, "sync": sync, "types": types,
        "connected_since": stamp(-300), "replica": "cp-1",
    }  # fmt: skip


def test_proxies() -> None:
    rejected = type_state("rejected", rejected=[{"name": "outbound|80||a", "reason": "no\nsuch thing"}])
    pending = type_state("pending", waits_for=[{"name": "outbound.default/a", "waits_for": "CDS outbound|80||a"}])
    failed = type_state("rejected", error="all of it")
    found = [
        proxy(CDS=type_state(), RDS=type_state()),
        proxy("node-2", "rejected", CDS=rejected, RDS=pending, LDS=failed),
    ]
    assert proxies.render(found, PLAIN) == (
        "NODE     DIALECT    XDS     SYNC       CDS            LDS            RDS           CONNECTED   REPLICA\n"
        "node-1   gossamer   delta   synced     synced (3)     -              synced (3)    4m          cp-1\n"
        "node-2   gossamer   delta   rejected   rejected (3)   rejected (3)   pending (3)   4m          cp-1\n"
        "rejected  node-2 CDS outbound|80||a: no such thing\n"
        "rejected  node-2 LDS: all of it\n"
        "pending   node-2 RDS outbound.default/a waits for CDS outbound|80||a\n"
    )
    assert proxies.render([], PLAIN) == "no proxy is connected\n"


def test_breakers() -> None:
    row = {
        "name": "web", "namespace": "default", "node": "node-1", "caller": "", "state": "OPEN", "since": stamp(-300),
        "why": "9 of 9 requests failed, 50 % open it", "opened": 2,
    }  # fmt: skip
    own = {**row, "node": "node-2", "caller": "spiffe://cluster.local/ns/shop/sa/cart", "state": "CLOSED", "why": ""}
    assert breakers.render([row, own], PLAIN) == (
        "NAME          NODE     CALLER      STATE    FOR   OPENED   WHY\n"
        "default/web   node-1   -           OPEN     4m    2        9 of 9 requests failed, 50 % open it\n"
        "default/web   node-2   shop/cart   CLOSED   4m    2        -\n"
    )
    assert breakers.render([], PLAIN) == "no node has such a circuit breaker in its routes\n"


def endpoint(address: str = "10.0.0.2:20000", **fields: object) -> dict[str, object]:
    return {
        "service": "reviews.default.svc.cluster.local", "address": address, "node": "node-2", "id": "reviews-1",
        "labels": {"version": "v1"}, "health": "HEALTHY", "health_reason": "", "ejections": [], "warnings": [],
        **fields,
    }  # fmt: skip


def ejection(node: str, **fields: object) -> dict[str, object]:
    return {
        "node": node, "reason": "consecutive_5xx", "detail": "", "times": 1, "enforced": True, "blocked_by": "",
        "until": "2026-01-01T10:20:30.500Z", **fields,
    }  # fmt: skip


def test_endpoints_say_who_ejects_them_why_and_until_when() -> None:
    found = [
        endpoint(),
        endpoint(
            "10.0.0.3:20000", health="UNHEALTHY", health_reason="GET /health answered 503", warnings=["BypassPossible"]
        ),
        endpoint(
            "10.0.0.4:20000",
            ejections=[
                ejection("node-4", detail="5 consecutive 5xx", times=2),
                ejection("node-5", enforced=False, blocked_by="max_ejection_percent"),
            ],
        ),
    ]
    lines = endpoints.render(found, PLAIN).splitlines()
    head = "reviews.default.svc.cluster.local   "
    assert lines[1].startswith(f"{head}10.0.0.2:20000   node-2   reviews-1   v1        HEALTHY     -            -  ")
    assert "UNHEALTHY   -            GET /health answered 503" in lines[2]
    assert lines[2].endswith("BypassPossible")
    assert "node-4       5 consecutive 5xx, 2 times in a row" in lines[3]
    assert "10:20:30Z (in 0s)" in lines[3]
    assert lines[4].startswith(f"{head}10.0.0.4:20000   node-2 ")
    assert "(node-5)     consecutive_5xx; not ejected: max_ejection_percent" in lines[4]
    assert endpoints.render([], PLAIN) == "no endpoint\n"


def service(**fields: object) -> dict[str, object]:
    return {
        "host": "reviews.default.svc.cluster.local", "namespace": "default", "origin": "registration",
        "external": False,
        "definition": "Service default/reviews", "ports": [{"number": 80, "protocol": "HTTP"}],
        "endpoints": {"total": 2, "healthy": 2, "unhealthy": 0, "ejected": 0},
        "virtual_services": ["VirtualService default/reviews"], "destination_rules": [], **fields,
    }  # fmt: skip


def test_services() -> None:
    assert services.render([service()], PLAIN) == (
        "HOST                                NAMESPACE   PORTS     HEALTHY   EJECTED   FROM                      "
        "RULES\n"
        "reviews.default.svc.cluster.local   default     80/HTTP   2/2       0         Service default/reviews   "
        "VirtualService default/reviews\n"
    )
    assert services.render([], PLAIN) == "no service\n"


def test_nodes() -> None:
    node = {
        "name": "node-1", "address": "10.0.0.1", "connected": True, "sync": "synced", "instances": 2,
        "dialect": "gossamer", "version": "0.1.0", "locality": "", "outbound": "127.0.0.1:15001",
    }  # fmt: skip
    away = {**node, "name": "node-2", "connected": False, "sync": "", "locality": "eu/a"}
    assert nodes.render([node, away], PLAIN) == (
        "NAME     ADDRESS    STATE       SYNC     INSTANCES   DIALECT    VERSION   LOCALITY   OUTBOUND\n"
        "node-1   10.0.0.1   connected   synced   2           gossamer   0.1.0     -          127.0.0.1:15001\n"
        "node-2   10.0.0.1   away        -        2           gossamer   0.1.0     eu/a       127.0.0.1:15001\n"
    )
    assert "meshctl token create" in nodes.render([], PLAIN)


def test_events() -> None:
    found = [{"at": stamp(-300), "type": "ProxyConnected", "subject": "node node-1", "message": "envoy"}]
    assert events.render(found, PLAIN) == (
        "AGE   TYPE             SUBJECT       MESSAGE\n4m    ProxyConnected   node node-1   envoy\n"
    )
    assert events.render([], PLAIN) == "no event\n"


def test_tokens() -> None:
    found = [
        {
            "id": "0123456789abcdef", "node": "edge-*", "namespaces": ["a", "b"], "service_accounts": ["*"],
            "uses_left": 3, "expires": stamp(3600 * 5), "created_by": "admin", "redeemed_by": ["edge-1"],
        }
    ]  # fmt: skip
    assert token.render(found, PLAIN) == (
        "ID                 NODE     NAMESPACES   SERVICE ACCOUNTS   USES LEFT   EXPIRES IN   BY      USED BY\n"
        "0123456789abcdef   edge-*   a,b          *                  3           5h           admin   edge-1\n"
    )


def test_config_dump_as_a_table() -> None:
    found = {
        "resources": {
            "CDS": [{"name": "outbound|80||a", "version": "1f", "sources": [{"object": "Service default/a"}]}],
            "SDS": [],
        }
    }
    assert config_dump.render(found) == (
        "TYPE   NAME             VERSION   FROM\nCDS    outbound|80||a   1f        Service default/a\n"
    )
    assert config_dump.render({"resources": {}}) == "no resource\n"


MESH = {
    "ready": {"etcd": "", "synced": ""},
    "objects": {"Service": 1, "VirtualService": 2},
    "nodes": {"total": 2, "connected": 1},
    "proxies": {"total": 3, "synced": 1, "pending": 1, "rejected": 1},
    "endpoints": {"total": 4, "healthy": 3, "unhealthy": 1, "ejected": 1},
    "problems": [{"object": "VirtualService default/a", "type": "Conflict", "message": "older one wins"}],
}
REPLICAS = [
    {"replica": "cp-1", "reachable": True, "revision": 9, "proxies": 3},
    {"replica": "cp-2", "reachable": False, "revision": None, "proxies": None},
]


def test_status_is_one_screen_with_what_needs_attention() -> None:
    unwell = service(host="b.default", endpoints={"total": 2, "healthy": 1, "unhealthy": 1, "ejected": 1})
    pending = proxy("node-2", "pending", CDS=type_state("pending"))
    text = status.render(
        "http://cp:8080", MESH, REPLICAS, [service(), unwell], [proxy(CDS=type_state()), pending], PLAIN
    )
    assert text == (
        "Control plane  http://cp:8080\n"
        "               ready\n"
        "Replicas       cp-1 (revision 9, 3 proxies), cp-2 (no answer)\n"
        "Objects        1 Service, 2 VirtualService\n"
        "Nodes          1/2 connected\n"
        "Proxies        1/3 synced, 1 pending, 1 rejected\n"
        "Services       1/2 healthy\n"
        "Endpoints      3/4 healthy, 1 ejected\n"
        "\n"
        "NEEDS ATTENTION            WHAT          WHY\n"
        "VirtualService default/a   Conflict      older one wins\n"
        "proxy node-2               CDS pending   not acknowledged yet\n"
        "service b.default          Endpoints     1 unhealthy and 1 ejected, of 2\n"
    )


def test_status_of_a_mesh_that_is_well() -> None:
    mesh = {**MESH, "problems": [], "proxies": {"total": 0, "synced": 0, "pending": 0, "rejected": 0}, "objects": {}}
    external = service(external=True, endpoints={"total": 0, "healthy": 0, "unhealthy": 0, "ejected": 0})
    text = status.render("u", mesh, REPLICAS[:1], [external], [], PLAIN)
    assert "Services       1/1 healthy\n" in text
    assert "Proxies        none connected\n" in text
    assert text.endswith("\nno problem found\n")


def test_status_bounds_the_problems_and_says_what_is_not_ready() -> None:
    many = [{"object": f"o{number}", "type": "T", "message": "m"} for number in range(30)]
    text = status.render("u", {**MESH, "problems": many, "ready": {"etcd": "away"}}, [], [], [], PLAIN)
    assert text.endswith("... and 11 more\n")
    assert "               etcd: away\n" in text


@pytest.mark.parametrize(
    ("arguments", "view", "query"),
    [
        (("endpoints", "reviews"), "endpoints", "service=reviews"),
        (("endpoints", "--service", "reviews"), "endpoints", "service=reviews"),
        (("endpoints",), "endpoints", ""),
    ],
)
def test_endpoints_ask_for_one_service(meshctl, server, arguments, view, query) -> None:  # type: ignore[no-untyped-def]
    server.answer("GET", f"/mesh/v1/{view}", {"items": []})
    assert meshctl("--server", server.url, *arguments).code == 0
    assert server.requests[0]["query"] == query


def test_lists_are_filtered_and_printed_as_they_came(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    one, two = proxy("node-1"), proxy("node-2")
    server.answer("GET", "/mesh/v1/proxies", {"items": [one, two]})
    done = meshctl("--server", server.url, "proxies", "node-2", "-o", "yaml")
    assert done.code == 0
    assert "node: node-2" in done.out
    assert "node: node-1" not in done.out


def test_status_of_a_control_plane_that_is_not_ready_finds_a_problem() -> None:
    text = status.render("u", {**MESH, "problems": [], "ready": {"etcd": "away", "gate": ""}}, [], [], [], PLAIN)
    assert "no problem found" not in text
    assert [line.split() for line in text.splitlines() if "not ready" in line] == [
        ["control", "plane", "not", "ready", "etcd:", "away"]
    ]


def test_status_names_what_is_not_accepted_by_its_reason() -> None:
    problem = {"object": "VirtualService default/a", "type": "Accepted", "reason": "Unreadable", "message": "m"}
    text = status.render("u", {**MESH, "problems": [problem]}, [], [], [], PLAIN)
    assert "Unreadable" in text
    assert "Accepted" not in text
