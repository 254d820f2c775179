"""x-request-id: one name for a request on its whole way.

Source: data-plane.md 1.9 (5): given to a request that has none; at an edge always anew, unless external ones are kept.
"""

from collections.abc import Callable

from agent.codec.head import RequestHead

NAME = b"x-request-id"
Bits = Callable[[int], int]  # as random.getrandbits

# RFC 9562 5.4: version 4 in bits 48-51, variant 10 in bits 64 and 65.
_CLEARED = ~((0xF << 76) | (0x3 << 62)) & ((1 << 128) - 1)
_SET = (0x4 << 76) | (0x2 << 62)


def new_id(bits: Bits) -> bytes:
    """A random UUID."""
    text = (bits(128) & _CLEARED | _SET).to_bytes(16, "big").hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}".encode()


def give(head: RequestHead, bits: Bits, anew: bool) -> None:
    """See that the request has an id; `anew`: not the one that it came with."""
    if NAME not in head.headers.index:
        head.headers.add(NAME, new_id(bits))
    elif anew:
        head.headers.set(NAME, new_id(bits))
