"""A text that must not be seen: tokens, passwords.

Invariant: a `Secret` never prints its value, in any form of log, repr or error.
"""


class Secret:
    """A value that prints as `[redacted]`. `reveal` at the one place that needs it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "[redacted]"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
