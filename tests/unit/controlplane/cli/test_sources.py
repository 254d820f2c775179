"""What -f names, and the place that an error names."""

import io
import sys
from pathlib import Path

import pytest

from controlplane.cli.refusals import Cause, Refusal
from controlplane.cli.sources import place, read_batch
from mesh.errors import ErrorCode, MeshError

RULE = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: {name}
spec:
  host: {name}
"""


def rule(name: str) -> str:
    return RULE.format(name=name)


def names(batch) -> list[str]:  # type: ignore[no-untyped-def]
    return [manifest["metadata"]["name"] for manifest in batch.manifests]


def test_files_folders_and_documents_in_order(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(rule("b1") + "---\n" + rule("b2"))
    (tmp_path / "a.yml").write_text(rule("a"))
    (tmp_path / "c.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}')
    (tmp_path / "notes.txt").write_text("no manifest")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.yaml").write_text(rule("d"))
    assert names(read_batch([str(tmp_path)])) == ["a", "b1", "b2", "c"]
    assert names(read_batch([str(tmp_path)], recursive=True)) == ["a", "b1", "b2", "c", "d"]
    assert names(read_batch([str(tmp_path / "b.yaml"), str(tmp_path / "a.yml")])) == ["b1", "b2", "a"]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rule("in").encode())))
    assert names(read_batch(["-"])) == ["in"]


def test_a_list_counts_as_its_items(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text(
        "apiVersion: v1\nkind: List\nitems:\n"
        "- apiVersion: v1\n  kind: Namespace\n  metadata: {name: one}\n"
        "- apiVersion: v1\n  kind: Namespace\n  metadata: {name: two}\n"
    )
    batch = read_batch([str(tmp_path / "list.yaml")])
    assert names(batch) == ["one", "two"]
    assert place(batch.documents[1], "metadata.name") == f"{tmp_path}/list.yaml:9 (document 1, items[1])"


def test_the_namespace_is_given_to_those_without(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rule("a") + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
    first, second = read_batch([str(tmp_path / "a.yaml")], namespace="shop").manifests
    assert first["metadata"]["namespace"] == "shop"
    assert "namespace" not in second["metadata"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1,\n b: }\n", "document 1, line 2, column 5"),
        (rule("a") + "---\nkind: X\nkind: Y\n", 'document 2, line 9: found the key "kind" twice'),
        ("[1, 2]\n", "found list, expected an object with apiVersion, kind and metadata"),
        ("just text\n", "found str, expected an object"),
        ("# nothing\n", "found no object"),
        (
            rule("a").replace("  name: a", "  name: a\n  namespace: other"),
            "metadata.namespace: found 'other', but -n says 'shop'",
        ),
    ],
)
def test_unreadable_files_are_named_with_line_and_document(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(MeshError) as caught:
        read_batch([str(path)], namespace="shop")
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(MeshError, match="line 2: found bytes that are not UTF-8"):
        read_batch([str(tmp_path / "x.yaml")])


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="cannot read: No such file or directory"):
        read_batch([str(tmp_path / "none.yaml")])
    with pytest.raises(MeshError, match="-R looks into its folders too"):
        read_batch([str(tmp_path)])
    with pytest.raises(MeshError, match="found - twice"):
        read_batch(["-", "-"])


def test_a_refusal_is_explained_with_file_line_document_and_field(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(rule("a") + "---\n" + rule("b"))
    batch = read_batch([str(path)])
    causes = [
        Cause(field="spec.host", message="found 1, expected a name", object="DestinationRule default/b", document=1),
        Cause(field="metadata", message="odd", document=7),
    ]
    assert batch.explain(Refusal(ErrorCode.INVALID, "x", causes)) == [
        f"{path}:13 (document 2): DestinationRule default/b: spec.host: found 1, expected a name",
        "metadata: odd",
    ]
