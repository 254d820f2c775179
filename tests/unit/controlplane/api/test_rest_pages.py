"""Probes, metrics, discovery documents, the pages for people; who may see what."""

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controlplane.api.middleware import OPEN_PATHS
from tests.support.plane import OBJECTS, Api, api, virtual_service

TOKENS = {hashlib.sha256(b"s3cret").hexdigest(): "ann"}


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path, tokens=TOKENS, loopback=False) as made:
        yield made


async def text(rest: Api, path: str, *, status: int = 200, **headers: str) -> str:
    async with rest.client.get(path, headers=headers) as response:
        assert response.status == status
        return await response.text()


async def test_probes(rest: Api) -> None:
    assert await text(rest, "/healthz") == await text(rest, "/livez") == "ok\n"
    assert await text(rest, "/readyz") == "[+] etcd: ok\n[+] synced: ok\nready\n"
    rest.plane.ready["etcd"] = "the store does not answer"
    assert "[-] etcd: the store does not answer" in await text(rest, "/readyz", status=503)
    assert await text(rest, "/healthz") == "ok\n"


async def test_metrics(rest: Api) -> None:
    await rest.apply(json.dumps(virtual_service()))
    found = await text(rest, "/metrics")
    assert re.search(r"^gossamer_publications_total [1-9]", found, re.M)
    assert "pilot_debounce_time_bucket" in found


async def test_the_start_page_shows_the_mesh_only_without_tokens(rest: Api, guarded: Api) -> None:
    await rest.apply(json.dumps(virtual_service(host="nowhere")))
    assert "UnknownHost" in await text(rest, "/") or "Needs attention" in await text(rest, "/")
    found = await text(guarded, "/")
    assert "Gossamer control plane" in found
    assert "revision</td>" not in found
    assert "Needs attention" not in found


async def test_pages_are_self_contained_and_escaped(rest: Api) -> None:
    for path in ("/", "/docs"):
        async with rest.client.get(path) as response:
            assert response.content_type == "text/html"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            page = await response.text()
        assert "<script" not in page
        assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "&lt;img&gt;" in await text(rest, "/", Host="localhost:1<img>")


async def test_the_documentation_has_every_path(rest: Api) -> None:
    page = await text(rest, "/docs")
    document = json.loads(await text(rest, "/openapi.json"))
    for path in document["paths"]:
        assert f"<code>{path}</code>" in page
    for name in document["components"]["schemas"]:
        assert f'id="{name}"' in page


async def test_the_openapi_document_is_whole(rest: Api) -> None:
    document = json.loads(await text(rest, "/openapi.json"))
    names = set(document["components"]["schemas"])
    referred = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert referred <= names
    operations = [
        own["operationId"] for item in document["paths"].values() for own in item.values() if "operationId" in own
    ]
    assert len(operations) == len(set(operations))
    for path in ("/mesh/v1/batch", "/mesh/v1/revisions/{revision}", "/apis/networking.istio.io/v1/virtualservices"):
        assert path in document["paths"]


async def test_discovery_for_kubectl(rest: Api) -> None:
    assert (await rest.get("/api"))["versions"] == ["v1"]
    groups = {item["name"]: item["preferredVersion"]["version"] for item in (await rest.get("/apis"))["groups"]}
    names = ("gateway.networking.k8s.io", "gossamer.mesh", "networking.istio.io", "security.istio.io")
    assert groups == dict.fromkeys(names, "v1")
    assert (await rest.get("/apis/security.istio.io"))["kind"] == "APIGroup"
    names = {item["name"]: item for item in (await rest.get("/apis/networking.istio.io/v1"))["resources"]}
    assert (names["virtualservices"]["namespaced"], names["virtualservices"]["shortNames"]) == (True, ["vs"])
    assert {item["name"] for item in (await rest.get("/api/v1"))["resources"]} == {"services", "secrets", "namespaces"}
    await rest.get("/apis/nothing", status=404)
    await rest.get("/apis/nothing/v1", status=404)
    for entry in (await rest.get("/openapi/v3"))["paths"].values():
        document = await rest.get(entry["serverRelativeURL"])
        patches = [item["patch"] for item in document["paths"].values() if "patch" in item]
        assert patches
        for patch in patches:
            assert "x-kubernetes-group-version-kind" in patch
            assert "fieldValidation" in {parameter["name"] for parameter in patch["parameters"]}
    assert (await rest.get("/version"))["gitVersion"].startswith("v1.")


@pytest.mark.parametrize(
    "path", ["/mesh/v1/status", "/metrics", f"{OBJECTS}/virtualservices", "/api", "/openapi/v3", "/mesh/v1/tokens"]
)
async def test_everything_of_the_mesh_wants_a_token(guarded: Api, path: str) -> None:
    async with guarded.client.get(path) as response:
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
    wrong = await guarded.get(path, status=401, Authorization="Bearer wrong")
    assert wrong["reason"] == "Unauthorized"
    assert "wrong" not in wrong["message"]
    assert await text(guarded, path, Authorization="Bearer s3cret")


async def test_what_is_open_is_open(guarded: Api) -> None:
    for path in sorted(OPEN_PATHS):
        assert await text(guarded, path)


async def test_the_tokens_name_is_the_author(guarded: Api) -> None:
    await guarded.call(
        "POST", "/mesh/v1/batch", json.dumps(virtual_service()), headers={"Authorization": "bearer s3cret"}
    )
    (record,) = (await guarded.get("/mesh/v1/history", Authorization="Bearer s3cret"))["items"]
    assert record["author"] == "ann"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:8080"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:9", "Origin": "http://localhost:9"}, 200),
        ({"Host": "[::1]:8080"}, 200),
    ],
)
async def test_pages_of_other_sites_are_kept_out(rest: Api, headers: dict[str, str], status: int) -> None:
    """DNS rebinding and cross-site requests against a server that has no tokens."""
    await rest.get("/mesh/v1/status", status=status, **headers)


async def test_an_error_of_ours_is_told_without_its_insides(rest: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr(rest.plane.ledger, "proxies", broken)
    answer = await rest.get("/mesh/v1/proxies", status=500)
    assert (answer["reason"], "secret" in json.dumps(answer)) == ("InternalError", False)
