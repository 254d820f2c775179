"""How long a message's body is, by its head. Source: RFC 9112 section 6; stricter than it where parsers differ."""

import re

from agent.codec.head import CHUNKED, UNTIL_EOF, Headers
from agent.codec.plain import CANONICAL_LENGTH
from agent.codec.protocol_error import CODEC_ERROR, ProtocolError

_DIGITS = re.compile(rb"[0-9]{1,18}")


def declared_length(headers: Headers) -> int:
    """The body's length as the head declares it: bytes, CHUNKED, or UNTIL_EOF when it says nothing.

    Writes Content-Length in its canonical form. Raises ProtocolError 501 for a transfer coding other than chunked.
    """
    coding = headers.index.get(b"transfer-encoding")
    if coding is not None:
        if coding.lower() != b"chunked":
            raise ProtocolError(501, "http1.invalid_transfer_encoding")
        if b"content-length" in headers.index:
            raise ProtocolError(400, "http1.content_length_and_chunked_not_allowed")
        return CHUNKED
    length = headers.index.get(b"content-length")
    if length is None:
        return UNTIL_EOF
    if not CANONICAL_LENGTH.fullmatch(length):
        if not _DIGITS.fullmatch(length):
            raise ProtocolError(400, CODEC_ERROR)
        headers.set(b"content-length", b"%d" % int(length))
    return int(length)
