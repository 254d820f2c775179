"""Join tokens over REST: minted once, listed without secrets, revoked."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.plane import Api, api


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


async def test_create_list_revoke(rest: Api) -> None:
    body = {"node": "web-*", "namespaces": ["shop"], "service_accounts": ["a", "b"], "ttl": "2h", "uses": 3}
    made = await rest.call("POST", "/mesh/v1/tokens", body, status=201)
    token_id, secret, fingerprint = made["token"].split(".")
    assert fingerprint == rest.authority.root_fingerprint
    (listed,) = (await rest.get("/mesh/v1/tokens"))["items"]
    assert listed == {key: value for key, value in made.items() if key != "token"}
    assert (listed["id"], listed["node"], listed["uses_left"], listed["created_by"]) == (token_id, "web-*", 3, "local")
    assert secret not in str(await rest.get("/mesh/v1/tokens"))
    await rest.call("DELETE", f"/mesh/v1/tokens/{token_id}")
    assert (await rest.get("/mesh/v1/tokens"))["items"] == []
    assert (await rest.call("DELETE", f"/mesh/v1/tokens/{token_id}", status=404))["reason"] == "NotFound"


async def test_the_answer_must_not_be_kept(rest: Api) -> None:
    async with rest.client.post("/mesh/v1/tokens", json={"node": "n"}) as response:
        assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "node"),
        ({"node": ""}, "node"),
        ({"node": "NODE"}, "node"),
        ({"nod": "n"}, "nod"),
        ({"node": "n", "namespaces": "default"}, "namespaces"),
        ({"node": "n", "namespaces": []}, "namespaces"),
        ({"node": "n", "service_accounts": [1]}, "service_accounts"),
        ({"node": "n", "ttl": "soon"}, "ttl"),
        ({"node": "n", "ttl": 5}, "ttl"),
        ({"node": "n", "ttl": "1h", "ttl_s": 5}, "ttl"),
        ({"node": "n", "ttl_s": 0}, "ttl_s"),
        ({"node": "n", "ttl_s": True}, "ttl_s"),
        ({"node": "n", "uses": 0}, "uses"),
        ({"node": "n", "uses": "3"}, "uses"),
    ],
)
async def test_bad_requests_name_the_field(rest: Api, body: dict[str, Any], field: str) -> None:
    answer = await rest.call("POST", "/mesh/v1/tokens", body, status=422)
    assert [cause["field"] for cause in answer["details"]["causes"]] == [field]
    assert (await rest.get("/mesh/v1/tokens"))["items"] == []
