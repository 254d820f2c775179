"""x-request-id: one name for a request on its whole way.

Source: data-plane.md 1.9 (5): given to a request that has none; at an edge always anew, unless external ones are kept.
"""

from binascii import hexlify
from collections.abc import Callable
from typing import Final

from agent.codec.head import RequestHead

NAME: Final = b"x-request-id"
Bits = Callable[[int], int]  # as random.getrandbits

# RFC 9562 5.4: the variant is 10 in the upper two bits of its digit; the other two are those of a random digit.
_VARIANT: Final = {ord("0123456789abcdef"[digit]): b"89ab"[digit & 3 : (digit & 3) + 1] for digit in range(16)}


def new_id(bits: Bits) -> bytes:
    """A random UUID of version 4."""
    text = hexlify(bits(128).to_bytes(16, "big"))
    return b"%b-%b-4%b-%b%b-%b" % (text[:8], text[8:12], text[13:16], _VARIANT[text[16]], text[17:20], text[20:])


def give(head: RequestHead, bits: Bits, anew: bool) -> None:
    """See that the request has an id; `anew`: not the one that it came with."""
    if NAME not in head.headers.index:
        head.headers.add(NAME, new_id(bits))
    elif anew:
        head.headers.set(NAME, new_id(bits))
