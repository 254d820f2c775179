"""POST /mesh/v1/analyze: the mesh, or the mesh with objects laid over it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.api.openapi import whole_document
from controlplane.distribution.stream_sync import Rejection, Span
from mesh.xds import type_url
from tests.support.plane import Api, api

PATH = "/mesh/v1/analyze"
SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {selector: {app: a}, ports: [{name: http, port: 80}]}\n"
)
ROUTE = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a], http: [{route: [{destination: {host: nobody}}]}]}
"""


@pytest.fixture
async def rest(tmp_path: Path) -> AsyncIterator[Api]:
    async with api(tmp_path) as made:
        yield made


def codes(answer: Any) -> list[tuple[str, str]]:
    return [(item["code"], item["object"]) for item in answer["items"]]


async def test_the_mesh_as_it_is(rest: Api) -> None:
    await rest.apply(f"{SERVICE}---\n{ROUTE}")
    answer = await rest.call("POST", PATH)
    (found,) = answer["items"]
    assert (found["code"], found["severity"], found["path"]) == (
        "IST0101", "Error", "spec.http[0].route[0].destination.host",
    )  # fmt: skip
    documented = whole_document("1")["components"]["schemas"]["mesh.gossamer.state.Finding"]
    assert found.keys() == documented["properties"].keys()


async def test_objects_are_laid_over_it_and_nothing_is_stored(rest: Api) -> None:
    await rest.apply(SERVICE)
    assert codes(await rest.call("POST", PATH)) == []
    younger = ROUTE.replace("metadata: {name: a}", "metadata: {name: b}")
    await rest.apply(ROUTE.replace("nobody", "a"))
    answer = await rest.call("POST", PATH, younger.replace("nobody", "a"))
    assert codes(answer) == [("IST0109", "VirtualService default/b")], "what is stored is older"
    assert (await rest.get("/mesh/v1/status"))["objects"] == {"Service": 1, "VirtualService": 1}


async def test_what_proxies_refuse_is_a_finding(rest: Api) -> None:
    sync = rest.plane.connect("node-1")
    await rest.apply(SERVICE)
    name = "outbound|80||a.default.svc.cluster.local"
    view = rest.plane.view.config_dump("node-1")
    assert view is not None
    resource = view.get(type_url.CLUSTER, name)
    assert resource is not None
    sync.of(type_url.CLUSTER).rejected[name] = Rejection(
        type_url=type_url.CLUSTER, name=name, version=resource.version, sources=resource.sources, reason="bad",
        span=Span(0, 9), certain=True,
    )  # fmt: skip
    assert codes(await rest.call("POST", PATH)) == [("GSM0109", "Service default/a")]


async def test_what_cannot_be_admitted_is_422(rest: Api) -> None:
    refused = await rest.call("POST", PATH, ROUTE.replace("hosts", "hsots"), status=422)
    assert refused["details"]["causes"]
