"""Objects over HTTP as Kubernetes has them: items, lists, patches, preconditions, dry run, tables."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.api.view import Limits
from controlplane.store.keys import ObjectKey
from controlplane.store.protocol import Put
from tests.support.plane import MERGE, OBJECTS, TABLE, Api, api, virtual_service

STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
ITEM = f"{OBJECTS}/virtualservices/a"


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "a"},
    "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}], "selector": {"app": "a"}},
}


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


async def create(rest: Api, manifest: dict[str, Any] | None = None) -> Any:
    return await rest.call("POST", f"{OBJECTS}/virtualservices", manifest or virtual_service(), status=201)


async def test_create_read_replace_delete(rest: Api) -> None:
    made = await create(rest)
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["uid"]
    assert made["metadata"]["creationTimestamp"].endswith("Z")
    found = await rest.get(ITEM)
    assert found == {**made, "metadata": found["metadata"]}
    assert found["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]

    found["spec"]["hosts"] = ["b"]
    replaced = await rest.call("PUT", ITEM, found)
    assert replaced["metadata"]["generation"] == 2
    assert replaced["metadata"]["uid"] == made["metadata"]["uid"]
    assert replaced["metadata"]["creationTimestamp"] == made["metadata"]["creationTimestamp"]

    gone = await rest.call("DELETE", ITEM)
    assert (gone["status"], gone["details"]["uid"]) == ("Success", made["metadata"]["uid"])
    missing = await rest.get(ITEM, status=404)
    assert missing["reason"] == "NotFound"
    assert (await rest.call("DELETE", ITEM, status=404))["reason"] == "NotFound"


async def test_a_write_says_its_revision(rest: Api) -> None:
    async with rest.client.post(f"{OBJECTS}/virtualservices", json=virtual_service()) as response:
        revision = int(response.headers["Gossamer-Revision"])
    assert (await rest.get(f"/mesh/v1/revisions/{revision}?wait=5s"))["published"]


async def test_a_label_is_no_new_generation_and_equal_is_unchanged(rest: Api) -> None:
    made = await create(rest)
    labelled = await rest.call("PATCH", ITEM, {"metadata": {"labels": {"x": "y"}}}, headers=MERGE)
    assert labelled["metadata"]["generation"] == 1
    again = await rest.call("PATCH", ITEM, {"metadata": {"labels": {"x": "y"}}}, headers=MERGE)
    assert again["metadata"]["resourceVersion"] == labelled["metadata"]["resourceVersion"]
    assert labelled["metadata"]["resourceVersion"] > made["metadata"]["resourceVersion"]


async def test_create_twice_is_already_exists(rest: Api) -> None:
    await create(rest)
    answer = await rest.call("POST", f"{OBJECTS}/virtualservices", virtual_service(), status=409)
    assert (answer["reason"], answer["code"]) == ("AlreadyExists", 409)


async def test_an_old_resource_version_is_a_conflict(rest: Api) -> None:
    made = await create(rest)
    await rest.call("PUT", ITEM, virtual_service(host="b"))
    stale = {**virtual_service(host="c"), "metadata": made["metadata"]}
    assert (await rest.call("PUT", ITEM, stale, status=409))["reason"] == "Conflict"
    assert (await rest.get(ITEM))["spec"]["hosts"] == ["b"]
    preconditions = {"preconditions": {"resourceVersion": made["metadata"]["resourceVersion"]}}
    assert (await rest.call("DELETE", ITEM, preconditions, status=409))["reason"] == "Conflict"
    assert (await rest.call("DELETE", ITEM, {"preconditions": {"uid": "other"}}, status=409))["reason"] == "Conflict"


async def test_a_status_write_is_never_a_conflict(rest: Api) -> None:
    """Decision 17: resourceVersion counts status keys, the comparison only the object's own key."""
    await create(rest)
    key = ObjectKey("networking.istio.io", "virtualservices", "default", "a").status_key("cp-1")
    condition = {"type": "Conflict", "status": "True", "reason": "r", "message": "m"}
    value = json.dumps({"observedGeneration": 1, "conditions": [condition]}).encode()
    revision = await rest.plane.write(Put(key, value))
    found = await rest.get(ITEM)
    assert found["metadata"]["resourceVersion"] == str(revision)
    assert found["status"]["conditions"] == [condition]
    await rest.plane.write(Put(key, value.replace(b'"m"', b'"n"')))
    found["spec"]["hosts"] = ["b"]
    assert (await rest.call("PUT", ITEM, found))["spec"]["hosts"] == ["b"]


