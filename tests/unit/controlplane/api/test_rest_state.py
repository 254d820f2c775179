"""/mesh/v1: what the views show of nodes, services, endpoints, proxies, revisions, and of other replicas."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.openapi import whole_document
from controlplane.api.state_catalog import VIEWS
from controlplane.ca.grants import NodeGrant
from controlplane.compiler.types import Source
from controlplane.distribution.breakers import BreakerRow
from controlplane.distribution.stream_sync import Held, Sent, Span
from controlplane.distribution.traffic import LoadRow
from controlplane.registry.instances import Ejection, Node
from controlplane.store.keys import APPLIES, GRANTS, TOKENS, grant_key, replica_key
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Put
from mesh.vocabulary import Locality, ObjectRef
from mesh.xds import type_url
from tests.support.compiling import instance
from tests.support.plane import Api, api
from tests.support.resources import cluster

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{name: http, port: 80, targetPort: 3001}, {name: also, port: 8080, targetPort: 3001}]
"""
HOST = "reviews.default.svc.cluster.local"
CLUSTER = f"outbound|80|v1|{HOST}"
VS = ObjectRef("networking.istio.io", "VirtualService", "default", "reviews")
EJECTION = Ejection(
    cluster=CLUSTER, endpoint="10.0.0.1:20000", node="node-2", reason="consecutive_5xx", detail="5 in a row", times=2,
    since_ms=1_790_000_000_123, until_ms=1_790_000_030_123, enforced=True,
)  # fmt: skip


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


async def populate(rest: Api) -> int:
    """Two nodes, three instances of reviews, one ejected and one unhealthy."""
    await rest.apply(SERVICE)
    unwell = {"health": "UNHEALTHY", "health_reason": "GET /health answered 503", "health_since_ms": 1_790_000_000_000}
    await rest.plane.put_nodes(
        Node(name="node-1", address="10.0.0.1", locality=Locality("eu", "a", ""), version="0.1"),
        Node(name="node-2", address="10.0.0.2"),
    )
    await rest.plane.put_ejections(EJECTION)
    return await rest.plane.put_instances(
        instance("r-1", service="reviews", version="v1", locality="eu/a"),
        instance("r-2", service="reviews", version="v2", inbound_port=20001, **unwell),
        instance("r-3", service="reviews", node="node-2", address="10.0.0.2", bypass_possible=True),
    )


async def test_endpoints_with_health_and_ejections(rest: Api) -> None:
    await populate(rest)
    items = (await rest.get("/mesh/v1/endpoints?service=reviews"))["items"]
    ejected, unwell, other = items
    assert (ejected["address"], ejected["service"], ejected["ports"]) == ("10.0.0.1:20000", HOST, [80, 8080])
    assert (ejected["node"], ejected["id"], ejected["locality"]) == ("node-1", "r-1", "eu/a")
    assert ejected["identity"] == "spiffe://cluster.local/ns/default/sa/reviews"
    assert ejected["ejections"] == [
        {
            "node": "node-2",
            "cluster": CLUSTER,
            "subset": "v1",
            "reason": "consecutive_5xx",
            "detail": "5 in a row",
            "times": 2,
            "since": "2026-09-21T14:13:20.123Z",
            "until": "2026-09-21T14:13:50.123Z",
            "enforced": True,
            "blocked_by": "",
        }
    ]
    assert (unwell["health"], unwell["health_reason"]) == ("UNHEALTHY", "GET /health answered 503")
    assert unwell["health_since"] == "2026-09-21T14:13:20.000Z"
    assert (other["health"], other["warnings"], other["ejections"]) == ("UNKNOWN", ["BypassPossible"], [])


@pytest.mark.parametrize("word", ["reviews", "reviews.default", "reviews.default.svc", HOST])
async def test_a_service_by_every_name(rest: Api, word: str) -> None:
    await populate(rest)
    assert len((await rest.get(f"/mesh/v1/endpoints?service={word}"))["items"]) == 3


async def test_endpoints_by_node_and_namespace(rest: Api) -> None:
    await populate(rest)
    assert [item["id"] for item in (await rest.get("/mesh/v1/endpoints?node=node-2"))["items"]] == ["r-3"]
    assert (await rest.get("/mesh/v1/endpoints?namespace=other"))["items"] == []
    assert (await rest.get("/mesh/v1/endpoints?service=nothing"))["items"] == []


