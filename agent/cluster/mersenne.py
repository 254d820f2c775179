"""MT19937, the random numbers that C++ calls std::mt19937: from one seed always the same sequence.

Source: Matsumoto and Nishimura, Mersenne Twister, 1998; C++ std::mersenne_twister_engine.
Invariant: each number costs one step of the recurrence; no more of the state is made than is asked for.
"""

_SIZE = 624
_MIDDLE = 397
_WORD = 0xFFFFFFFF
_MATRIX = 0x9908B0DF


class Mersenne:
    """`seed`: of it the lowest 32 bits count."""

    __slots__ = ("_at", "_state")

    def __init__(self, seed: int) -> None:
        state = [seed & _WORD]
        for place in range(1, _SIZE):
            last = state[-1]
            state.append(1812433253 * (last ^ last >> 30) + place & _WORD)
        self._state = state
        self._at = 0

    def next(self) -> int:
        """0 to 2**32 - 1."""
        state, at = self._state, self._at
        after = (at + 1) % _SIZE
        mixed = state[at] & 0x80000000 | state[after] & 0x7FFFFFFF
        found = state[(at + _MIDDLE) % _SIZE] ^ mixed >> 1 ^ (_MATRIX if mixed & 1 else 0)
        state[at] = found
        self._at = after
        found ^= found >> 11
        found ^= found << 7 & 0x9D2C5680
        found ^= found << 15 & 0xEFC60000
        return found ^ found >> 18

    def below(self, limit: int) -> int:
        """0 to `limit` - 1, each equally often."""
        step = (1 << 32) // limit
        while (found := self.next() // step) >= limit:
            continue
        return found