async def test_recreating_what_was_deleted_meanwhile_is_a_conflict(rest: Api) -> None:
    made = await create(rest)
    await rest.call("DELETE", ITEM)
    stale = {**virtual_service(), "metadata": made["metadata"]}
    assert (await rest.call("POST", f"{OBJECTS}/virtualservices", stale, status=409))["reason"] == "Conflict"
    assert (await rest.call("PUT", ITEM, virtual_service(), status=404))["reason"] == "NotFound"


async def test_concurrent_patches_all_count(rest: Api) -> None:
    await create(rest)
    bodies = [{"metadata": {"labels": {f"k{index}": "v"}}} for index in range(6)]
    await asyncio.gather(*(rest.call("PATCH", ITEM, body, headers=MERGE) for body in bodies))
    assert set((await rest.get(ITEM))["metadata"]["labels"]) == {f"k{index}" for index in range(6)}


async def test_patches_of_each_kind(rest: Api) -> None:
    await create(rest)
    merged = await rest.call("PATCH", ITEM, {"spec": {"hosts": ["b"], "gateways": ["mesh"]}}, headers=MERGE)
    assert (merged["spec"]["hosts"], merged["spec"]["gateways"]) == (["b"], ["mesh"])
    removed = await rest.call("PATCH", ITEM, {"spec": {"gateways": None}}, headers=MERGE)
    assert "gateways" not in removed["spec"]
    steps = [
        {"op": "test", "path": "/spec/hosts/0", "value": "b"},
        {"op": "replace", "path": "/spec/hosts/0", "value": "c"},
    ]
    assert (await rest.call("PATCH", ITEM, steps, headers=JSON_PATCH))["spec"]["hosts"] == ["c"]
    refused = await rest.call("PATCH", ITEM, steps, headers=JSON_PATCH, status=422)
    assert "cannot be applied" in refused["message"]

    await rest.call("POST", "/api/v1/namespaces/default/services", SERVICE, status=201)
    patch = {"spec": {"ports": [{"port": 81, "name": "ops"}], "selector": {"tier": "x"}}}
    done = await rest.call("PATCH", "/api/v1/namespaces/default/services/a", patch, headers=STRATEGIC)
    assert [(port["port"], port["name"]) for port in done["spec"]["ports"]] == [(80, "http"), (81, "ops")]
    assert done["spec"]["selector"] == {"app": "a", "tier": "x"}


async def test_patches_that_are_none(rest: Api) -> None:
    await create(rest)
    assert (await rest.call("PATCH", ITEM, {"spec": {}}, headers={"Content-Type": "text/plain"}, status=415))[
        "code"
    ] == 415
    assert (await rest.call("PATCH", ITEM, [1], headers=MERGE, status=400))["reason"] == "BadRequest"
    renamed = await rest.call("PATCH", ITEM, {"metadata": {"name": "b"}}, headers=MERGE, status=400)
    assert "identity" in renamed["message"]
    missing = await rest.call("PATCH", f"{OBJECTS}/virtualservices/x", {}, headers=MERGE, status=404)
    assert missing["reason"] == "NotFound"


async def test_an_invalid_object_names_the_field_and_changes_nothing(rest: Api) -> None:
    bad = virtual_service()
    bad["spec"]["http"][0]["route"][0]["weight"] = -1
    answer = await rest.call("POST", f"{OBJECTS}/virtualservices", bad, status=422)
    assert (answer["reason"], answer["details"]["name"]) == ("Invalid", "a")
    (cause,) = answer["details"]["causes"]
    assert cause["field"] == "spec.http[0].route[0].weight"
    assert (await rest.get(f"{OBJECTS}/virtualservices"))["items"] == []
    await create(rest)
    patch = {"spec": {"http": [{"route": [{"destination": {"host": "a"}, "weight": -1}]}]}}
    assert (await rest.call("PATCH", ITEM, patch, headers=MERGE, status=422))["details"]["causes"] == [cause]
    assert (await rest.get(ITEM))["metadata"]["generation"] == 1


async def test_unknown_fields_by_field_validation(rest: Api) -> None:
    bad = virtual_service()
    bad["spec"]["htp"] = []
    path = f"{OBJECTS}/virtualservices"
    answer = await rest.call("POST", path, bad, status=422)
    assert "did you mean http?" in answer["message"]
    async with rest.client.post(f"{path}?fieldValidation=Warn", json=bad) as response:
        assert response.status == 201
        assert "htp" in response.headers["Warning"]
        assert "htp" not in (await response.json())["spec"]
    assert (await rest.call("POST", f"{path}?fieldValidation=Maybe", bad, status=400))["reason"] == "BadRequest"