async def test_services(rest: Api) -> None:
    await populate(rest)
    (found,) = (await rest.get("/mesh/v1/services"))["items"]
    assert (found["host"], found["origin"], found["definition"]) == (HOST, "Service", "Service default/reviews")
    assert found["endpoints"] == {"total": 3, "healthy": 2, "unhealthy": 1, "ejected": 1}
    assert await rest.get(f"/mesh/v1/services/{HOST}") == found
    assert (await rest.get("/mesh/v1/services/reviews", status=404))["reason"] == "NotFound"


async def test_nodes_say_whether_they_are_connected(rest: Api) -> None:
    await populate(rest)
    rest.plane.connect("node-1")
    one, two = (await rest.get("/mesh/v1/nodes"))["items"]
    assert (one["name"], one["connected"], one["sync"], one["instances"]) == ("node-1", True, "pending", 2)
    assert (one["locality"], one["identity"]) == ("eu/a", "spiffe://cluster.local/node/node-1")
    assert (two["connected"], two["sync"]) == (False, "")
    assert await rest.get("/mesh/v1/nodes/node-1") == one
    await rest.get("/mesh/v1/nodes/node-9", status=404)


async def test_proxies_synced_pending_rejected_with_reasons(rest: Api) -> None:
    sync = rest.plane.connect("node-1")
    resource = cluster(CLUSTER, sources=(Source(VS, 1),))
    sync.sent(type_url.CLUSTER, "1", Sent(Span(0, 5), {CLUSTER: resource}, frozenset({CLUSTER})))

    async def state(type_: str) -> Any:
        (item,) = (await rest.get("/mesh/v1/proxies"))["items"]
        return item["types"][type_]

    assert (await state("CDS"))["state"] == "pending"
    sync.nack(type_url.CLUSTER, "1", "no such field", {CLUSTER: "no such field"})
    refused = await state("CDS")
    assert (refused["state"], refused["error"]) == ("rejected", "no such field")
    assert refused["rejected"] == [{"name": CLUSTER, "reason": "no such field"}]
    status = await rest.get("/mesh/v1/status")
    assert status["proxies"] == {"total": 1, "synced": 0, "pending": 0, "rejected": 1}
    assert [(item["object"], item["type"]) for item in status["problems"]] == [(str(VS), "Rejected")]

    sync.sent(type_url.CLUSTER, "2", Sent(Span(5, 6), {CLUSTER: resource}, frozenset({CLUSTER})))
    sync.ack(type_url.CLUSTER, "2", "6")
    accepted = await state("CDS")
    assert (accepted["state"], accepted["resources"], accepted["version"], accepted["revision"]) == (
        "synced",
        1,
        "6",
        6,
    )
    sync.of(type_url.VIRTUAL_HOST).held = {"a": Held(Span(5, 6), f"EDS {CLUSTER}")}
    held = await state("VHDS")
    assert (held["state"], held["waits_for"]) == ("pending", [{"name": "a", "waits_for": f"EDS {CLUSTER}"}])

    (item,) = (await rest.get("/mesh/v1/proxies/node-1"))["items"]
    assert (item["dialect"], item["replica"], item["delta"]) == ("gossamer", "cp-1", True)
    assert item["connected_since"] == "2026-09-21T14:13:20.000Z"
    await rest.get("/mesh/v1/proxies/node-9", status=404)


async def test_a_config_dump_is_what_the_proxy_is_to_have(rest: Api) -> None:
    await populate(rest)
    rest.plane.connect("node-1")
    dump = await rest.get("/mesh/v1/proxies/node-1/config_dump")
    assert set(dump["resources"]) == {"CDS", "EDS", "LDS", "RDS", "VHDS", "SDS"}
    found = next(item for item in dump["resources"]["CDS"] if item["name"] == f"outbound|80||{HOST}")
    assert found["resource"]["type"] == "EDS"
    assert found["sources"] == [{"object": "Service default/reviews", "generation": 1}]
    listener = dump["resources"]["LDS"][0]["resource"]
    assert "@type" in json.dumps(listener)
    one = await rest.get(f"/mesh/v1/proxies/node-1/config_dump?type=cds&name=outbound%7C80%7C%7C{HOST}")
    assert one["resources"] == {"CDS": [found]}
    await rest.get("/mesh/v1/proxies/node-9/config_dump", status=404)
    assert "VHDS" in (await rest.get("/mesh/v1/proxies/node-1/config_dump?type=XDS", status=400))["message"]


