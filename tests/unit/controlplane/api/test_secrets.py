"""Secrets over REST: a GET gives the data, everything else that shows objects hides it."""

import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from controlplane.cli.commands import describe, diff
from controlplane.cli.output.terminal import Terminal
from tests.support.certificates import made_pair
from tests.support.compiling import proxy_of
from tests.support.plane import Api, api
from tests.support.secrets import KEY, NEXT_KEY, PRIVATE, RULE, SERVICE_ENTRY, encoded, tls_secret

SECRETS = "/api/v1/namespaces/default/secrets"
HIDDEN = (KEY, NEXT_KEY, encoded(KEY), encoded(NEXT_KEY), *PRIVATE)


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


def assert_hidden(value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    assert "[redacted]" in text
    assert not [word for word in HIDDEN if word in text or json.dumps(word)[1:-1] in text]


async def test_a_get_gives_what_was_posted_and_string_data_becomes_data(rest: Api) -> None:
    await rest.apply(tls_secret())
    found = await rest.get(f"{SECRETS}/client")
    assert (found["type"], found["data"]["tls.key"]) == ("kubernetes.io/tls", encoded(KEY))
    assert "spec" not in found
    changed = {**found, "stringData": {"tls.key": NEXT_KEY}}
    found = await rest.call("PUT", f"{SECRETS}/client", changed)
    assert found["data"]["tls.key"] == encoded(NEXT_KEY)
    assert "stringData" not in found
    assert found["metadata"]["generation"] == 2
    assert (await rest.apply(tls_secret(key=NEXT_KEY)))["results"][0]["action"] == "unchanged"
    table = await rest.get(SECRETS, Accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    assert [row["cells"][:3] for row in table["rows"]] == [["client", "kubernetes.io/tls", "3"]]


async def test_history_and_rollback_hide_it_and_restore_it(rest: Api) -> None:
    first = (await rest.apply(tls_secret()))["revision"]
    second = (await rest.apply(tls_secret(key=NEXT_KEY)))["revision"]
    for revision in (first, second):
        assert_hidden(await rest.get(f"/mesh/v1/history/{revision}"))
    (shown,) = (await rest.get(f"/mesh/v1/history/{second}"))["objects"]
    assert "+  tls.key: '[redacted], changed'" in shown["diff"]
    done = await rest.call("POST", "/mesh/v1/rollback", {"revision": first})
    assert_hidden(done)
    assert (await rest.get(f"{SECRETS}/client"))["data"]["tls.key"] == encoded(KEY)


async def test_diff_and_config_dump_of_proxies_hide_the_key(rest: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await rest.apply(f"{SERVICE_ENTRY}---\n{RULE}---\n{tls_secret()}")
    edge = proxy_of({"id": "edge-1", "userAgentName": "envoy", "metadata": {}})
    rest.plane.connect("edge-1", replace(edge, secrets=True))
    found = await rest.call("POST", "/mesh/v1/diff", tls_secret(key=NEXT_KEY))
    assert [item["name"] for item in found["changes"]] == ["kubernetes://client"]
    assert_hidden(found)
    assert_hidden(await rest.get("/mesh/v1/proxies/edge-1/config_dump"))
    shown = json.dumps(await rest.get("/mesh/v1/events")) + caplog.text
    assert not [word for word in PRIVATE if word in shown]


async def test_a_refusal_shows_no_value(rest: Api) -> None:
    answer = await rest.apply(tls_secret(chain="hunter2 in the wrong place"), status=422)
    assert "data[tls.crt]" in json.dumps(answer)
    assert "hunter2" not in json.dumps(answer)


def test_meshctl_diff_and_describe_hide_it() -> None:
    head = {"apiVersion": "v1", "kind": "Secret"}
    applied = {"kubectl.kubernetes.io/last-applied-configuration": f"all of {KEY}"}
    before = {**head, "metadata": {"name": "a", "annotations": applied}, "data": {"tls.key": encoded(KEY), "b": "Yg=="}}
    after = {**before, "data": {"tls.key": encoded(NEXT_KEY), "b": "Yg=="}}
    text = diff.unified("a", before, after)
    assert_hidden(text)
    assert "changed" in text
    assert diff.unified("a", before, before) == ""
    facts = {"changes": [], "revision": None, "events": [], "endpoints": []}
    assert_hidden(describe.render(before, facts, Terminal(colour=False)))


async def test_an_expired_certificate_is_taken_and_told(rest: Api) -> None:
    chain, key = made_pair("P-256", until=2021)
    done = await rest.apply(tls_secret("old", chain=chain, key=key))
    (warning,) = done["results"][0]["warnings"]
    assert "CertificateExpired: data[tls.crt]: the certificate was valid until 2021-01-01T00:00:00Z" in warning
    await rest.apply(tls_secret("new"))
    found = [item for item in rest.plane.view.conditions() if item.type == "CertificateExpired"]
    assert [str(item.ref) for item in found] == ["Secret default/old"]


async def test_what_envoys_would_refuse_is_refused_here(rest: Api) -> None:
    """One that was stored would hold back the routes to every cluster that names it."""
    answer = await rest.apply(tls_secret(key=made_pair("P-256")[1]), status=422)
    (cause,) = answer["details"]["causes"]
    assert (cause["field"], "another certificate" in cause["message"]) == ("data[tls.key]", True)
