"""Tables, colours, documents."""

import io

import pytest

from controlplane.cli.output.documents import as_list, as_yaml
from controlplane.cli.output.tables import one_line, pairs, table
from controlplane.cli.output.terminal import BAD, Terminal, terminal_of
from controlplane.cli.state import age, clock, left


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_table_has_capitals_and_dashes_and_no_blanks_at_the_end() -> None:
    text = table(("name", "state"), [("reviews", ""), ("a", "ok")])
    assert text == "NAME      STATE\nreviews   -\na         ok\n"


def test_colours_do_not_shift_columns() -> None:
    plain = table(("name", "state", "x"), [("a", "healthy", "1"), ("b", "unhealthy", "2")])
    coloured = table(
        ("name", "state", "x"),
        [("a", "healthy", "1"), ("b", "unhealthy", "2")],
        terminal=Terminal(True),
        states=("state",),
    )
    assert "\x1b[32mhealthy\x1b[0m" in coloured
    assert "\x1b[31munhealthy\x1b[0m" in coloured
    stripped = coloured
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m"):
        stripped = stripped.replace(code, "")
    assert stripped == plain


def test_only_columns_of_states_are_coloured() -> None:
    text = table(("name", "state"), [("ok", "ok")], terminal=Terminal(True), states=("state",), heading=False)
    assert text == "ok   \x1b[32mok\x1b[0m\n"


def test_rows_that_come_later_stand_below_the_earlier_ones() -> None:
    widths = [0, 0]
    assert table(("name", "x"), [("reviews", "1")], widths=widths) == "NAME      X\nreviews   1\n"
    assert table(("name", "x"), [("a", "2")], heading=False, widths=widths) == "a         2\n"


def test_wide_signs_count_twice_and_control_characters_cannot_redraw_the_screen() -> None:
    assert table(("n", "x"), [("日本", "1"), ("abcd", "2")]) == "N      X\n日本   1\nabcd   2\n"
    assert one_line("a\x1b[2Jb\r\nc\x07") == "a?[2Jb c?"


def test_pairs() -> None:
    assert pairs([("Name", "a"), ("Namespace", "b")]) == "Name:        a\nNamespace:   b\n"


@pytest.mark.parametrize(
    ("tty", "no_color", "environ", "colour"),
    [
        (True, False, {}, True),
        (False, False, {}, False),
        (True, True, {}, False),
        (True, False, {"NO_COLOR": "1"}, False),
        (True, False, {"NO_COLOR": ""}, True),
        (True, False, {"TERM": "dumb"}, False),
    ],
)
def test_colours_only_where_a_person_looks(monkeypatch, tty, no_color, environ, colour) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    terminal = terminal_of(Tty() if tty else io.StringIO(), no_color=no_color)
    assert terminal.paint("x", BAD) == ("\x1b[31mx\x1b[0m" if colour else "x")


def test_yaml_writes_lines_as_lines_and_nothing_by_reference() -> None:
    shared = {"a": 1}
    assert as_yaml({"x": shared, "y": shared, "t": "l1\nl2\n"}) == "x:\n  a: 1\ny:\n  a: 1\nt: |\n  l1\n  l2\n"


def test_a_list_of_objects() -> None:
    assert as_list([], "yaml") == "apiVersion: v1\nkind: List\nitems: []\n"


def test_times() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert age("2026-01-01T11:59:30.500Z", now) == "29s"
    assert age("2026-01-01T09:40:00Z", now) == "140m"
    assert age("2026-01-01T05:40:00Z", now) == "6h20m"
    assert age("2025-12-28T11:00:00Z", now) == "4d"
    assert age("", now) == ""
    assert left("2026-01-01T12:00:30Z", now) == "30s"
    assert left("2026-01-01T11:00:00Z", now) == "0s"
    assert left("never", now) == ""
    assert clock("2026-01-01T12:00:30.250Z") == "12:00:30"