async def test_a_revision_is_acked_pending_or_rejected(rest: Api) -> None:
    one, two = rest.plane.connect("node-1"), rest.plane.connect("node-2")
    revision = (await rest.apply(SERVICE))["revision"]
    path = f"/mesh/v1/revisions/{revision}"
    found = await rest.get(path)
    assert (found["published"], found["settled"], found["pending"]) == (True, False, ["node-1", "node-2"])

    sent = Sent(one.take_queued(Span(0, 0)), {CLUSTER: cluster(CLUSTER)}, frozenset({CLUSTER}))
    one.sent(type_url.CLUSTER, "1", sent)
    one.nack(type_url.CLUSTER, "1", "no", {CLUSTER: "no"})
    found = await rest.get(path)
    assert found["rejected"] == [{"node": "node-1", "reasons": [{"name": CLUSTER, "reason": "no"}]}]

    waiting = asyncio.ensure_future(rest.get(f"{path}?wait=10s"))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    two.take_queued(Span(0, 0))
    done = await waiting
    assert (done["settled"], done["acked"], done["pending"]) == (True, ["node-2"], [])
    assert not (await rest.get(f"/mesh/v1/revisions/{revision + 1000}?wait=20ms"))["published"]


async def test_traffic_of_the_last_minute(rest: Api) -> None:
    from mesh.clock import SystemClock

    for node, failed in (("node-1", 0), ("node-2", 10)):
        row = LoadRow(
            cluster=CLUSTER, locality=Locality("eu"), interval_s=5.0, issued=50, succeeded=50 - failed, failed=failed,
            in_progress=1,
        )  # fmt: skip
        rest.plane.traffic.record(node, row, SystemClock().monotonic())
    (found,) = (await rest.get("/mesh/v1/traffic"))["items"]
    assert (found["service"], found["port"], found["subset"], found["locality"]) == (HOST, 80, "v1", "eu")
    assert (found["reporters"], found["requests_per_s"], found["errors_per_s"]) == (2, 20.0, 2.0)
    assert (found["success_ratio"], found["in_progress"]) == (0.9, 2)


BREAKER = BreakerRow(
    node="node-1", breaker="default/web", caller="", state="OPEN", since_ms=1_790_000_000_500, why="9 of 9", opened=1
)


async def test_circuit_breakers_of_all_nodes(rest: Api) -> None:
    states = (("n2", "default/web", "OPEN"), ("n1", "default/web", "CLOSED"), ("n1", "shop/cart", "OPEN"))
    rows = [
        replace(BREAKER, node=node, breaker=name, state=state)
        for node, name, state in states
    ]  # fmt: skip
    for node in ("n1", "n2"):
        rest.plane.breakers.report(node, [row for row in rows if row.node == node])
    found = (await rest.get("/mesh/v1/circuit_breakers"))["items"]
    assert [(item["namespace"], item["name"], item["node"]) for item in found] == [
        ("default", "web", "n1"), ("default", "web", "n2"), ("shop", "cart", "n1"),
    ]  # fmt: skip
    assert found[1] == {
        "name": "web", "namespace": "default", "node": "n2", "caller": "", "state": "OPEN",
        "since": "2026-09-21T14:13:20.500Z", "why": "9 of 9", "opened": 1,
    }  # fmt: skip
    for query, nodes in (("breaker=web", ["n1", "n2"]), ("breaker=shop/cart", ["n1"]), ("breaker=web&node=n2", ["n2"])):
        items = (await rest.get(f"/mesh/v1/circuit_breakers?{query}"))["items"]
        assert [item["node"] for item in items] == nodes


async def test_events_history_certificates(rest: Api) -> None:
    await populate(rest)
    rest.plane.events.add(1_790_000_000.5, "ProxyConnected", "node node-1", "hello")
    (event,) = (await rest.get("/mesh/v1/events"))["items"]
    assert event == {
        "at": "2026-09-21T14:13:20.500Z", "type": "ProxyConnected", "subject": "node node-1", "message": "hello",
        "replica": "cp-1",
    }  # fmt: skip
    grant = NodeGrant(node="node-1", namespaces=("default",), service_accounts=("*",), token_id="t", joined_ms=1000)
    await rest.plane.write(Put(grant_key("node-1"), grant.encode()))
    found = await rest.get("/mesh/v1/certificates")
    assert [root["fingerprint_sha256"] for root in found["roots"]] == [rest.authority.root_fingerprint]
    assert found["identities"] == [
        {"identity": "spiffe://cluster.local/ns/default/sa/reviews",
         "instances": ["node-1/r-1", "node-1/r-2", "node-2/r-3"]},
    ]  # fmt: skip
    assert found["grants"][0]["joined"] == "1970-01-01T00:00:01.000Z"
    assert "PRIVATE" not in json.dumps(found)
    async with rest.client.get("/mesh/v1/certificates/bundle") as response:
        assert await response.read() == rest.authority.trust_bundle_pem