async def test_body_and_path_must_agree(rest: Api) -> None:
    path = f"{OBJECTS}/virtualservices"
    for manifest, word in (
        ({**virtual_service(), "kind": "DestinationRule"}, "kind"),
        ({**virtual_service(), "apiVersion": "v2"}, "apiVersion"),
        (virtual_service(namespace="other"), "metadata.namespace"),
    ):
        assert word in (await rest.call("POST", path, manifest, status=400))["message"]
    await create(rest)
    assert "metadata.name" in (await rest.call("PUT", ITEM, virtual_service("b"), status=400))["message"]


@pytest.mark.parametrize("body", ["", "{", "- 1", "a: b: c", "1", "a: 1\n---\nb: 2"])
async def test_a_body_that_is_no_object(rest: Api, body: str) -> None:
    answer = await rest.call("POST", f"{OBJECTS}/virtualservices", body, status=400)
    assert answer["reason"] == "BadRequest"


async def test_a_body_that_is_too_large(tmp_path: Path) -> None:
    async with api(tmp_path, limits=Limits(body_bytes=1000)) as rest:
        answer = await rest.call("POST", f"{OBJECTS}/virtualservices", "x" * 2000, status=413)
        assert answer["reason"] == "RequestEntityTooLarge"


async def test_yaml_in_and_out(rest: Api) -> None:
    text = yaml.safe_dump(virtual_service())
    await rest.call("POST", f"{OBJECTS}/virtualservices", text, status=201)
    async with rest.client.get(ITEM, headers={"Accept": "application/yaml"}) as response:
        assert response.content_type == "application/yaml"
        assert yaml.safe_load(await response.text())["spec"]["hosts"] == ["a"]


async def test_every_version_is_the_same_object(rest: Api) -> None:
    old = {**virtual_service(), "apiVersion": "networking.istio.io/v1alpha3"}
    path = OBJECTS.replace("/v1/", "/v1alpha3/")
    made = await rest.call("POST", f"{path}/virtualservices", old, status=201)
    assert made["apiVersion"] == "networking.istio.io/v1alpha3"
    assert (await rest.get(ITEM))["apiVersion"] == "networking.istio.io/v1"
    beta = await rest.get(OBJECTS.replace("/v1/", "/v1beta1/") + "/virtualservices")
    assert [item["apiVersion"] for item in beta["items"]] == ["networking.istio.io/v1beta1"]
    stored = await rest.plane.store.list("/gossamer/v1/obj/networking.istio.io/")
    assert json.loads(stored.entries[0].value)["apiVersion"] == "networking.istio.io/v1"


async def test_dry_run_answers_and_stores_nothing(rest: Api) -> None:
    made = await rest.call("POST", f"{OBJECTS}/virtualservices?dryRun=All", virtual_service(), status=201)
    assert made["metadata"]["uid"]
    await rest.get(ITEM, status=404)
    await create(rest)
    changed = await rest.call("PATCH", f"{ITEM}?dryRun=All", {"spec": {"hosts": ["b"]}}, headers=MERGE)
    assert changed["metadata"]["generation"] == 2
    assert (await rest.call("DELETE", ITEM, {"dryRun": ["All"]}))["status"] == "Success"
    assert (await rest.get(ITEM))["spec"]["hosts"] == ["a"]
    assert (await rest.call("DELETE", f"{ITEM}?dryRun=Some", status=400))["reason"] == "BadRequest"


