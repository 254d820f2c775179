"""SPIFFE ids. Source: SPIFFE-ID specification sections 2.1-2.4."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.identity.spiffe import SpiffeId, node_id, workload_id

domains = st.text("abc019._-", min_size=1, max_size=20)
segments = st.text("abcXYZ019._-", min_size=1, max_size=20).filter(lambda text: text not in (".", ".."))


@given(domains, st.lists(segments, max_size=5))
def test_every_id_is_read_back(domain: str, path: list[str]) -> None:
    uri = "/".join([f"spiffe://{domain}", *path])
    parsed = SpiffeId.parse(uri)
    assert str(parsed) == uri
    assert parsed.trust_domain == domain
    assert parsed.path == "".join(f"/{segment}" for segment in path)


@given(domains, segments, segments)
def test_workloads_and_nodes_are_told_apart(domain: str, one: str, other: str) -> None:
    workload = workload_id(domain, one, other)
    assert str(workload) == f"spiffe://{domain}/ns/{one}/sa/{other}"
    assert (workload.workload, workload.node) == ((one, other), None)
    node = node_id(domain, one)
    assert str(node) == f"spiffe://{domain}/node/{one}"
    assert (node.workload, node.node) == (None, one)


@given(st.text(max_size=60))
def test_any_text_is_an_id_or_a_value_error(text: str) -> None:
    for uri in (text, f"spiffe://{text}", f"spiffe://td/{text}"):
        found = uri
        with contextlib.suppress(ValueError):
            found = str(SpiffeId.parse(uri))
        assert found == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://",
        "spiffe:///ns/a",
        "https://td/ns/a",
        "SPIFFE://td/a",
        "spiffe://TD/a",
        "spiffe://td:80/a",
        "spiffe://user@td/a",
        "spiffe://td/",
        "spiffe://td/a/",
        "spiffe://td//a",
        "spiffe://td/a/../b",
        "spiffe://td/./a",
        "spiffe://td/a?x=y",
        "spiffe://td/a#f",
        "spiffe://td/a%20b",
        "spiffe://td/a b",
        "spiffe://td/a\n",
        "spiffe://td\n",
        "spiffe://td/\u0430",
        "spiffe://" + "a" * 256 + "/b",
        "spiffe://td/" + "a" * 2048,
    ],
)
def test_what_is_no_spiffe_id_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="found"):
        SpiffeId.parse(uri)


@pytest.mark.parametrize("part", ["", "a/b", "..", "a b", "a%2fb", "*"])
def test_parts_that_would_change_the_id_are_refused(part: str) -> None:
    with pytest.raises(ValueError, match="found"):
        workload_id("td", "ns", part)
    with pytest.raises(ValueError, match="found"):
        node_id("td", part)


@pytest.mark.parametrize("trust_domain", ["", "a/b", "a b", "TD", "a/ns/b/sa/c", "*"])
def test_trust_domains_that_would_change_the_id_are_refused(trust_domain: str) -> None:
    with pytest.raises(ValueError, match="found"):
        node_id(trust_domain, "node")


@pytest.mark.parametrize(
    "path", ["/ns/a", "/ns/a/sa", "/ns/a/sa/b/c", "/sa/a/ns/b", "/node", "/node/a/b", "/nodes/a", ""]
)
def test_other_paths_are_neither_workload_nor_node(path: str) -> None:
    found = SpiffeId.parse(f"spiffe://td{path}")
    assert (found.workload, found.node) == (None, None)
