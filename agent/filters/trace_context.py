"""W3C trace context: passed on as it came; begun where there is none.

Owns:   traceparent, and tracestate where it has lost its traceparent.
Not:    spans: the agent makes none, so a valid traceparent keeps its parent id.
Source: W3C Trace Context 2.2 and 2.3 (version 00, and how higher versions are read), 3.3.1.4 and 4.3 (an invalid
        traceparent is ignored, with its tracestate, and a new trace begins).
Differs: Envoy without a tracer begins no trace. A new trace is marked as sampled, since the opposite would keep
        applications that follow their caller from ever recording anything.
"""

import re
from binascii import hexlify
from typing import Final

from agent.codec.head import RequestHead
from agent.filters.request_id import Bits

PARENT: Final = b"traceparent"
STATE: Final = b"tracestate"
_VALID: Final = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-[^,]*)?")
_LENGTH: Final = 55  # of version 00
# Ids of zeros only are invalid, 2.2.2.4 and 2.2.2.5.
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_FIRST_TRACE: Final = b"0" * 31 + b"1"
_FIRST_SPAN: Final = b"0" * 15 + b"1"


def is_valid(parent: bytes) -> bool:
    """Whether a traceparent can be followed. Only versions after 00 may be longer than it."""
    if _VALID.fullmatch(parent) is None:
        return False
    return len(parent) == _LENGTH or parent[:2] != b"00"


def new_parent(bits: Bits) -> bytes:
    ids = hexlify(bits(192).to_bytes(24, "big"))
    trace, span = ids[:32], ids[32:]
    return b"00-%b-%b-01" % (trace if trace != _NO_TRACE else _FIRST_TRACE, span if span != _NO_SPAN else _FIRST_SPAN)


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
