"""Policies as users of Istio and Kubernetes write them (good_policies.yaml), in every version that is served."""

from collections.abc import Iterator
from pathlib import Path

from controlplane.policy.kinds import KINDS
from controlplane.policy.manifests import load_documents

_TEXTS = Path(__file__).with_suffix(".yaml").read_text().split("---\n")[1:]


def in_all_versions() -> Iterator[tuple[str, str]]:
    """(name, text) of every document in every version of its kind; the file has one of them."""
    for text in _TEXTS:
        (document,) = load_documents(text, source="good_policies.yaml")
        written, kind = document.value["apiVersion"], document.value["kind"]
        info = KINDS.by_api_version(written, kind)
        assert info is not None, text
        for version in info.versions:
            name = f"{kind}-{document.value['metadata']['name']}-{version}"
            yield name, text.replace(written, info.api_version(version), 1)