async def test_lists_by_namespace_selector_and_page(rest: Api) -> None:
    for namespace in ("one", "two"):
        for name in ("a", "b", "c"):
            labels = {"app": name, "ns": namespace}
            path = f"/apis/networking.istio.io/v1/namespaces/{namespace}/virtualservices"
            await rest.call("POST", path, virtual_service(name, labels=labels), status=201)
    everywhere = "/apis/networking.istio.io/v1/virtualservices"

    async def names(query: str) -> list[str]:
        found = await rest.get(everywhere + query)
        return [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in found["items"]]

    assert len(await names("")) == 6
    assert await names("?labelSelector=app=a") == ["one/a", "two/a"]
    assert await names("?labelSelector=app%20in%20(a,b),ns!=one") == ["two/a", "two/b"]
    assert await names("?labelSelector=!app") == []
    assert await names("?fieldSelector=metadata.name=b,metadata.namespace=one") == ["one/b"]
    assert len((await rest.get(everywhere.replace("/v1/", "/v1/namespaces/one/")))["items"]) == 3
    assert "labelSelector" in (await rest.get(f"{everywhere}?labelSelector=a%3D%3D%3Db", status=400))["message"]

    first = await rest.get(f"{everywhere}?limit=4")
    assert first["metadata"]["remainingItemCount"] == 2
    await rest.call("DELETE", "/apis/networking.istio.io/v1/namespaces/two/virtualservices/c")
    rest_of_it = await rest.get(f"{everywhere}?limit=4&continue={first['metadata']['continue']}")
    assert [item["metadata"]["name"] for item in rest_of_it["items"]] == ["b", "c"], "as of the first page's revision"
    assert rest_of_it["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert "continue" not in rest_of_it["metadata"]
    rest.plane.store.compact()
    expired = await rest.get(f"{everywhere}?limit=4&continue={first['metadata']['continue']}", status=410)
    assert expired["reason"] == "Expired"
    assert (await rest.get(f"{everywhere}?continue=x", status=400))["reason"] == "BadRequest"


async def test_tables(rest: Api) -> None:
    await create(rest)
    table = await rest.get(f"{OBJECTS}/virtualservices", Accept=TABLE)
    names = [column["name"] for column in table["columnDefinitions"]]
    assert names == ["Name", "Gateways", "Hosts", "Status", "Proxies", "Age"]
    assert [column["name"] for column in table["columnDefinitions"] if column["priority"]] == ["Proxies"]
    (row,) = table["rows"]
    assert row["cells"][:4] == ["a", "", "a", "OK"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    one = await rest.get(f"{ITEM}?includeObject=Object", Accept=TABLE)
    assert one["rows"][0]["object"]["spec"]["hosts"] == ["a"]


async def test_a_write_warns_of_what_the_mesh_finds(rest: Api) -> None:
    """Decision 4: the loser of two VirtualServices for one host is accepted with a warning."""
    await rest.apply(yaml.safe_dump(SERVICE))
    await rest.apply(yaml.safe_dump(virtual_service("a")))
    async with rest.client.post(f"{OBJECTS}/virtualservices", json=virtual_service("b")) as response:
        assert response.status == 201
        assert "Conflict" in response.headers["Warning"]
        assert "VirtualService default/a" in response.headers["Warning"]


@pytest.mark.parametrize(
    "path",
    [
        "/apis/networking.istio.io/v1/namespaces/default/sidecars",
        "/apis/networking.istio.io/v9/namespaces/default/virtualservices",
        "/apis/example.com/v1/things",
        "/api/v1/pods",
        "/apis/networking.istio.io/v1/virtualservices/a",
        "/api/v1/namespaces/default/namespaces",
    ],
)
async def test_what_is_not_served(rest: Api, path: str) -> None:
    answer = await rest.get(path, status=404)
    assert (answer["kind"], answer["reason"]) == ("Status", "NotFound")


async def test_a_kind_without_namespace(rest: Api) -> None:
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    await rest.call("POST", "/api/v1/namespaces", manifest, status=201)
    assert (await rest.get("/api/v1/namespaces/shop"))["metadata"].get("namespace") is None
    assert len((await rest.get("/api/v1/namespaces"))["items"]) == 1
    await rest.call("DELETE", "/api/v1/namespaces/shop")


async def test_a_method_that_is_not_allowed(rest: Api) -> None:
    answer = await rest.call("PUT", f"{OBJECTS}/virtualservices", {}, status=405)
    assert answer["reason"] == "MethodNotAllowed"


@pytest.mark.parametrize("value", [b"{", b"[]", b'{"apiVersion":"networking.istio.io/v7","kind":"X","metadata":{}}'])
async def test_a_stored_value_that_cannot_be_read_can_be_seen_replaced_and_deleted(rest: Api, value: bytes) -> None:
    key = ObjectKey("networking.istio.io", "virtualservices", "default", "a").object_key()
    await rest.plane.write(Put(key, value))
    (listed,) = (await rest.get(f"{OBJECTS}/virtualservices"))["items"]
    assert (listed["kind"], listed["metadata"]["name"]) == ("VirtualService", "a")
    problems = (await rest.get("/mesh/v1/status"))["problems"]
    assert [(item["object"], item["reason"]) for item in problems] == [("VirtualService default/a", "Unreadable")]
    assert (await rest.call("DELETE", ITEM))["status"] == "Success"
    await rest.plane.write(Put(key, value))
    done = await rest.apply(json.dumps(virtual_service()))
    assert [item["action"] for item in done["results"]] == ["configured"]
    assert (await rest.get(ITEM))["spec"]["hosts"] == ["a"]
    problems = (await rest.get("/mesh/v1/status"))["problems"]
    assert "Unreadable" not in [item["reason"] for item in problems]


@pytest.mark.parametrize(
    "wrong",
    [
        {"spec": {"ports": 5}},
        {"spec": {"ports": [5]}},
        {"spec": {"selector": 5}},
        {"spec": 5},
        {"metadata": {"name": "a", "namespace": "default", "labels": 5}},
        {"metadata": {"name": 5}},
    ],
)
async def test_a_service_written_past_admission_breaks_no_list(rest: Api, wrong: dict[str, Any]) -> None:
    stored = {**SERVICE, "metadata": {"name": "a", "namespace": "default"}, **wrong}
    key = ObjectKey("", "services", "default", "a").object_key()
    await rest.call("POST", "/api/v1/namespaces/default/services", {**SERVICE, "metadata": {"name": "b"}}, status=201)
    await rest.plane.write(Put(key, json.dumps(stored).encode()))
    services = "/api/v1/namespaces/default/services"
    assert [item["metadata"]["name"] for item in (await rest.get(services))["items"]] == ["a", "b"]
    await rest.get(f"{services}?labelSelector=app%3Da")
    table = await rest.get(services, Accept=TABLE)
    assert [row["cells"][0] for row in table["rows"]] == ["a", "b"]
    assert (await rest.get(f"{services}/a", Accept=TABLE))["rows"][0]["cells"][0] == "a"
    problems = (await rest.get("/mesh/v1/status"))["problems"]
    assert ("Service default/a", "Unreadable") in [(item["object"], item["reason"]) for item in problems]
    hosts = [item["host"] for item in (await rest.get("/mesh/v1/services"))["items"]]
    assert "a.default.svc.cluster.local" not in hosts, "it is left out of the mesh"


async def test_a_browser_gets_json_that_can_be_read(rest: Api) -> None:
    await create(rest)
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    for path in (ITEM, "/mesh/v1/status"):
        async with rest.client.get(path, headers={"Accept": browser}) as response:
            pretty = await response.text()
        async with rest.client.get(path) as response:
            compact = await response.text()
        assert pretty.startswith('{\n  "')
        assert "\n" not in compact
        assert json.loads(pretty).keys() == json.loads(compact).keys()


async def test_a_store_that_is_away(rest: Api) -> None:
    await rest.plane.store.close()
    async with rest.client.get(ITEM) as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "1"
        assert (await response.json())["reason"] == "ServiceUnavailable"


async def test_kinds_of_one_name_in_two_groups_are_two_kinds(rest: Api) -> None:
    """Gateway of Istio and of the Gateway API, of one name in one namespace: objects, columns, history, counts."""
    api_group = "gateway.networking.k8s.io"
    path = f"/apis/{api_group}/v1/namespaces/default/gateways"
    server = {"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    listener = {"name": "http", "port": 81, "protocol": "HTTP"}
    istio = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g"},
             "spec": {"selector": {"a": "b"}, "servers": [server]}}  # fmt: skip
    other = {"apiVersion": f"{api_group}/v1beta1", "kind": "Gateway", "metadata": {"name": "g"},
             "spec": {"gatewayClassName": "gossamer", "listeners": [listener]}}  # fmt: skip
    await rest.call("POST", f"{OBJECTS}/gateways", istio, status=201)
    await rest.call("POST", path, {**other, "apiVersion": f"{api_group}/v1"}, status=201)
    assert (await rest.get(f"{OBJECTS}/gateways/g"))["spec"] == istio["spec"]
    assert (await rest.get(f"{path}/g"))["spec"] == other["spec"]
    assert (await rest.get(f"{path.replace('v1', 'v1beta1')}/g"))["apiVersion"] == f"{api_group}/v1beta1"
    columns = [
        [item["name"] for item in (await rest.get(own, Accept=TABLE))["columnDefinitions"]]
        for own in (f"{OBJECTS}/gateways", path)
    ]
    assert ("Selector" in columns[0], "Class" in columns[0]) == (True, False)
    assert ("Selector" in columns[1], "Class" in columns[1]) == (False, True)
    refused = await rest.call("POST", path, istio, status=400)
    assert "apiVersion" in refused["message"]

    await rest.call("DELETE", f"{path}/g")
    assert (await rest.get(f"{OBJECTS}/gateways/g"))["spec"] == istio["spec"]
    actions = {
        word: [item["action"] for record in (await rest.get(f"/mesh/v1/history?object={word}/default/g"))["items"]
               for item in record["objects"] if item["group"] == group]
        for word, group in (("gateways", "networking.istio.io"), (f"gateways.{api_group}", api_group))
    }  # fmt: skip
    assert actions == {"gateways": ["created"], f"gateways.{api_group}": ["deleted", "created"]}
