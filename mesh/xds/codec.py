"""Turn resource messages into `Any` bytes and versions, the same on every replica.

Invariants: equal messages give equal bytes and so equal versions (map fields are sorted by the serialiser).
"""

import hashlib

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message


def serialize(message: Message) -> bytes:
    """The message's bytes, deterministic for one build of protobuf."""
    return message.SerializeToString(deterministic=True)


def version_of(body: bytes) -> str:
    """A content hash of 16 hex digits. Source: design section 2, 'versions are content hashes'."""
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def pack_any(type_url: str, body: bytes) -> bytes:
    """The serialised google.protobuf.Any that holds `body`."""
    return AnyMessage(type_url=type_url, value=body).SerializeToString(deterministic=True)
