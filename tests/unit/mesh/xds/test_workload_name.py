"""The text that tells who a workload is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.xds.workload_name import WorkloadName

PART = st.text(st.characters(exclude_characters=";", exclude_categories=("Cs",)), max_size=8)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, "reviews;shop;sa;;;reviews;latest"),
        ({"app": "r", "version": "v1"}, "reviews;shop;sa;r;v1;r;v1"),
        ({"app": "r", "app.kubernetes.io/name": "k", "app.kubernetes.io/version": "2"}, "reviews;shop;sa;r;;k;2"),
        (
            {"service.istio.io/canonical-name": "c", "service.istio.io/canonical-revision": "9", "app": "r"},
            "reviews;shop;sa;r;;c;9",
        ),
        ({"app": "a;b"}, "reviews;shop;sa;a_b;;a_b;latest"),
    ],
)
def test_labels_decide(labels: dict[str, str], text: str) -> None:
    assert str(WorkloadName.of("reviews", "shop", "sa", labels)) == text


@given(st.tuples(PART, PART, PART, PART, PART, PART, PART))
def test_it_reads_what_it_writes(parts: tuple[str, ...]) -> None:
    name = WorkloadName(
        workload=parts[0],
        namespace=parts[1],
        service_account=parts[2],
        app=parts[3],
        version=parts[4],
        canonical_service=parts[5],
        canonical_revision=parts[6],
    )
    assert WorkloadName.parse(str(name)) == name


def test_what_is_not_said_is_empty_and_what_is_too_much_is_ignored() -> None:
    assert WorkloadName.parse("") == WorkloadName(workload="")
    assert WorkloadName.parse("a;b").namespace == "b"
    assert WorkloadName.parse("a;b;c;d;e;f;g;h").canonical_revision == "g"
