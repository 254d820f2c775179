"""xxHash64, the hash by which Envoy chooses hosts.

Source: the xxHash specification (XXH64); Envoy's HashUtil::xxHash64.
Invariant: the same number as the reference implementation for every input and seed (tests/unit has its vectors).
"""

from struct import unpack_from

_MASK = 0xFFFFFFFFFFFFFFFF
_PRIME_1 = 0x9E3779B185EBCA87
_PRIME_2 = 0xC2B2AE3D27D4EB4F
_PRIME_3 = 0x165667B19E3779F9
_PRIME_4 = 0x85EBCA77C2B2AE63
_PRIME_5 = 0x27D4EB2F165667C5
_STRIPE = 32


def xxh64(data: bytes, seed: int = 0) -> int:
    """The hash of `data`, 0 to 2**64 - 1. `seed`: of the same range."""
    size = len(data)
    at = 0
    if size >= _STRIPE:
        found, at = _stripes(data, seed)
    else:
        found = seed + _PRIME_5
    found = (found + size) & _MASK
    while at + 8 <= size:
        word = int.from_bytes(data[at : at + 8], "little") * _PRIME_2 & _MASK
        found ^= (word << 31 | word >> 33) * _PRIME_1 & _MASK
        found = ((found << 27 & _MASK | found >> 37) * _PRIME_1 + _PRIME_4) & _MASK
        at += 8
    if at + 4 <= size:
        found ^= int.from_bytes(data[at : at + 4], "little") * _PRIME_1 & _MASK
        found = ((found << 23 & _MASK | found >> 41) * _PRIME_2 + _PRIME_3) & _MASK
        at += 4
    while at < size:
        found ^= data[at] * _PRIME_5 & _MASK
        found = (found << 11 & _MASK | found >> 53) * _PRIME_1 & _MASK
        at += 1
    found = (found ^ found >> 33) * _PRIME_2 & _MASK
    found = (found ^ found >> 29) * _PRIME_3 & _MASK
    return found ^ found >> 32


def _stripes(data: bytes, seed: int) -> tuple[int, int]:
    """(what the whole stripes of 32 bytes come to, how many bytes those are)."""
    lanes = [seed + _PRIME_1 + _PRIME_2, seed + _PRIME_2, seed, seed - _PRIME_1]
    end = len(data) - len(data) % _STRIPE
    for at in range(0, end, _STRIPE):
        lanes = [_round(lane, word) for lane, word in zip(lanes, unpack_from("<4Q", data, at), strict=True)]
    one, two, three, four = (lane & _MASK for lane in lanes)
    found = _rotated(one, 1) + _rotated(two, 7) + _rotated(three, 12) + _rotated(four, 18)
    for lane in (one, two, three, four):
        found = ((found ^ _round(0, lane)) * _PRIME_1 + _PRIME_4) & _MASK
    return found, end


def _round(lane: int, word: int) -> int:
    return _rotated(lane + word * _PRIME_2 & _MASK, 31) * _PRIME_1 & _MASK


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK
