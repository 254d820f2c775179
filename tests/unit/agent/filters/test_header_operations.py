"""Configured header operations, one level."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent.codec.head import Headers, RequestHead
from agent.filters.header_operations import Operations
from agent.filters.subject import FormatError
from agent.model.route import HeaderAction, HeaderOps

SUBJECT: Any = SimpleNamespace(head=RequestHead(b"GET", b"/p", b"a", Headers()))


def applied(*fields: tuple[str, str], add: Any = (), remove: tuple[str, ...] = ()) -> list[tuple[bytes, bytes]]:
    headers = Headers()
    for name, value in fields:
        headers.append(name.encode(), value.encode())
    Operations(HeaderOps(add=add, remove=remove)).apply(headers, SUBJECT)
    assert {name.lower() for name, _ in headers.fields} == set(headers.index)
    return headers.fields


@pytest.mark.parametrize(
    ("action", "absent", "present"),
    [
        (HeaderAction.APPEND, ["new"], ["old", "new"]),
        (HeaderAction.ADD_IF_ABSENT, ["new"], ["old"]),
        (HeaderAction.OVERWRITE, ["new"], ["new"]),
        (HeaderAction.OVERWRITE_IF_EXISTS, [], ["new"]),
    ],
)
def test_actions(action: HeaderAction, absent: list[str], present: list[str]) -> None:
    """HeaderValueOption.HeaderAppendAction."""
    add = (("X-A", "new", action),)
    assert [value.decode() for _, value in applied(add=add)] == absent
    assert [value.decode() for _, value in applied(("x-a", "old"), add=add)] == present


def test_removals_come_first() -> None:
    fields = applied(
        ("X-A", "1"), ("x-a", "2"), ("x-b", "3"), add=(("x-a", "4", HeaderAction.APPEND),), remove=("X-a",)
    )
    assert fields == [(b"x-b", b"3"), (b"x-a", b"4")]


def test_all_of_a_level_is_decided_before_any_of_it_is_done() -> None:
    """As Envoy: every value and condition sees the head as it came, then what is overwritten goes first."""
    append, absent, overwrite = HeaderAction.APPEND, HeaderAction.ADD_IF_ABSENT, HeaderAction.OVERWRITE
    existing = HeaderAction.OVERWRITE_IF_EXISTS
    assert applied(add=(("x-a", "1", append), ("x-a", "2", overwrite))) == [(b"x-a", b"2"), (b"x-a", b"1")]
    assert applied(add=(("x-a", "1", absent), ("x-a", "2", absent))) == [(b"x-a", b"1"), (b"x-a", b"2")]
    assert applied(add=(("x-a", "1", append), ("x-a", "2", existing))) == [(b"x-a", b"1")]
    assert applied(("x-a", "0"), add=(("x-a", "1", append), ("x-a", "2", existing), ("x-a", "3", overwrite))) == [
        (b"x-a", b"3"), (b"x-a", b"1")
    ]  # fmt: skip


def test_values_with_operators() -> None:
    add = (("x-path", "at %REQ(:PATH)%, %REQ(X-NONE)%100%%", HeaderAction.APPEND),)
    assert applied(add=add) == [(b"x-path", b"at /p, 100%")]


def test_an_empty_value_adds_nothing() -> None:
    add = (("x-a", "%REQ(X-NONE)%", HeaderAction.OVERWRITE), ("x-b", "", HeaderAction.APPEND))
    assert applied(("x-a", "kept"), add=add) == [(b"x-a", b"kept")]


def test_an_empty_value_stays_where_that_is_wanted() -> None:
    add = (("x-a", "%REQ(X-NONE)%", HeaderAction.OVERWRITE), ("x-b", "", HeaderAction.APPEND))
    headers = Headers()
    headers.append(b"x-a", b"gone")
    Operations(HeaderOps(add=add, keep_empty=frozenset({0, 1}))).apply(headers, SUBJECT)
    assert headers.fields == [(b"x-a", b""), (b"x-b", b"")]


def test_fields_of_the_connection_are_not_touched() -> None:
    """Framing is the codec's; Host has its own rewrite."""
    before = (("Host", "a"), ("Content-Length", "2"), ("Connection", "close"))
    names = ("host", "content-length", "connection", "transfer-encoding")
    add = tuple((name, "x", HeaderAction.OVERWRITE) for name in names)
    assert applied(*before, add=add, remove=names) == [(name.encode(), value.encode()) for name, value in before]


@pytest.mark.parametrize(
    ("name", "value"), [("x a", "1"), ("", "1"), ("x\r\n", "1"), ("x", "1\r\ny: 2"), ("x", "\x00"), ("x", "%NOBODY%")]
)
def test_what_would_break_a_head_is_refused(name: str, value: str) -> None:
    with pytest.raises(FormatError):
        Operations(HeaderOps(add=((name, value, HeaderAction.APPEND),)))
