"""W3C trace context: passed on as it came; begun where there is none.

Owns:   traceparent, and tracestate where it has lost its traceparent.
Not:    spans: the agent makes none, so a valid traceparent keeps its parent id.
Source: W3C Trace Context 2.2 and 2.3 (version 00, and how higher versions are read), 3.3.1.4 and 4.3 (an invalid
        traceparent is ignored, with its tracestate, and a new trace begins).
Differs: Envoy without a tracer begins no trace. A new trace is marked as sampled, since the opposite would keep
        applications that follow their caller from ever recording anything.
"""

import re

from agent.codec.head import RequestHead
from agent.filters.request_id import Bits

PARENT = b"traceparent"
STATE = b"tracestate"
_VALID = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[^,]*)?")
_LENGTH = 55  # of version 00


def is_valid(parent: bytes) -> bool:
    """Whether a traceparent can be followed. Only versions after 00 may be longer than it."""
    if _VALID.fullmatch(parent) is None:
        return False
    return len(parent) == _LENGTH or parent[:2] != b"00"


def new_parent(bits: Bits) -> bytes:
    return b"00-%032x-%016x-01" % (bits(128) or 1, bits(64) or 1)


def follow(head: RequestHead, bits: Bits) -> None:
    """See that the request has a valid traceparent."""
    index = head.headers.index
    parent = index.get(PARENT)
    if parent is not None:
        if is_valid(parent):
            return
        head.headers.remove(PARENT)
    if STATE in index:
        head.headers.remove(STATE)
    head.headers.add(PARENT, new_parent(bits))


def trace_id(head: RequestHead) -> bytes | None:
    """The trace that the request belongs to."""
    parent = head.headers.index.get(PARENT)
    return parent[3:35] if parent is not None and is_valid(parent) else None
