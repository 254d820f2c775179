"""Fuzz targets of what is read from configured texts and from paths.

Invariants: a format is refused with a FormatError, or makes a line of any request; a normalised path has one spelling.
"""

import json

from agent.filters import paths
from agent.filters.access_log import DEFAULT
from agent.filters.formats import constant_of, text_format
from agent.filters.subject import FormatError
from agent.model.listener import AccessLog
from controlplane.compiler.access_log import FIELDS
from tests.fuzz.target import Target
from tests.support.log_lines import line_of
from tests.unit.agent.filters.test_formats import subject, unread

_FORMAT_PIECES = (
    b"%", b"%%", b"%REQ(", b"%RESP(", b"%TRAILER(", b"%QUERY_PARAM(", b"%START_TIME(", b"%GRPC_STATUS(", b"?:PATH",
    b")%", b"%PROTOCOL%", b":5%", b"CAMEL_STRING", b"%Y-%m-%d", b"%s", b"%3f", b"%f", b"%DURATION%", b"(x)",
    b":AUTHORITY",
)  # fmt: skip
_SUBJECTS = (subject(), unread())


def _formats(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    try:
        constant = constant_of(text)
        form = text_format(text)
    except FormatError:
        return
    fields = (("plain", text), ('odd"\n', f"{text}x"))
    lines = [line_of(AccessLog(path="/dev/stdout", json_fields=fields)), line_of(AccessLog(path="x", text_format=text))]
    for each in _SUBJECTS:
        told = form(each)
        assert constant is None or told == constant
        row, plain = (line(each) for line in lines)
        assert row.endswith(b"\n")
        assert row.count(b"\n") == 1
        assert json.loads(row).keys() == {"plain", 'odd"\n'}
        assert isinstance(plain, bytes)


def _format_seeds() -> list[bytes]:
    alone = [DEFAULT, "", "%%", "%START_TIME(%Y/%m/%dT%H:%M:%S.%3f%z)%"]
    return [form.encode() for form in (*alone, *FIELDS.values())]


def _paths(data: bytes) -> None:
    target = b"/" + data
    for merge in (False, True):
        found = paths.normalized(target, merge)
        if not paths.needs_work(target, merge):
            assert found == target
        if found is None:
            assert b"\\" in target or b"%" in target
            continue
        path, mark, query = found.partition(b"?")
        assert paths.normalized(found, merge) == found
        assert (mark, query) == target.partition(b"?")[1:]
        assert path[:1] == b"/"
        assert not {b".", b".."} & set(path.split(b"/"))
        assert b"\\" not in path
        assert b"%00" not in path
        assert b"%2e" not in path.lower()
        assert not merge or b"//" not in path


def _path_seeds() -> list[bytes]:
    return [
        b"ok", b"a/../b", b"a/./b/..", b"%2e%2e/x", b"a//b", b"%6fk?x=/../y", b"..%2f..", b"%00", b"a\\b", b"?/..",
        b".", b"%", b"a/b/c/../../../../d", b"%2", b"%zz", b"%25%32%65", b"a/..;/b", b"a?b?c",
    ]  # fmt: skip


TARGETS = (
    Target(name="formats", check=_formats, seeds=_format_seeds, pieces=_FORMAT_PIECES),
    Target(
        name="paths",
        check=_paths,
        seeds=_path_seeds,
        pieces=(b"/", b"..", b".", b"//", b"%2e", b"%2E", b"%2f", b"%00", b"%25", b"\\", b"?", b"%5c", b"/../"),
    ),
)
