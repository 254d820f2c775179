"""Lists of stored records in which one may be damaged.

Owns:   leaving out what cannot be decoded, with a line in the log that names the key.
Not:    reading one record that somebody asks for: there the error itself is the answer.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

from controlplane.store.protocol import Entry
from mesh.errors import ErrorCode, MeshError
from mesh.logs import get_logger

T = TypeVar("T")

_log = get_logger(__name__)


def readable(entries: Iterable[Entry], decode: Callable[[Entry], T]) -> list[T]:
    """The decoded entries in their order, without those for which `decode` raises UNREADABLE."""
    found: list[T] = []
    for entry in entries:
        try:
            found.append(decode(entry))
        except MeshError as error:
            if error.code is not ErrorCode.UNREADABLE:
                raise
            _log.warning("a stored record cannot be read; it is left out", key=entry.key, reason=error.message)
    return found
