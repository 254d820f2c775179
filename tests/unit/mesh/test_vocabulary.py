"""Words that both planes use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.vocabulary import Dialect, HealthStatus, Locality, ObjectRef

parts = st.text(st.characters(exclude_characters="/", codec="utf-8"), max_size=10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Locality()),
        ("eu", Locality("eu")),
        ("eu/a", Locality("eu", "a")),
        ("eu/a/r1", Locality("eu", "a", "r1")),
        ("eu//r1", Locality("eu", "", "r1")),
        ("/a", Locality("", "a")),
    ],
)
def test_a_locality_is_read_and_written(text: str, expected: Locality) -> None:
    assert Locality.parse(text) == expected
    assert str(expected) == text


def test_a_locality_of_more_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="found 'a/b/c/d', expected region/zone/subzone"):
        Locality.parse("a/b/c/d")


@given(parts, parts, parts)
def test_every_locality_is_read_back(region: str, zone: str, sub_zone: str) -> None:
    locality = Locality(region, zone, sub_zone)
    assert Locality.parse(str(locality)) == locality


def test_an_object_is_named_as_people_do() -> None:
    ref = ObjectRef("networking.istio.io", "VirtualService", "shop", "users")
    assert str(ref) == "VirtualService shop/users"
    assert sorted([ref, ObjectRef("", "Service", "shop", "users")])[0].kind == "Service"


def test_two_kinds_of_one_name_are_told_apart() -> None:
    istio, other = (ObjectRef(group, "Gateway", "shop", "web") for group in (
        "networking.istio.io", "gateway.networking.k8s.io"
    ))  # fmt: skip
    assert str(istio) == "Gateway shop/web"
    assert str(other) == "Gateway.gateway.networking.k8s.io shop/web"


def test_health_and_dialects_are_their_wire_names() -> None:
    assert {str(status) for status in HealthStatus} == {
        *("UNKNOWN", "HEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT", "DEGRADED")
    }
    assert {str(dialect) for dialect in Dialect} == {"gossamer", "envoy", "grpc"}
