"""What a fuzz target is.

A target takes any bytes and raises when an invariant does not hold; a proper refusal by what is tested is no error.
Seeds are made by code, so that they follow it.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """`pieces`: what inputs are made of, beside their bytes."""

    name: str
    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    pieces: tuple[bytes, ...] = ()


def places_of(data: bytes) -> list[int]:
    """Where an input is cut into feeds: the same places every time, others for every input."""
    number = zlib.crc32(data)
    return [number & 0xFFF, number >> 12 & 0xFF, number >> 20 & 0x3F, number >> 26]
