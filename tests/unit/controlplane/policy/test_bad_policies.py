"""Every policy of the table is refused, at its exact field, with what was found and expected, and for nothing else."""

from collections import Counter

import pytest

from controlplane.policy.admission import Admitted, Rejected, admit
from controlplane.policy.manifests import load_documents
from tests.support.bad_policies import BAD_POLICIES, BadPolicy

KINDS = {
    "VirtualService",
    "DestinationRule",
    "ServiceEntry",
    "WorkloadEntry",
    "Gateway",
    "GatewayClass",
    "HTTPRoute",
    "GRPCRoute",
    "ReferenceGrant",
    "PeerAuthentication",
    "RequestAuthentication",
    "AuthorizationPolicy",
    "RateLimit",
    "CircuitBreaker",
    "Bulkhead",
    "Service",
    "Secret",
}


@pytest.mark.parametrize("case", BAD_POLICIES, ids=lambda case: case.name)
def test_refused(case: BadPolicy) -> None:
    (document,) = load_documents(case.text, source="bad.yaml")
    verdict = admit(document.value)
    assert isinstance(verdict, Rejected)
    (violation,) = verdict.violations
    assert violation.field == case.field
    assert case.message in violation.message
    assert violation.message.startswith("found ")
    assert ", expected " in violation.message
    assert "hunter2" not in str(verdict), "no value of a Secret is shown"


def test_the_table_is_large_and_covers_all_kinds() -> None:
    counts = Counter(case.kind for case in BAD_POLICIES)
    assert counts.keys() == KINDS
    assert len(BAD_POLICIES) >= 80
    assert len({case.name for case in BAD_POLICIES}) == len(BAD_POLICIES)


def test_all_violations_are_collected() -> None:
    """One answer names everything that is wrong, in whatever part it is."""
    verdict = admit(
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": "Upper", "labels": {"a": 1}},
            "spec": {
                "hosts": ["*"],
                "http": [{"timeout": "1", "route": [{"destination": {"host": "a"}, "weigth": 1}]}, {"route": []}],
            },
        }
    )
    assert isinstance(verdict, Rejected)
    assert sorted(item.field for item in verdict.violations) == [
        "metadata.labels[a]",
        "metadata.name",
        "spec.hosts[0]",
        "spec.http[0].route[0].weigth",
        "spec.http[0].timeout",
        "spec.http[1].route",
    ]


def test_unknown_fields_become_warnings_when_asked_for() -> None:
    """fieldValidation=Warn: the rest is admitted, the field is left out."""
    manifest = {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "DestinationRule",
        "metadata": {"name": "a", "nmae": "b"},
        "spec": {"host": "a", "subsets": [{"name": "v1", "labels": {"v": "1"}, "colour": "red"}]},
    }
    verdict = admit(manifest, strict=False)
    assert isinstance(verdict, Admitted)
    assert sorted(warning.partition(":")[0] for warning in verdict.warnings) == [
        "metadata.nmae",
        "spec.subsets[0].colour",
    ]
    assert b"colour" not in verdict.object.spec_json
    # What is known and wrong is refused all the same.
    manifest["spec"]["host"] = ""  # type: ignore[index]
    assert isinstance(admit(manifest, strict=False), Rejected)


@pytest.mark.parametrize("value", [None, [], "text", 1, True, {}])
def test_anything_else_than_an_object_is_refused(value: object) -> None:
    assert isinstance(admit(value), Rejected)  # type: ignore[arg-type]
