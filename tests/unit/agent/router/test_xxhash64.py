"""xxHash64 against the numbers of the reference implementation."""

import pytest

from agent.router.xxhash64 import xxh64

PRIME_32 = 2654435761
PRIME_64 = 11400714785074694797


def sanity_buffer(size: int) -> bytes:
    """The input of the reference implementation's own sanity checks."""
    generator, made = PRIME_32, bytearray()
    for _ in range(size):
        made.append(generator >> 56)
        generator = generator * PRIME_64 & 0xFFFFFFFFFFFFFFFF
    return bytes(made)


@pytest.mark.parametrize(
    ("data", "seed", "expected"),
    [
        (b"", 0, 0xEF46DB3751D8E999),
        (b"", 1, 0xD5AFBA1336A3BE4B),
        (b"a", 0, 0xD24EC4F1A98C6E5B),
        (b"abc", 0, 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
        (sanity_buffer(0), PRIME_32, 0xAC75FDA2929B17EF),
        (sanity_buffer(1), 0, 0xE934A84ADB052768),
        (sanity_buffer(1), PRIME_32, 0x5014607643A9B4C3),
        (sanity_buffer(4), 0, 0x9136A0DCA57457EE),
        (sanity_buffer(14), 0, 0x8282DCC4994E35C8),
        (sanity_buffer(14), PRIME_32, 0xC3BD6BF63DEB6DF0),
        (sanity_buffer(222), 0, 0xB641AE8CB691C174),
        (sanity_buffer(222), PRIME_32, 0x20CB8AB7AE10C14A),
    ],
    ids=lambda value: str(value)[:20],
)
def test_reference_vectors(data: bytes, seed: int, expected: int) -> None:
    assert xxh64(data, seed) == expected
