"""Files of manifests: what YAML and JSON are taken as, what is refused, and that every field has its line."""

import json

import pytest

from controlplane.policy.manifests import MAX_DEPTH, MAX_DOCUMENTS, MAX_VALUES, load_documents
from mesh.errors import ErrorCode, MeshError

# Nine levels of ten aliases each: 10**9 values from a few hundred bytes.
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
)
UNREADABLE: tuple[tuple[str, str, str], ...] = (
    ("duplicate-key", "spec:\n  host: a\n  host: b\n", 'line 3: found the key "host" twice in one object'),
    ("duplicate-key-flow", "{a: 1, b: {c: 1, c: 2}}", 'found the key "c" twice'),
    ("duplicate-key-json", '{"a": 1,\n "b": {"c": 1, "c": 2}}', 'found the key "c" twice'),
    ("duplicate-key-quoted", "a: 1\n'a': 2\n", 'line 2: found the key "a" twice'),
    ("alias-bomb", LAUGHS, f"found more than {MAX_VALUES} values with aliases expanded"),
    ("alias-unknown", "a: *b\n", "found the alias *b, expected an anchor of that name before it"),
    ("alias-of-itself", "a: &a [*a]\n", "found the alias *a, expected an anchor of that name before it"),
    ("merge-of-text", "a: {<<: text}\n", 'found "text" after <<, expected an object'),
    ("list-as-key", "? [a, b]\n: c\n", "found a list or an object as a key, expected a string"),
    ("object-as-key", "{a: 1}: c\n", "found a list or an object as a key, expected a string"),
    ("alias-as-key", "a: &x [1]\n*x : b\n", "found a list as a key, expected a string"),
    ("tab", "a:\n\tb: 1\n", "indent with blanks, not with tabs"),
    ("deep-flow", "a: " + "[" * 200 + "]" * 200, f"found more than {MAX_DEPTH} levels"),
    ("deep-block", "".join(f"{'  ' * depth}a:\n" for depth in range(100)), f"found more than {MAX_DEPTH} levels"),
    ("deep-json", "[" * 100_000 + "]" * 100_000, "exceeded maximum nesting depth"),
    ("open-bracket", "a: [1, 2\n", "line 2"),
    ("open-quote", "a: 'b\n", "while scanning a quoted scalar"),
    ("bad-indent", "a: 1\n  b: 2\n", "mapping values are not allowed"),
    ("python-tag", "a: !!python/object/apply:os.system [ls]\n", 'python/object/apply:os.system", expected plain YAML'),
    ("set-tag", "a: !!set {b: ~}\n", 'found the tag "tag:yaml.org,2002:set", expected plain YAML'),
    ("own-tag", "a: !secret b\n", 'found the tag "!secret", expected plain YAML'),
    ("not-a-number", "a: .nan\n", "found .nan, expected a finite number"),
    ("infinity", "a: -.inf\n", "found -.inf, expected a finite number"),
    ("control-character", "a: \x01\n", "control characters are not allowed"),
    ("many-documents", "--- a\n" * (MAX_DOCUMENTS + 1), f"found more than {MAX_DOCUMENTS} documents"),
    ("second-document", "a: 1\n---\nb: [\n", "document 2, line 4"),
)


@pytest.mark.parametrize(("text", "message"), [row[1:] for row in UNREADABLE], ids=[row[0] for row in UNREADABLE])
def test_unreadable(text: str, message: str) -> None:
    """The error names the source, the document, the line, and what was found."""
    with pytest.raises(MeshError) as caught:
        load_documents(text, source="file.yaml")
    assert caught.value.code is ErrorCode.UNREADABLE
    assert caught.value.subject == "file.yaml"
    assert message in str(caught.value)
    assert caught.value.message.startswith("document ")


def test_scalars_are_those_of_yaml_1_2() -> None:
    """No Norway problem, no sexagesimal ports, no octal surprise."""
    (document,) = load_documents(
        "{a: no, b: on, c: 22:22, d: 010, e: 0x1f, f: 1e3, g: ~, h: 'null', i: True, j: 2026-01-01, k: !!str 1}",
        source="t",
    )
    assert document.value == {
        "a": "no",
        "b": "on",
        "c": "22:22",
        "d": 10,
        "e": 31,
        "f": 1000.0,
        "g": None,
        "h": "null",
        "i": True,
        "j": "2026-01-01",
        "k": "1",
    }


def test_keys_are_strings_as_they_are_written() -> None:
    """As in JSON; two spellings of one number are two keys."""
    (document,) = load_documents("8080: a\n0x1f90: b\ntrue: c\n~: d\n", source="t")
    assert document.value == {"8080": "a", "0x1f90": "b", "true": "c", "~": "d"}


def test_documents_lists_and_empty_documents() -> None:
    documents = load_documents(
        "---\n# nothing\n---\na: 1\n---\n\n---\nkind: List\nitems: [{b: 2}, {c: 3}]\n", source="t"
    )
    assert [item.value for item in documents] == [{"a": 1}, {"b": 2}, {"c": 3}]
    assert [item.item for item in documents] == ["", "items[0]", "items[1]"]
    assert load_documents("", source="t") == []
    assert load_documents("# only a comment\n", source="t") == []


def test_anchors_and_merge_keys_are_taken() -> None:
    (document,) = load_documents("base: &b {x: 1, y: 2}\nown: {<<: *b, y: 3}\nboth: {<<: [*b, {z: 4}]}\n", source="t")
    assert document.value["own"] == {"x": 1, "y": 3}
    assert document.value["both"] == {"x": 1, "y": 2, "z": 4}


def test_json_and_yaml_say_the_same() -> None:
    value = {"a": [1, 2.5, "x\ty", None, True], "b": {"c": "\u00fc"}}
    for text in (json.dumps(value), json.dumps(value, indent=2), f"# a comment\n{json.dumps(value)}"):
        (document,) = load_documents(text, source="t")
        assert document.value == value
    two = load_documents('{"a": 1}\n{"b": 2}', source="t")
    assert [(item.value, item.line) for item in two] == [({"a": 1}, 1), ({"b": 2}, 2)]


MANY_LINES = """\
# line 1
apiVersion: v1
spec:
  hosts:
  - a
  http:
  - match:
    - headers:
        x-user:
          exact: b
    route:
    - weight: 1
---
other: 1
list:
- one
- two
"""


@pytest.mark.parametrize(
    ("document", "path", "line"),
    [
        (0, "apiVersion", 2),
        (0, "spec", 3),
        (0, "spec.hosts[0]", 5),
        (0, "spec.http[0].match[0].headers[x-user].exact", 10),
        (0, "spec.http[0].route[0].weight", 12),
        (0, "spec.http[0].route[0].destination", 12),  # absent: the nearest thing around it
        (0, "spec.http[0].timeout", 7),
        (0, "metadata.name", 2),
        (0, "", 2),
        (1, "list[1]", 17),
        (1, "nothing", 14),
    ],
)
def test_every_field_has_its_line(document: int, path: str, line: int) -> None:
    assert load_documents(MANY_LINES, source="t")[document].line_of(path) == line


def test_lines_in_json_and_in_lists() -> None:
    first, second = load_documents(
        json.dumps({"kind": "List", "items": [{"a": {"b": 1}}, {"a": {"c": 2}}]}, indent=1), source="f.json"
    )
    assert first.line_of("a.b") < second.line_of("a.c")
    assert second.line_of("a.missing") == second.line_of("a")
    assert first.where == "f.json:4"
