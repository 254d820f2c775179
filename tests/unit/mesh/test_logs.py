"""Log lines: one each, facts as fields, secrets never."""

import json
import logging
from collections.abc import Iterator

import pytest

from mesh import logs
from mesh.secret import Secret


class Lines:
    """What was written on standard error."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def getvalue(self) -> str:
        self._text += self._capture.readouterr().err
        return self._text


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Lines]:
    """The process's logging is put back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    token = logs._context.set({})
    yield Lines(capsys)
    logs._context.reset(token)
    root.handlers[:] = before
    root.setLevel(level)


def test_text_is_one_line_with_quoted_values(lines: Lines) -> None:
    logs.configure()
    logs.get_logger("x.y").info("something happened", plain="a-b", spaced="a b", quoted='a"b', empty="", number=7)
    line = lines.getvalue()
    assert line.count("\n") == 1
    assert "info    x.y: something happened" in line
    assert line.endswith('  plain=a-b spaced="a b" quoted="a\\"b" empty="" number=7\n')


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x1b[31mred", "a\u2028b", "\x9b31m", "a\x00b", "a\x7fb"])
def test_a_value_can_neither_break_the_line_nor_steer_the_terminal(lines: Lines, value: str) -> None:
    logs.configure()
    logs.get_logger("x").info("event", value=value)
    assert lines.getvalue()[:-1].isprintable()
    assert lines.getvalue().endswith(f"value={json.dumps(value)}\n")


def test_json_lines_are_readable_by_machines(lines: Lines) -> None:
    logs.configure(as_json=True)
    logs.get_logger("x").warning("event", count=1, ratio=0.5, yes=True, none=None, text='a "b"', other=("t",))
    line = json.loads(lines.getvalue())
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "x",
        "event": "event",
        "count": 1,
        "ratio": 0.5,
        "yes": True,
        "none": None,
        "text": 'a "b"',
        "other": "('t',)",
    }


@pytest.mark.parametrize("as_json", [False, True])
def test_an_exception_is_told_with_its_trace(lines: Lines, as_json: bool) -> None:
    logs.configure(as_json=as_json)
    error = ValueError("broken")
    logs.get_logger("x").error("failed", exc_info=error)
    assert "ValueError: broken" in lines.getvalue()
    assert as_json is False or "ValueError" in json.loads(lines.getvalue())["exception"]


def test_bound_facts_stand_in_every_line(lines: Lines) -> None:
    logs.configure(as_json=True)
    logs.bind(node="n1", stream=7)
    logs.bind(stream=8)
    logs.get_logger("x").info("event", own=1)
    line = json.loads(lines.getvalue())
    assert (line["node"], line["stream"], line["own"]) == ("n1", 8, 1)


def test_levels(lines: Lines) -> None:
    logs.configure(level="warning")
    logs.get_logger("x").debug("no")
    logs.get_logger("x").info("no")
    assert lines.getvalue() == ""
    with pytest.raises(ValueError, match="LOUD"):
        logs.configure(level="loud")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_secret_is_in_no_line(lines: Lines, as_json: bool) -> None:
    logs.configure(as_json=as_json)
    secret = Secret("hunter2")
    logs.get_logger("x").info("event", password=secret, nested=[secret], text=f"{secret} {secret!r}")
    assert "hunter2" not in lines.getvalue()
    assert "[redacted]" in lines.getvalue()


def test_a_secret_is_revealed_only_by_name() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    assert (str(secret), repr(secret), f"{secret}") == ("[redacted]",) * 3
    assert secret == Secret("hunter2")
    assert secret != Secret("other")
    assert secret != "hunter2"
    assert len({secret, Secret("hunter2")}) == 1
