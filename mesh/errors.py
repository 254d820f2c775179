"""The root of every error that Gossamer raises on purpose.

Owns:   the shape of an error: code, what failed on what, what was found and expected, and a hint.
Not:    the mapping to HTTP and gRPC statuses (controlplane.api.errors has that one table).
"""

from enum import StrEnum


class ErrorCode(StrEnum):
    """What kind of failure it is; each has one HTTP and one gRPC status."""

    UNREADABLE = "unreadable"  # the bytes are not the format that they claim to be
    INVALID = "invalid"  # readable, but a field's value is not allowed
    NOT_FOUND = "not-found"
    ALREADY_EXISTS = "already-exists"
    CONFLICT = "conflict"  # somebody else changed the object first
    COMPACTED = "compacted"  # the revision asked for is no longer kept
    TOO_LARGE = "too-large"
    NO_SPACE = "no-space"  # the store is full: it answers reads and refuses writes
    UNAUTHENTICATED = "unauthenticated"
    PERMISSION_DENIED = "permission-denied"
    UNAVAILABLE = "unavailable"  # a dependency is away; trying again may help
    TIMEOUT = "timeout"
    SETTINGS = "settings"  # bad settings: the process exits 64 before any bind
    INTERNAL = "internal"


class MeshError(Exception):
    """A failure that a user can understand.

    `message` says what failed, what was found and what was expected; `subject` names the thing it failed on
    (an object, a file, a field path, an address); `hint` says what to do about it, or is empty.
    """

    def __init__(self, code: ErrorCode, message: str, *, subject: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.subject = subject
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.subject}: {self.message}" if self.subject else self.message
        return f"{text} ({self.hint})" if self.hint else text
