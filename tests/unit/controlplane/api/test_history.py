"""History and rollback over REST: what is recorded, shown, and made what it was; deleting a batch."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.writes import Caller
from controlplane.store import history
from controlplane.store.history import Retention
from controlplane.store.keys import OBJECTS as OBJECT_KEYS
from controlplane.store.keys import apply_key, history_key
from controlplane.store.limits import TxnLimits
from controlplane.store.memory import MemoryStore
from controlplane.store.protocol import Check, Delete, Op, Put, TxnResult
from mesh.errors import ErrorCode, MeshError
from tests.support.plane import MERGE, OBJECTS, Api, api, virtual_service

VS = f"{OBJECTS}/virtualservices"
HISTORY = "/mesh/v1/history"
ROLLBACK = "/mesh/v1/rollback"
SERVICE = """\
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
"""


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


async def write(rest: Api, method: str, path: str, body: Any = None, *, status: int = 200, **headers: str) -> int:
    """The revision of a write."""
    async with rest.client.request(method, path, json=body, headers=headers) as response:
        assert response.status == status, await response.text()
        return int(response.headers["Gossamer-Revision"])


async def stored(rest: Api) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await rest.plane.store.list(OBJECT_KEYS)).entries}


async def changed_host(rest: Api, name: str, host: str) -> int:
    body = {"spec": virtual_service(name, host)["spec"]}
    async with rest.client.patch(f"{VS}/{name}", json=body, headers=MERGE) as response:
        assert response.status == 200, await response.text()
        return int(response.headers["Gossamer-Revision"])


# --- what is recorded


async def test_every_change_with_both_sides_and_its_diff(rest: Api) -> None:
    created = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    changed = await changed_host(rest, "a", "y")
    deleted = await write(rest, "DELETE", f"{VS}/a")

    first = await rest.get(f"{HISTORY}/{created}")
    (one,) = first["objects"]
    assert (first["revision"], first["author"], first["reason"]) == (created, "local", "")
    assert (one["action"], one["before"], one["after"]["spec"]["hosts"]) == ("created", None, ["x"])
    assert one["diff"].startswith("--- before VirtualService default/a\n+++ revision ")

    (two,) = (await rest.get(f"{HISTORY}/{changed}"))["objects"]
    assert (two["before"], two["after"]["spec"]["hosts"]) == (one["after"], ["y"])
    assert "-  - x\n+  - y\n" in two["diff"]
    assert "generation" not in two["diff"]

    (three,) = (await rest.get(f"{HISTORY}/{deleted}"))["objects"]
    assert (three["action"], three["before"], three["after"]) == ("deleted", two["after"], None)


async def test_the_newest_change_compares_with_what_is_stored(rest: Api) -> None:
    await write(rest, "POST", VS, virtual_service("ab"), status=201)  # its key begins as that of `a`
    revision = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    (one,) = (await rest.get(f"{HISTORY}/{revision}"))["objects"]
    assert one["after"]["metadata"]["name"] == "a"


async def test_pages_and_objects(rest: Api) -> None:
    revisions = [await write(rest, "POST", VS, virtual_service(name), status=201) for name in "abc"]
    again = await changed_host(rest, "a", "z")
    first = await rest.get(f"{HISTORY}?limit=2")
    assert [item["revision"] for item in first["items"]] == [again, revisions[2]]
    rest_of_it = await rest.get(f"{HISTORY}?limit=2&continue={first['continue']}")
    assert [item["revision"] for item in rest_of_it["items"]] == [revisions[1], revisions[0]]
    assert "continue" not in rest_of_it
    for name in ("vs/a", "VirtualService default/a", "virtualservices/default/a"):
        own = await rest.get(HISTORY + f"?object={name}")
        assert [item["revision"] for item in own["items"]] == [again, revisions[0]]
    assert (await rest.get(f"{HISTORY}?object=vs/shop/a"))["items"] == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("?object=thing/a", "expected KIND/NAME"),
        ("?object=vs", "expected KIND/NAME"),
        ("?object=vs/a/b/c", "expected KIND/NAME"),
        ("?continue=x", "not ours"),
        ("?limit=x", "expected a number"),
        ("/x", "expected a revision"),
    ],
)
async def test_bad_questions(rest: Api, query: str, words: str) -> None:
    assert words in (await rest.get(f"{HISTORY}{query}", status=400))["message"]


async def test_a_revision_that_changed_nothing(rest: Api) -> None:
    revision = await write(rest, "POST", VS, virtual_service("a"), status=201)
    await rest.plane.write(Put("/gossamer/v1/other", b""))
    answer = await rest.get(f"{HISTORY}/{revision + 1}", status=404)
    assert f"the last change before it is revision {revision}" in answer["message"]
    assert "the store is at revision" in (await rest.get(f"{HISTORY}/{revision + 100}", status=400))["message"]


# --- rollback


async def test_everything_is_what_it_was_in_one_revision_of_its_own(rest: Api) -> None:
    await rest.apply(SERVICE)
    await write(rest, "POST", VS, virtual_service("kept", "k"), status=201)
    await write(rest, "POST", VS, virtual_service("changed", "x"), status=201)
    goal = await write(rest, "POST", VS, virtual_service("gone", "g"), status=201)
    before = await stored(rest)

    await changed_host(rest, "changed", "y")
    await changed_host(rest, "changed", "z")
    await write(rest, "DELETE", f"{VS}/gone")
    await write(rest, "POST", VS, virtual_service("new", "n"), status=201)

    done = await rest.call("POST", ROLLBACK, {"revision": goal})
    actions = {item["name"]: item["action"] for item in done["results"]}
    assert actions == {"changed": "configured", "gone": "created", "new": "deleted"}
    assert "-  - z\n+  - x\n" in next(item["diff"] for item in done["results"] if item["name"] == "changed")
    after = await stored(rest)
    assert after.keys() == before.keys()
    record = (await rest.get(HISTORY))["items"][0]
    assert (record["revision"], record["reason"]) == (done["revision"], f"rollback to {goal}")

    shown = await rest.get(f"{VS}/changed")
    assert shown["metadata"]["generation"] == 4, "one number never stands for two specs"
    assert shown["spec"]["hosts"] == ["x"]
    for name, kept in (("changed", before), ("gone", before)):
        key = next(key for key in kept if key.endswith(f"/{name}"))
        was, now = _metadata(kept[key]), _metadata(after[key])
        assert (now["uid"], now["creationTimestamp"]) == (was["uid"], was["creationTimestamp"])


def _metadata(value: bytes) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(value)["metadata"]
    return found


async def test_a_rollback_can_be_rolled_back(rest: Api) -> None:
    await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    second = await changed_host(rest, "a", "y")
    await rest.call("POST", ROLLBACK, {"revision": second - 1})
    assert (await rest.get(f"{VS}/a"))["spec"]["hosts"] == ["x"]
    await rest.call("POST", ROLLBACK, {"revision": second})
    assert (await rest.get(f"{VS}/a"))["spec"]["hosts"] == ["y"]


async def test_to_before_everything(rest: Api) -> None:
    await rest.apply(SERVICE)
    done = await rest.call("POST", ROLLBACK, {"revision": 1})
    assert [item["action"] for item in done["results"]] == ["deleted"]
    assert await stored(rest) == {}


async def test_an_object_made_anew_gets_its_age_back(rest: Api) -> None:
    """Decision 17: which of two rules wins depends on creationTimestamp."""
    goal = await write(rest, "POST", VS, virtual_service("a"), status=201)
    was = (await rest.get(f"{VS}/a"))["metadata"]
    await write(rest, "DELETE", f"{VS}/a")
    await write(rest, "POST", VS, virtual_service("a"), status=201)
    assert (await rest.get(f"{VS}/a"))["metadata"]["uid"] != was["uid"]
    done = await rest.call("POST", ROLLBACK, {"revision": goal})
    assert [item["action"] for item in done["results"]] == ["configured"]
    now = (await rest.get(f"{VS}/a"))["metadata"]
    assert (now["uid"], now["creationTimestamp"]) == (was["uid"], was["creationTimestamp"])


async def test_what_is_as_it_was_is_not_written(rest: Api) -> None:
    await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    goal = await changed_host(rest, "a", "y")
    await changed_host(rest, "a", "x")
    await changed_host(rest, "a", "y")
    done = await rest.call("POST", ROLLBACK, {"revision": goal})
    assert done["results"] == []
    assert len((await rest.get(HISTORY))["items"]) == 4


async def test_a_dry_run_shows_and_changes_nothing(rest: Api) -> None:
    goal = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    await changed_host(rest, "a", "y")
    before = await stored(rest)
    done = await rest.call("POST", f"{ROLLBACK}?dryRun=All", {"revision": goal})
    assert (done["dry_run"], done["to"]) == (True, goal)
    assert "-  - y\n+  - x\n" in done["results"][0]["diff"]
    assert await stored(rest) == before
    assert len((await rest.get(HISTORY))["items"]) == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "expected a revision"),
        ({"revision": "7"}, "expected a revision"),
        ({"revision": 0}, "expected a revision"),
        ({"revision": True}, "expected a revision"),
        ({"revision": 7, "force": True}, "force: found an unknown field"),
        ({"revision": 10**9}, "the store is at revision"),
    ],
)
async def test_bad_rollbacks(rest: Api, body: dict[str, Any], words: str) -> None:
    assert words in (await rest.call("POST", ROLLBACK, body, status=400))["message"]


async def test_a_history_that_does_not_reach_so_far(rest: Api) -> None:
    revisions = [await write(rest, "POST", VS, virtual_service(name), status=201) for name in "abc"]
    await history.prune(rest.plane.store, Retention(records=1), now_ms=0)
    assert (await rest.get(f"{HISTORY}/{revisions[0]}", status=410))["reason"] == "Expired"
    refused = await rest.call("POST", ROLLBACK, {"revision": revisions[0]}, status=410)
    assert f"the history before revision {revisions[1]} is no longer kept" in refused["message"]
    done = await rest.call("POST", ROLLBACK, {"revision": revisions[1]})
    assert [(item["name"], item["action"]) for item in done["results"]] == [("c", "deleted")]


async def test_a_damaged_history_is_not_taken_for_nothing(rest: Api) -> None:
    goal = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    await changed_host(rest, "a", "y")
    damaged = await rest.plane.write(Put(apply_key("0"), b"{"))
    refused = await rest.call("POST", ROLLBACK, {"revision": goal}, status=410)
    assert f"before revision {damaged}" in refused["message"]


async def test_content_that_was_lost_says_so(rest: Api) -> None:
    goal = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    changed = await changed_host(rest, "a", "y")
    record = (await rest.get(HISTORY))["items"][0]
    await rest.plane.store.transact([], [Delete(history_key(record["id"]))])
    refused = await rest.call("POST", ROLLBACK, {"revision": goal}, status=410)
    assert f"what revision {changed} changed is no longer kept" in refused["message"]


async def test_a_rollback_beyond_the_stores_limits_names_them(tmp_path: Path) -> None:
    async with api(tmp_path, store=MemoryStore(limits=TxnLimits(max_ops=8))) as rest:
        goal = await write(rest, "POST", VS, virtual_service("z"), status=201)
        for names in ("abcd", "efgh"):
            await rest.call("POST", "/mesh/v1/batch", [virtual_service(name) for name in names])
        refused = await rest.call("POST", ROLLBACK, {"revision": goal}, status=413)
        assert "at most 8 operations" in refused["message"]
        assert len(await stored(rest)) == 9


class Rival(MemoryStore):
    """Somebody changes an object between what a request reads and its transaction, `times` times."""

    times = 0
    key = ""

    async def transact(self, checks: Sequence[Check], ops: Sequence[Op]) -> TxnResult:
        if self.times and any(op.key.startswith("/gossamer/v1/apply/") for op in ops):
            self.times -= 1
            entry = await self.get(self.key)
            assert entry is not None
            await super().transact([], [Put(self.key, entry.value)])
        return await super().transact(checks, ops)


async def test_a_lost_race_is_run_again_and_ends_clearly(tmp_path: Path) -> None:
    store = Rival()
    async with api(tmp_path, store=store) as rest:
        goal = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
        await changed_host(rest, "a", "y")
        store.key = next(iter(await stored(rest)))
        store.times = 100
        refused = await rest.call("POST", ROLLBACK, {"revision": goal}, status=409)
        assert "others changed the same objects" in refused["message"]
        assert (await rest.get(f"{VS}/a"))["spec"]["hosts"] == ["y"]
        store.times = 3
        await rest.call("POST", ROLLBACK, {"revision": goal})
        assert (await rest.get(f"{VS}/a"))["spec"]["hosts"] == ["x"]


async def test_a_former_self_that_this_version_cannot_read(rest: Api) -> None:
    await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    key = next(iter(await stored(rest)))
    goal = await rest.plane.write(Put(key, b'{"kind":"Future"}'))
    await write(rest, "DELETE", f"{VS}/a")
    refused = await rest.call("POST", ROLLBACK, {"revision": goal}, status=409)
    assert "VirtualService default/a: what it was cannot be read by this version" in refused["message"]
    (change,) = (await rest.get(f"{HISTORY}/{goal + 1}"))["objects"]
    assert change["before"] == {"kind": "Future"}


# --- deleting a batch


async def test_a_batch_is_deleted_whole_or_not_at_all(rest: Api) -> None:
    await rest.apply(SERVICE)
    await write(rest, "POST", VS, virtual_service("a"), status=201)
    named = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}, virtual_service("a")]
    missing = [*named, virtual_service("no"), virtual_service("nor")]
    refused = await rest.call("POST", "/mesh/v1/delete", missing, status=404)
    assert refused["message"] == "VirtualService default/no, VirtualService default/nor: not found"
    assert len(await stored(rest)) == 2
    dry = await rest.call("POST", "/mesh/v1/delete?dryRun=All&ignoreNotFound=1", missing)
    assert [item["action"] for item in dry["results"]] == ["deleted", "deleted", "unchanged", "unchanged"]
    assert len(await stored(rest)) == 2
    done = await rest.call("POST", "/mesh/v1/delete", named)
    assert await stored(rest) == {}
    (record, *_) = (await rest.get(HISTORY))["items"]
    assert (record["revision"], len(record["objects"])) == (done["revision"], 2)
    await rest.call("POST", ROLLBACK, {"revision": done["revision"] - 1})
    assert len(await stored(rest)) == 2


async def test_heads_are_enough_in_any_version_and_namespace(rest: Api) -> None:
    await rest.call("POST", "/mesh/v1/batch?namespace=shop", [virtual_service("a")])
    head = {"apiVersion": "networking.istio.io/v1alpha3", "kind": "VirtualService", "metadata": {"name": "a"}}
    await rest.call("POST", "/mesh/v1/delete", [head], status=404)
    await rest.call("POST", "/mesh/v1/delete?namespace=shop", [head])


async def test_every_fault_of_a_deletion_is_named(rest: Api) -> None:
    text = "kind: Pod\napiVersion: v1\n---\napiVersion: v1\nkind: Service\n---\n" + SERVICE + "---\n" + SERVICE
    answer = await rest.call("POST", "/mesh/v1/delete", text, status=422)
    causes = [(item["document"], item["field"], item["message"]) for item in answer["details"]["causes"]]
    assert causes == [
        (0, "kind", "found v1 Pod, expected a served kind"),
        (1, "metadata.name", "found None, expected a name"),
        (3, "metadata.name", "found the object twice, in documents 2 and 3, expected once"),
    ]
    await rest.call("POST", "/mesh/v1/delete", "", status=400)


async def test_a_caller_is_the_author_of_a_rollback(rest: Api) -> None:
    from controlplane.api.operations import Operations

    operations = Operations(rest.dependencies)
    goal = await write(rest, "POST", VS, virtual_service("a", "x"), status=201)
    await changed_host(rest, "a", "y")
    done = await operations.rollback(Caller(author="eve"), goal)
    record = (await operations.history.page()).records[0]
    assert (record.author, record.reason, record.revision) == ("eve", f"rollback to {goal}", done.revision)
    with pytest.raises(MeshError) as failure:
        await operations.rollback(Caller(author="eve"), 10**9)
    assert failure.value.code is ErrorCode.UNREADABLE
