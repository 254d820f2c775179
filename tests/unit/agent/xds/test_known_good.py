"""The last known good on disk: whole, damaged, of another node."""

import json
import stat
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.xds import known_good
from agent.xds.decoding import decode_resource
from agent.xds.known_good import FILE, Loaded
from agent.xds.resources import Held
from mesh.xds import type_url
from tests.support.agent_resources import held
from tests.support.depth import examples

RESOURCES = (
    held("cds", "a=1"),
    held("eds", "a=1"),
    held("lds", "l=1>r"),
    held("rds", "r=1*"),
    held("vhds", "r/é=1>a"),
)


def load(folder: Path, node: str = "n") -> Loaded:
    return known_good.load(folder, node, decode_resource)


def lines(folder: Path) -> list[bytes]:
    return (folder / FILE).read_bytes().splitlines(keepends=True)


def line(value: object) -> bytes:
    """A line whose checksum is right."""
    text = json.dumps(value).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def write(folder: Path, *written: bytes) -> None:
    (folder / FILE).write_bytes(b"".join(written))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A state directory with everything saved."""
    known_good.save(tmp_path, "n", RESOURCES)
    return tmp_path


def test_what_was_saved_comes_back(folder: Path) -> None:
    """Bodies, versions, and what they mean."""
    assert load(folder) == Loaded(resources=RESOURCES)


def test_no_file_is_an_empty_one(tmp_path: Path) -> None:
    assert load(tmp_path) == Loaded(resources=())


def test_nothing_saved_is_nothing_loaded(tmp_path: Path) -> None:
    known_good.save(tmp_path, "n", ())
    assert load(tmp_path) == Loaded(resources=())


def test_the_file_is_private_and_alone(folder: Path) -> None:
    assert stat.S_IMODE((folder / FILE).stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_a_save_replaces_the_whole(folder: Path) -> None:
    known_good.save(folder, "n", RESOURCES[:1])
    assert load(folder) == Loaded(resources=RESOURCES[:1])


def test_a_failed_save_leaves_the_old_file(folder: Path) -> None:
    (folder / FILE).with_suffix(".new").mkdir()  # where the new one is written first
    with pytest.raises(OSError, match=r"last-known-good\.new"):
        known_good.save(folder, "n", ())
    assert load(folder) == Loaded(resources=RESOURCES)


def test_a_damaged_line_costs_its_resource_only(folder: Path) -> None:
    head, first, second, *rest = lines(folder)
    write(folder, head, first, second.replace(b"a", b"b", 1), *rest)
    found = load(folder)
    assert found.resources == (RESOURCES[0], *RESOURCES[2:])
    assert found.problems == (f"{folder / FILE}:3: a resource is left out: damaged",)


def test_a_file_that_was_cut_off(folder: Path) -> None:
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[:-20])
    found = load(folder)
    assert found.resources == RESOURCES[:-1]
    assert found.problems == (f"{folder / FILE}:6: a resource is left out: damaged",)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (["type.googleapis.com/x.Y", "a", "1", ""], "a resource is left out: unknown type type.googleapis.com/x.Y"),
        ([["x"], "a", "1", ""], "a resource is left out: unknown type ['x']"),
        ([type_url.CLUSTER, "a", "1", "?"], "a resource is left out: Only base64 data is allowed"),
        (["x"], "a resource is left out: not enough values to unpack (expected 4, got 1)"),
        ({"a": 1}, "a resource is left out: not a record"),
        (
            [type_url.CLUSTER, "a", "1", "/w=="],
            "a is left out: found bytes that are no envoy.config.cluster.v3.Cluster",
        ),
        ([type_url.CLUSTER, "a", "1", ""], "a is left out: name: found '', expected at least 1 characters"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_used_is_left_out_and_named(folder: Path, value: object, problem: str) -> None:
    write(folder, *lines(folder), line(value))
    found = load(folder)
    assert found.resources == RESOURCES
    assert found.problems == (f"{folder / FILE}:7: {problem}",)


def test_a_resource_that_is_refused_since_an_upgrade(folder: Path) -> None:
    """The decoder that refuses one kind takes the others."""

    def stricter(url: str, name: str, body: bytes) -> object:
        return "lb_policy: found 0" if url == type_url.CLUSTER else decode_resource(url, name, body)

    found = known_good.load(folder, "n", stricter)  # type: ignore[arg-type]
    assert found.resources == RESOURCES[1:]
    assert found.problems == (f"{folder / FILE}:2: a is left out: lb_policy: found 0",)


def test_of_two_lines_for_one_resource_the_last_counts(folder: Path) -> None:
    newer = held("cds", "a=2")
    other = folder / "other"
    other.mkdir()
    known_good.save(other, "n", (newer,))
    write(folder, *lines(folder), lines(other)[1])
    assert {item.version for item in load(folder).resources if item.type_url == type_url.CLUSTER} == {"2"}


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (line([2, "n"]), "found schema 2, expected 1"),
        (line([1, "other"]), "it is of node other, this is n"),
        (line([1]), "its first line is damaged"),
        (line("x"), "its first line is damaged"),
        (b"garbage\n", "its first line is damaged"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_file_that_is_not_ours(folder: Path, first: bytes, problem: str) -> None:
    write(folder, first, *lines(folder)[1:])
    assert load(folder) == Loaded(resources=(), problems=(f"{folder / FILE}: {problem}",))


def test_an_empty_file(folder: Path) -> None:
    write(folder)
    assert load(folder).problems == (f"{folder / FILE}: its first line is damaged",)


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    assert load(tmp_path) == Loaded(resources=(), problems=(f"{tmp_path / FILE}: Is a directory",))


def test_a_file_beyond_the_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_good, "MAX_BYTES", 10)
    assert load(folder) == Loaded(resources=(), problems=(f"{folder / FILE}: more than 10 bytes",))


@given(at=st.integers(0, 5000), junk=st.binary(max_size=4), cut=st.integers(0, 4))
@settings(max_examples=examples(200))
def test_damage_anywhere_is_survived(tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes, cut: int) -> None:
    """Whatever loads is what was saved, and what does not is told."""
    folder = tmp_path_factory.mktemp("state")
    known_good.save(folder, "n", RESOURCES)
    whole = (folder / FILE).read_bytes()
    at %= len(whole)
    (folder / FILE).write_bytes(whole[:at] + junk + whole[at + cut :])
    found = load(folder)
    assert set(map(_key, found.resources)) <= set(map(_key, RESOURCES))
    assert found.resources == RESOURCES or found.problems


def _key(item: Held) -> tuple[str, str, str, bytes]:
    return item.type_url, item.name, item.version, item.body