async def test_status_at_a_glance(rest: Api) -> None:
    await populate(rest)
    rest.plane.ready["etcd"] = "the store does not answer"
    found = await rest.get("/mesh/v1/status")
    assert found["ready"]["etcd"] == "the store does not answer"
    assert (found["nodes"], found["services"]) == ({"total": 2, "connected": 0}, 1)
    assert found["endpoints"] == {"total": 3, "healthy": 2, "unhealthy": 1, "ejected": 1}
    assert found["objects"] == {"Service": 1}
    assert found["mesh"]["trust_domain"] == "cluster.local"


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("endpoints?servce=a", "did you mean service?"),
        ("nodes?x=1", "known: none"),
        ("revisions/x", "expected a revision"),
        ("revisions/5?wait=soon", "expected a duration"),
    ],
)
async def test_bad_questions_are_refused(rest: Api, path: str, word: str) -> None:
    assert word in (await rest.get(f"/mesh/v1/{path}", status=400))["message"]


async def test_the_index_names_every_view(rest: Api) -> None:
    found = await rest.get("/mesh/v1")
    assert set(found["views"]) == {f"/mesh/v1/{view.path}" for view in VIEWS.values()}


async def test_views_are_yaml_when_asked(rest: Api) -> None:
    async with rest.client.get("/mesh/v1/nodes", headers={"Accept": "application/yaml"}) as response:
        assert await response.text() == "items: []\npartial: false\n"


# --- several replicas


async def two_replicas(stack: AsyncExitStack, tmp_path: Path) -> tuple[Api, Api]:
    store = MemoryStore()
    made = []
    for name in ("cp-1", "cp-2"):
        replica = await stack.enter_async_context(api(tmp_path, name=name, store=store))
        address = f"127.0.0.1:{replica.client.server.port}"
        await replica.plane.write(Put(replica_key(name), json.dumps({"rest": address, "startedAt": 1}).encode()))
        made.append(replica)
    await made[0].plane.published((await store.list("/")).revision)
    return made[0], made[1]


