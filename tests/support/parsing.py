"""Bytes into the codec's parsers in pieces of any size, and what comes out."""

from typing import Any

from agent.codec.head import RequestHead, ResponseHead
from agent.codec.protocol_error import ProtocolError
from agent.codec.request_parser import RequestParser
from agent.codec.response_parser import ResponseParser

# Events, and the refusal that ended them: (status, details).
Outcome = tuple[list[Any], tuple[int, str] | None]


class Record:
    """What a parser delivers; the parts of one body are joined, an end that comes with a part stands behind it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.heads: list[Any] = []

    def on_request(self, head: RequestHead, body: bytes, end_stream: bool) -> None:
        self._begin(head, (head.method, head.path, head.authority, tuple(head.headers.fields)), body, end_stream)

    def on_response(self, head: ResponseHead, body: bytes, end_stream: bool) -> None:
        self._begin(head, (head.status, head.reason, tuple(head.headers.fields)), body, end_stream)

    def on_request_body(self, data: bytes) -> None:
        assert data
        if isinstance(self.events[-1], bytes):
            self.events[-1] += data
        else:
            self.events.append(data)

    def on_request_end(self) -> None:
        self.events.append("end")

    on_response_body = on_request_body
    on_response_end = on_request_end

    def _begin(self, head: Any, told: Any, body: bytes, end_stream: bool) -> None:
        self.heads.append(head)
        self.events.append(told)
        if body:
            self.on_request_body(body)
        if end_stream:
            self.on_request_end()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces."""
    at = sorted({place % (len(data) + 1) for place in places})
    return [part for part in (data[a:b] for a, b in zip([0, *at], [*at, len(data)], strict=True)) if part]


def feed(parser: RequestParser | ResponseParser, parts: list[bytes]) -> None:
    """As a connection does: nothing more after an upgrade."""
    for part in parts:
        if not parser.upgraded:
            parser.feed(part)


def steps(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


def outcome(raw: bytes, places: list[int]) -> Outcome:
    """What a connection's requests are when they come in these pieces."""
    record = Record()
    parser = RequestParser(record)
    try:
        feed(parser, cut(raw, places))
    except ProtocolError as error:
        return record.events, (error.status, error.details)
    return record.events, None


def assert_same(cut_up: Outcome, whole: Outcome) -> None:
    """What came in pieces means what it means at once."""
    (events, refused), (all_events, whole_refused) = cut_up, whole
    assert (refused is None) == (whole_refused is None)  # which of two faults is told may depend on the cut
    if refused is None:
        assert events == all_events
        return
    # What is refused within the feed that brought its head is told less of: never more, and nothing else.
    messages = [event for event in events if event != "end" and not isinstance(event, bytes)]
    told = [event for event in all_events if event != "end" and not isinstance(event, bytes)]
    assert told == messages[: len(told)]
    assert all_events.count("end") == events.count("end")
