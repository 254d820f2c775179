"""meshctl analyze: files, the mesh, or both; where findings stand, what is left out, and the exit code."""

import json
from pathlib import Path
from typing import Any

import pytest

FILE = """\
apiVersion: v1
kind: Service
metadata: {name: reviews}
spec: {selector: {app: reviews}, ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: one}
spec:
  hosts: [reviews]
  http:
  - route:
    - destination: {host: reviews, subset: v9}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: two}
spec:
  hosts:
  - reviews
  http: [{route: [{destination: {host: reviews}}]}]
"""
BAD = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: bad}\nspec:\n  host: a\n  odd: 1\n"
FINDING = {
    "code": "IST0109", "type": "ConflictingMeshGatewayVirtualServiceHosts", "severity": "Error",
    "object": "VirtualService default/live", "group": "networking.istio.io", "kind": "VirtualService",
    "namespace": "default", "name": "live", "path": "spec.hosts[0]", "message": "another is older",
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "a.yaml").write_text(FILE)
    return str(tmp_path / "a.yaml")


def codes(out: str) -> list[tuple[str, str, Any]]:
    return [(item["code"], item["name"], item.get("line")) for item in json.loads(out)["items"]]


def test_files_alone_need_no_server(meshctl, file: str) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--server", "http://127.0.0.1:1", "analyze", "-f", file, "-o", "json")
    assert done.code == 1
    assert codes(done.out) == [("IST0101", "one", 13), ("IST0109", "two", 20), ("IST0118", "reviews", 4)]


def test_each_finding_is_a_line_with_its_place(meshctl, file: str) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("analyze", "-f", file)
    assert (
        f"Error [IST0109] (VirtualService default/two {file}:20) spec.hosts[0]: VirtualService default/one " in done.out
    )
    assert done.out.endswith("\n2 errors, 1 info in 3 documents\n")


def test_what_admission_would_refuse_is_a_finding_beside_the_others(meshctl, file: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "b.yaml").write_text(f"{BAD}---\nkind: Oops\n---\n{FILE.split('---')[1].lstrip()}")
    done = meshctl("analyze", "-f", str(tmp_path), "-o", "json")
    found = codes(done.out)
    assert ("IST0106", "bad", 6) in found
    assert ("IST0101", "one", 13) in found
    assert (
        len([item for item in json.loads(done.out)["items"] if item["code"] == "IST0106" and item["name"] == "one"])
        == 1
    )


def test_suppressing_by_code_and_by_object(meshctl, file: str) -> None:  # type: ignore[no-untyped-def]
    both = meshctl(
        "analyze", "-f", file, "--suppress", "IST0101", "-S", "IST0109=VirtualService default/*", "-o", "json"
    )
    assert (both.code, codes(both.out)) == (0, [("IST0118", "reviews", 4)])
    other = meshctl("analyze", "-f", file, "-S", "IST0109=VirtualService shop/*", "-S", "IST0101", "-o", "json")
    assert other.code == 1
    everything = meshctl("analyze", "-f", file, "-S", "*")
    assert (everything.code, everything.out) == (0, "no finding in 3 documents\n")
    wrong = meshctl("analyze", "-f", file, "-S", "IST9999")
    assert (wrong.code, "expected a code" in wrong.err) == (64, True)


def test_thresholds(meshctl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "a.yaml").write_text(FILE.split("---")[0])  # one Info
    path = str(tmp_path)
    assert meshctl("analyze", "-f", path).code == 0
    assert meshctl("analyze", "-f", path, "--failure-threshold", "info").code == 1
    hidden = meshctl("analyze", "-f", path, "--failure-threshold", "info", "--output-threshold", "error")
    assert (hidden.code, hidden.out) == (1, "no finding in 1 document\n")


def test_the_mesh_as_it_is(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", "/mesh/v1/analyze", {"items": [FINDING]})
    done = meshctl("--server", server.url, "analyze")
    assert done.code == 1
    assert done.out == (
        "Error [IST0109] (VirtualService default/live) spec.hosts[0]: another is older\n\n1 error in the mesh\n"
    )
    assert server.requests[0]["body"] == []


def test_the_mesh_with_files(meshctl, server, file: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Only what is valid is sent; findings on objects of the files have their lines."""
    (tmp_path / "b.yaml").write_text(BAD)
    server.answer(
        "POST",
        "/mesh/v1/analyze",
        {"items": [FINDING, {**FINDING, "object": "VirtualService default/two", "name": "two"}]},
    )
    done = meshctl("--server", server.url, "analyze", "-f", str(tmp_path), "--live", "-o", "json")
    assert [item["metadata"]["name"] for item in server.requests[0]["body"]] == ["reviews", "one", "two"]
    assert codes(done.out) == [("IST0106", "bad", 6), ("IST0109", "live", None), ("IST0109", "two", 20)]


def test_one_namespace_only(meshctl, server) -> None:  # type: ignore[no-untyped-def]
    server.answer("POST", "/mesh/v1/analyze", {"items": [FINDING]})
    assert meshctl("--server", server.url, "analyze", "-n", "shop").code == 0


def test_the_codes_are_listed(meshctl) -> None:  # type: ignore[no-untyped-def]
    assert "IST0109   ConflictingMeshGatewayVirtualServiceHosts" in meshctl("analyze", "--list").out
    assert "IST0109" in {item["code"] for item in json.loads(meshctl("analyze", "--list", "-o", "json").out)["items"]}
