"""Whatever is posted: admission answers, never raises, and what it admits compiles."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.compiler.compile import Compiler
from controlplane.model.mesh_state import Changes, MeshState
from controlplane.policy.admission import Admitted, Rejected, admit
from controlplane.policy.kinds import KINDS
from controlplane.policy.limits import MAX_DEPTH, MAX_LIST_ITEMS, MAX_MAP_ITEMS, MAX_TEXT, MAX_VALUES
from controlplane.policy.manifests import load_documents
from mesh.vocabulary import ObjectRef
from tests.support.compiling import SETTINGS, agent, instance, proxy_of
from tests.support.depth import examples
from tests.support.good_policies import in_all_versions

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a", "*", "1s", "0s", "-1", "STRICT", "/", "(", "v1", "10.0.0.1", "http", 0, 1, 80, 65536, 2**31]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
GOOD = [load_documents(text, source="good.yaml")[0].value for name, text in in_all_versions() if name.endswith("-v1")]
PROXIES = (
    agent(),
    proxy_of({"id": "node-1", "userAgentName": "envoy", "metadata": {"TLS_DIR": "/tls"}}, delta=False),
    proxy_of({"id": "client", "userAgentName": "gRPC C-core"}, delta=False),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of everything inside a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in places(item, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of the document with `new` at the path."""
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {key: changed(item, rest, new) if key == head else item for key, item in value.items()}
    return [changed(item, rest, new) if index == head else item for index, item in enumerate(value)]


MUTATED = st.sampled_from(GOOD).flatmap(
    lambda good: st.tuples(st.sampled_from(places(good)), ANYTHING).map(lambda pair: changed(good, *pair))
)


@settings(max_examples=examples(400))
@given(MUTATED)
def test_a_changed_policy_is_admitted_or_refused_with_paths(document: Any) -> None:
    """Every violation says found and expected at some path; what is admitted compiles in all dialects."""
    verdict = admit(document)
    if isinstance(verdict, Rejected):
        for violation in verdict.violations:
            assert violation.message.startswith("found ")
            violation.field.encode()
            violation.message.encode()
        return
    found = verdict.object.stamped(uid="x", creation_timestamp="2026-01-01T00:00:00Z", generation=1)
    compile_with(MeshState.empty(SETTINGS).with_changes(Changes(revision=1, objects=(found,), instances=INSTANCES)))


INSTANCES = (
    instance("a-1", service="a", version="v1"),
    instance("reviews-1", service="reviews", version="v2", inbound_port=20001, outbound_port=15101),
    instance("ratings-1", service="ratings", version="v3", inbound_port=20002),
    instance("user-1", version="v1", inbound_port=20003),
)


def compile_with(mesh: MeshState) -> None:
    compiler = Compiler()
    for proxy in PROXIES:
        compiler.compile_scope(mesh, mesh.scope_of(proxy))
        compiler.compile_proxy(mesh, proxy)
    compiler.conditions(mesh)


def test_all_good_policies_compile_together() -> None:
    objects = []
    for number, document in enumerate(GOOD):
        verdict = admit(document)
        assert isinstance(verdict, Admitted)
        stamp = f"2026-01-01T00:00:{number:02}Z"
        objects.append(verdict.object.stamped(uid=str(number), creation_timestamp=stamp, generation=1))
    changes = Changes(revision=1, objects=tuple(objects), instances=INSTANCES)
    compile_with(MeshState.empty(SETTINGS).with_changes(changes))


def virtual_service(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "a"},
        "spec": {"hosts": ["a"], "http": [{"route": [{"destination": {"host": "a"}}]}], **spec},
    }


@pytest.mark.parametrize(
    ("document", "field", "message"),
    [
        (virtual_service(hosts=["a"] * (MAX_LIST_ITEMS + 1)), "spec.hosts", f"expected at most {MAX_LIST_ITEMS}"),
        (
            {**virtual_service(), "metadata": {"name": "a", "labels": {f"k{i}": "" for i in range(MAX_MAP_ITEMS + 1)}}},
            "metadata.labels",
            f"expected at most {MAX_MAP_ITEMS}",
        ),
        (virtual_service(hosts=["a" * (MAX_TEXT + 1)]), "spec.hosts[0]", f"expected at most {MAX_TEXT}"),
        (virtual_service(http=[[[0] * 4000] * 20] * 3), "spec.http", f"found more than {MAX_VALUES} values"),
        (virtual_service(tls=float("nan")), "spec.tls", "expected a finite one of 64 bits"),
        (virtual_service(tls=2**70), "spec.tls", "expected a finite one of 64 bits"),
        (virtual_service(hosts=["\ud800"]), "spec.hosts[0]", "found half a surrogate pair"),
        (virtual_service(hosts=[object()]), "spec.hosts[0]", "expected a JSON value"),
        ({**virtual_service(), 1: "x"}, "", "expected keys that are strings"),
    ],
    ids=["list", "map", "text", "values", "nan", "huge", "surrogate", "object", "key"],
)
def test_limits(document: Any, field: str, message: str) -> None:
    """Beyond the limits nothing else is looked at in that place."""
    verdict = admit(document)
    assert isinstance(verdict, Rejected)
    found = [item for item in verdict.violations if message in item.message]
    assert any(item.field.startswith(field) for item in found), verdict.violations[:3]


