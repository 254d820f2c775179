"""Every invalid policy of the table is refused by REST with HTTP 422 and the exact path, and changes nothing."""

from collections.abc import Iterator

import pytest

from controlplane.cli.local_mesh import LocalMesh
from tests.support import meshes
from tests.support.bad_policies import BAD_POLICIES, BadPolicy

pytestmark = pytest.mark.e2e

GOOD = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: good}
spec: {host: a}
"""
COLLECTIONS = (
    "/apis/networking.istio.io/v1/virtualservices",
    "/apis/networking.istio.io/v1/destinationrules",
    "/apis/networking.istio.io/v1/serviceentries",
    "/apis/networking.istio.io/v1/workloadentries",
    "/apis/security.istio.io/v1/peerauthentications",
    "/api/v1/services",
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    """A control plane with its etcd; no nodes."""
    with meshes.local_mesh(tmp_path_factory.mktemp("bad-policies")) as mesh:
        mesh.start_control_plane()
        yield mesh


def stored(mesh: LocalMesh) -> dict[str, list[str]]:
    """The names of all objects by collection."""
    found = {path: mesh.rest("GET", path) for path in COLLECTIONS}
    assert {reply.status for reply in found.values()} == {200}
    return {path: [item["metadata"]["name"] for item in reply.json["items"]] for path, reply in found.items()}


@pytest.mark.parametrize("case", BAD_POLICIES, ids=lambda case: case.name)
def test_refused_with_422_and_the_path(mesh: LocalMesh, case: BadPolicy) -> None:
    """A Status with one cause: the field, what was found and what was expected."""
    reply = mesh.rest("POST", "/mesh/v1/batch", case.text)
    assert reply.status == 422, reply.body
    status = reply.json
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "Invalid", 422)
    (cause,) = status["details"]["causes"]
    assert cause["field"] == case.field
    assert case.message in cause["message"]


def test_nothing_was_changed(mesh: LocalMesh) -> None:
    """No object is stored, also when good ones stand in the same batch; the good ones alone are taken."""
    for case in BAD_POLICIES[::20]:
        reply = mesh.rest("POST", "/mesh/v1/batch", meshes.documents(GOOD, case.text))
        assert reply.status == 422, reply.body
        (cause,) = reply.json["details"]["causes"]
        assert cause["document"] == 1
    assert all(names == [] for names in stored(mesh).values()), stored(mesh)
    mesh.apply(GOOD)
    assert stored(mesh)["/apis/networking.istio.io/v1/destinationrules"] == ["good"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spec:\n  host: a\n  host: b\n", 'line 3: found the key "host" twice'),
        ("a:\n\tb: 1\n", "indent with blanks, not with tabs"),
        ("a: [1, 2\n", "line 2"),
        ("a: " + "[" * 200 + "]" * 200, "found more than 64 levels"),
        ("a: &a [*a]\n", "found the alias *a"),
    ],
    ids=["duplicate-key", "tab", "open-bracket", "deep", "alias"],
)
def test_what_cannot_be_read_is_400(mesh: LocalMesh, text: str, message: str) -> None:
    """Not YAML, or YAML that nobody means: a Status that names the line."""
    reply = mesh.rest("POST", "/mesh/v1/batch", text)
    assert reply.status == 400, reply.body
    assert reply.json["reason"] == "BadRequest"
    assert message in reply.json["message"]
