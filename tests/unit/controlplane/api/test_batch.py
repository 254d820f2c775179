"""POST /mesh/v1/batch: all objects or none, every fault named; and what a diff says before."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.store.limits import TxnLimits
from controlplane.store.memory import MemoryStore
from mesh.xds import type_url
from tests.support.compiling import instance
from tests.support.plane import OBJECTS, Api, api

SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec:
  selector: {app: reviews}
  ports: [{port: 80}]
"""
RULE = """\
apiVersion: networking.istio.io/v1beta1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}]
"""
BOTH = f"{SERVICE}---\n{RULE}"


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


async def test_one_transaction_with_one_revision_and_one_record(rest: Api) -> None:
    done = await rest.apply(BOTH)
    assert [(item["object"], item["action"]) for item in done["results"]] == [
        ("Service default/reviews", "created"),
        ("DestinationRule default/reviews", "created"),
    ]
    assert {item["resource_version"] for item in done["results"]} == {str(done["revision"])}
    (record,) = (await rest.get("/mesh/v1/history"))["items"]
    assert (record["revision"], record["author"]) == (done["revision"], "local")
    assert [item["action"] for item in record["objects"]] == ["created", "created"]


async def test_applied_again_nothing_is_written(rest: Api) -> None:
    first = await rest.apply(BOTH)
    again = await rest.apply(BOTH)
    assert again["revision"] == first["revision"]
    assert {item["action"] for item in again["results"]} == {"unchanged"}
    assert len((await rest.get("/mesh/v1/history"))["items"]) == 1
    mixed = await rest.apply(BOTH.replace("port: 80", "port: 81"))
    assert [item["action"] for item in mixed["results"]] == ["configured", "unchanged"]
    assert mixed["results"][0]["generation"] == 2


async def test_one_bad_object_refuses_all_and_every_fault_is_named_with_its_line(rest: Api) -> None:
    bad = f"{SERVICE}---\n{RULE.replace('host: reviews', 'hots: reviews')}---\n{SERVICE.replace('port: 80', 'port: 0')}"
    answer = await rest.apply(
        bad.replace("name: reviews}\nspec:\n  selector", "name: Reviews}\nspec:\n  selector"), status=422
    )
    causes = [(item["document"], item["line"], item["object"], item["field"]) for item in answer["details"]["causes"]]
    assert (0, 3, "Service default/Reviews", "metadata.name") in causes
    assert (1, 12, "DestinationRule default/reviews", "spec.hots") in causes
    assert (2, 20, "Service default/Reviews", "spec.ports[0].port") in causes
    assert (await rest.get("/mesh/v1/status"))["objects"] == {}


async def test_an_object_twice_in_a_batch(rest: Api) -> None:
    answer = await rest.apply(f"{SERVICE}---\n{SERVICE}", status=422)
    (cause,) = answer["details"]["causes"]
    assert (cause["document"], cause["field"]) == (1, "metadata.name")
    assert "twice" in cause["message"]


async def test_lists_json_and_arrays_are_batches_too(rest: Api) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}
    other = {**service, "metadata": {"name": "b"}}
    listed = await rest.call("POST", "/mesh/v1/batch", {"apiVersion": "v1", "kind": "List", "items": [service, other]})
    assert [item["name"] for item in listed["results"]] == ["a", "b"]
    array = await rest.call("POST", "/mesh/v1/batch", [service, other])
    assert {item["action"] for item in array["results"]} == {"unchanged"}


async def test_the_namespace_of_objects_that_name_none(rest: Api) -> None:
    done = await rest.apply(BOTH, query="?namespace=shop")
    assert {item["namespace"] for item in done["results"]} == {"shop"}
    refused = await rest.apply(BOTH, query="?namespace=Sh%2Fop", status=400)
    assert "namespace" in refused["message"]


async def test_a_dry_run_stores_nothing(rest: Api) -> None:
    done = await rest.apply(BOTH, query="?dryRun=All")
    assert (done["dry_run"], [item["action"] for item in done["results"]]) == (True, ["created", "created"])
    assert (await rest.get(f"{OBJECTS}/destinationrules"))["items"] == []
    assert (await rest.get("/mesh/v1/history"))["items"] == []


@pytest.mark.parametrize("text", ["", "---\n", "a: [", "- 1\n", "3"])
async def test_a_body_without_objects(rest: Api, text: str) -> None:
    assert (await rest.apply(text, status=400))["reason"] == "BadRequest"


async def test_a_batch_beyond_the_stores_limits_is_413(tmp_path: Path) -> None:
    async with api(tmp_path, store=MemoryStore(limits=TxnLimits(max_ops=6))) as rest:
        texts = [SERVICE.replace("reviews", f"s{index}") for index in range(7)]
        answer = await rest.apply("---\n".join(texts), status=413)
        assert "at most 6 operations" in answer["message"]
        assert "--etcd-max-txn-ops" in answer["message"]
        assert (await rest.get("/mesh/v1/status"))["objects"] == {}
        await rest.apply("---\n".join(texts[:4]))


async def test_a_diff_says_what_each_proxy_would_get(rest: Api) -> None:
    rest.plane.connect("node-1")
    await rest.plane.put_instances(instance("r-1", service="reviews", version="v1"))
    await rest.apply(SERVICE)
    before = rest.plane.delivered[-1].view
    diff = await rest.call("POST", "/mesh/v1/diff", RULE)
    assert diff["objects"] == [{"object": "DestinationRule default/reviews", "action": "created", "warnings": []}]
    changes = {(item["type"], item["name"]): item for item in diff["changes"]}
    subset = changes["CDS", "outbound|80|v1|reviews.default.svc.cluster.local"]
    assert (subset["change"], subset["before"], subset["nodes"]) == ("added", None, ["node-1"])
    assert subset["after"]["type"] == "EDS"
    assert (await rest.get(f"{OBJECTS}/destinationrules"))["items"] == []
    assert rest.plane.delivered[-1].view is before

    await rest.apply(RULE)
    after = rest.plane.delivered[-1].view
    found = set(after.names(type_url.CLUSTER)) - set(before.names(type_url.CLUSTER))
    assert found == {name for kind, name in changes if kind == "CDS" and changes[kind, name]["change"] == "added"}
    nothing = await rest.call("POST", "/mesh/v1/diff", RULE)
    assert (nothing["changes"], nothing["unaffected"]) == ([], ["node-1"])