def test_nesting_has_an_end() -> None:
    nested: Any = "x"
    for _ in range(5000):
        nested = [nested]
    verdict = admit(virtual_service(http=nested))
    assert isinstance(verdict, Rejected)
    assert any(f"found more than {MAX_DEPTH} levels" in item.message for item in verdict.violations)


def test_the_server_owns_its_part_of_the_metadata() -> None:
    """What a client sends back of it is neither checked nor kept."""
    served = {
        "uid": 7,
        "creationTimestamp": None,
        "generation": "x",
        "resourceVersion": [],
        "managedFields": {"a": object()},
    }
    verdict = admit({**virtual_service(), "metadata": {"name": "a", **served}, "status": {"anything": [1]}})
    assert isinstance(verdict, Admitted)
    assert verdict.object.metadata.uid == ""
    assert verdict.object.manifest().keys() == {"apiVersion", "kind", "metadata", "spec"}


@pytest.mark.parametrize(
    "word",
    [
        "vs", "virtualservices", "VirtualService", "VIRTUALSERVICES.networking.istio.io",
        "virtualservice.networking.istio.io",
    ],
)  # fmt: skip
def test_kinds_are_found_by_what_people_type(word: str) -> None:
    found = KINDS.by_word(word)
    assert found is not None
    assert found.kind == "VirtualService"


@pytest.mark.parametrize(
    ("word", "group"),
    [
        ("gateway", "networking.istio.io"),
        ("gateways", "networking.istio.io"),
        ("gw", "networking.istio.io"),
        ("gateways.networking.istio.io", "networking.istio.io"),
        ("gateways.gateway.networking.k8s.io", "gateway.networking.k8s.io"),
        ("gateway.gateway.networking.k8s.io", "gateway.networking.k8s.io"),
        ("Gateway.networking.istio.io", "networking.istio.io"),
        ("gtw", "gateway.networking.k8s.io"),
        ("httproute", "gateway.networking.k8s.io"),
    ],
)
def test_one_name_in_two_groups(word: str, group: str) -> None:
    """The word alone means Istio's; the full name and the short name of its own mean the Gateway API's."""
    found = KINDS.by_word(word)
    assert found is not None
    assert found.group == group
    assert KINDS.by_word(KINDS.resource(found)) is found
    assert len(KINDS.named("Gateway")) == 2


def test_no_two_kinds_are_shown_alike() -> None:
    """And what is shown of a kind is a word for it."""
    shown = {ObjectRef(info.group, info.kind, "a", "b").kind_word: info for info in KINDS}
    assert len(shown) == len(KINDS)
    assert all(KINDS.by_word(word) is info for word, info in shown.items())


@pytest.mark.parametrize("group", ["networking.istio.io", "gateway.networking.k8s.io"])
def test_a_version_that_is_not_served_of_a_name_in_two_groups(group: str) -> None:
    """Every version is named; the rest of the manifest is looked at as of the group that was written."""
    verdict = admit(
        {"apiVersion": f"{group}/v9", "kind": "Gateway", "metadata": {"name": "a"}, "spec": {"servers": []}}
    )
    assert isinstance(verdict, Rejected)
    found = {item.field: item.message for item in verdict.violations}
    assert "networking.istio.io/v1, " in found["apiVersion"]
    assert "gateway.networking.k8s.io/v1beta1 for a Gateway" in found["apiVersion"]
    unknown = 'found the unknown field "servers"'
    assert any(unknown in message for message in found.values()) is (group == "gateway.networking.k8s.io")


def test_kinds_by_mistake() -> None:
    nearest = KINDS.nearest("VirtualServise")
    assert nearest is not None
    assert nearest.kind == "VirtualService"
    assert KINDS.nearest("Ingress") is None
    assert KINDS.by_word("sidecar") is None