async def test_replicas_answer_for_each_other(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await two_replicas(stack, tmp_path)
        one.plane.connect("node-1")
        elsewhere = two.plane.connect("node-2")
        revision = await populate(one)
        await two.plane.published(revision)
        found = await one.get("/mesh/v1/proxies")
        assert [(item["node"], item["replica"]) for item in found["items"]] == [("node-1", "cp-1"), ("node-2", "cp-2")]
        assert found["partial"] is False
        assert {item["connected"] for item in (await one.get("/mesh/v1/nodes"))["items"]} == {True}
        dump = await one.get("/mesh/v1/proxies/node-2/config_dump?type=LDS")
        assert (dump["node"], dump["replica"]) == ("node-2", "cp-2")
        path = f"/mesh/v1/revisions/{revision}"
        assert (await one.get(path))["pending"] == ["node-1", "node-2"]
        one.plane.syncs[1].take_queued(Span(0, 0))
        waiting = asyncio.ensure_future(one.get(f"{path}?wait=10s"))
        await asyncio.sleep(0.05)
        elsewhere.take_queued(Span(0, 0))
        assert (await waiting)["acked"] == ["node-1", "node-2"]
        replicas = (await one.get("/mesh/v1/replicas"))["items"]
        assert [(item["replica"], item["here"], item["reachable"], item["proxies"]) for item in replicas] == [
            ("cp-1", True, True, 1),
            ("cp-2", False, True, 1),
        ]
        one.plane.events.add(2.0, "A", "s", "")
        two.plane.events.add(1.0, "B", "s", "")
        assert [item["type"] for item in (await one.get("/mesh/v1/events"))["items"]] == ["B", "A"]


async def test_a_silent_replica_makes_the_answer_partial(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        one, two = await two_replicas(stack, tmp_path)
        one.plane.connect("node-1")
        await two.client.close()
        found = await one.get("/mesh/v1/proxies")
        assert [item["node"] for item in found["items"]] == ["node-1"]
        assert found["partial"] is True
        assert [item["replica"] for item in found["silent"]] == ["cp-2"]
        assert (await one.get("/mesh/v1/revisions/1"))["partial"] is True
        missing = await one.get("/mesh/v1/proxies/node-2", status=404)
        assert "silent: cp-2" in missing["message"]
        silent = (await one.get("/mesh/v1/replicas"))["items"][1]
        assert (silent["replica"], silent["reachable"], silent["proxies"]) == ("cp-2", False, None)


# --- the documentation says what is answered


def shape_of(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def assert_fits(value: Any, schema: dict[str, Any], document: dict[str, Any], where: str) -> None:
    """Every field that is answered is documented, and the reverse."""
    schema = shape_of(schema, document)
    if isinstance(value, dict) and "properties" in schema:
        required = set(schema.get("required", ()))
        assert required <= value.keys(), f"{where}: {required - value.keys()} missing"
        extra = value.keys() - schema["properties"].keys() - {"partial", "silent"}
        assert not extra, f"{where}: {extra} undocumented"
        for name, item in value.items():
            if name in schema["properties"]:
                assert_fits(item, schema["properties"][name], document, f"{where}.{name}")
    elif isinstance(value, list) and "items" in schema:
        for item in value:
            assert_fits(item, schema["items"], document, f"{where}[]")
    elif value is not None and "enum" in schema:
        assert value in schema["enum"], f"{where}: {value}"


async def test_every_answer_is_as_documented(rest: Api) -> None:
    await populate(rest)
    rest.plane.connect("node-1")
    rest.plane.events.add(1.0, "A", "s", "m")
    rest.plane.breakers.report("node-1", [BREAKER])
    await rest.plane.write(Put(replica_key("cp-1"), b'{"rest":"127.0.0.1:1"}'))
    token = await rest.call("POST", "/mesh/v1/tokens", {"node": "n"}, status=201)
    assert token["token"]
    document = json.loads(json.dumps(whole_document("1")))
    recorded = (await rest.get("/mesh/v1/history"))["items"][0]["revision"]
    staged = SERVICE.replace("reviews", "staged")
    begun = await rest.call("POST", "/mesh/v1/rollouts?stages=100%25", staged, status=201)
    operation = document["paths"]["/mesh/v1/rollouts"]["post"]["responses"]["201"]["content"]["application/json"]
    assert_fits(begun, operation["schema"], document, "begun rollout")
    for method, code in (("POST", "201"), ("DELETE", "200"), ("POST", "201")):
        rotation = await rest.call(method, "/mesh/v1/certificates/rotation", status=int(code))
        operation = document["paths"]["/mesh/v1/certificates/rotation"][method.lower()]["responses"][code]["content"]
        assert_fits(rotation, operation["application/json"]["schema"], document, "rotation")
    values = {"node": "node-1", "host": HOST, "revision": str(recorded), "id": begun["rollout"]["id"]}
    for view in VIEWS.values():
        path = f"/mesh/v1/{view.path}"
        answer = await rest.get(path.format(**values))
        assert not view.listed or answer["items"] or view.name == "traffic", view.name
        schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert_fits(answer, schema, document, view.name)
    for path, body, outcome in (
        ("/mesh/v1/batch", SERVICE, "acknowledged"),
        ("/mesh/v1/diff", SERVICE.replace("reviews", "other"), ""),
        ("/mesh/v1/delete", SERVICE, "timeout"),
        ("/mesh/v1/rollback", {"revision": recorded}, "timeout"),
    ):
        status = 202 if outcome == "timeout" else 200
        answer = await rest.call("POST", f"{path}?wait=10ms", body, status=status)
        assert answer.get("wait", {}).get("outcome", "") == outcome
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert_fits(answer, schema, document, path)


@pytest.mark.parametrize(
    ("prefix", "path", "items"), [(APPLIES, "history", 1), (GRANTS, "certificates", 0), (TOKENS, "tokens", 1)]
)
async def test_a_damaged_record_hides_no_other(
    rest: Api, prefix: str, path: str, items: int, caplog: pytest.LogCaptureFixture
) -> None:
    await rest.apply(SERVICE)
    await rest.call("POST", "/mesh/v1/tokens", {"node": "n"}, status=201)
    await rest.plane.store.transact([], [Put(prefix + "zz", b"{")])
    found = await rest.get(f"/mesh/v1/{path}")
    assert len(found.get("items", found.get("grants"))) == items
    assert "cannot be read" in caplog.text
