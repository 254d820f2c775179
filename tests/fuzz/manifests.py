"""Fuzz target of what is posted to the control plane.

Invariants: any text is documents, or a MeshError that says where; any document is admitted, or refused field by field.
"""

from controlplane.policy.admission import Admitted, Rejected, admit
from controlplane.policy.manifests import load_documents
from mesh.errors import ErrorCode, MeshError
from tests.fuzz.target import Target
from tests.support.good_policies import in_all_versions

_PIECES = (
    b"apiVersion: ", b"kind: ", b"metadata:\n  name: a\n", b"spec:\n", b"---\n", b"- ", b"&a ", b"*a", b"<<: *a",
    b"!!binary ", b"!!python/object:os.system ", b"networking.istio.io/v1", b"VirtualService", b"DestinationRule",
    b"{", b"}", b"[", b"]", b"? ", b"|\n", b">-\n", b"null", b"~", b"1e999", b"0x10", b".nan", b"-.inf", b"'", b'"',
    b"\\u0000", b"%YAML 1.2\n", b"\t",
)  # fmt: skip


def _manifests(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        documents = load_documents(text, source="fuzz.yaml")
    except MeshError as error:
        if error.code is not ErrorCode.UNREADABLE:
            raise
        return
    for document in documents:
        assert document.line >= 1
        verdict = admit(document.value)
        if isinstance(verdict, Rejected):
            assert verdict.violations
            for violation in verdict.violations:
                assert violation.message.startswith("found ")
                assert document.line_of(violation.field) >= 1
                f"{violation.field} {violation.message}".encode()
        else:
            assert isinstance(verdict, Admitted)


def _seeds() -> list[bytes]:
    return [text.encode() for name, text in in_all_versions() if name.endswith("-v1")]


TARGETS = (Target(name="manifests", check=_manifests, seeds=_seeds, pieces=_PIECES),)
