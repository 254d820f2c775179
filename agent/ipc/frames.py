"""Messages as bounded, length-prefixed frames, and back.

Owns:   the format: a 9-byte header (length of the body, CRC-32 of the body, number of descriptors that travel with
        the frame; big endian) and a body that is one message of agent.ipc.messages.
Not:    sockets (agent.ipc.channel), the meaning of a message.
Source: body = pickle protocol 5 of builtin values and of calls of one function, `build(class index, *field values)`,
        the only name that the reader resolves. Measured fastest of the explicit formats, and it survives mypyc, whose
        frozen classes plain pickle cannot rebuild.
Invariants: reading never runs anything but the constructors of `CLASSES`; whatever else is found raises FrameError.
        Both ends are of one release (the supervisor starts its own workers), so CLASSES may be reordered freely.
"""

import io
import pickle
import struct
import zlib
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from agent.ipc import messages
from agent.model import (
    bulkhead,
    circuit_breaker,
    cluster,
    cors,
    ext_authz,
    fault,
    http_filters,
    jwt,
    listener,
    matchers,
    rate_limit,
    rbac,
    route,
    tls,
)
from mesh import vocabulary

MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_DESCRIPTORS = 16
HEADER = struct.Struct(">IIB")

# Everything that may travel: the messages, the model's values that they carry, and their enums.
MESSAGES: tuple[type, ...] = (
    messages.Welcome,
    messages.Put,
    messages.Remove,
    messages.Commit,
    messages.AddListener,
    messages.Identities,
    messages.HostState,
    messages.HashTables,
    messages.BreakerState,
    messages.BreakerGone,
    messages.Cells,
    messages.TokenMemory,
    messages.CountMemory,
    messages.LimitAnswers,
    messages.CheckAnswers,
    messages.Ping,
    messages.Drain,
    messages.Ready,
    messages.Committed,
    messages.Pong,
    messages.EjectRequest,
    messages.BreakerNews,
    messages.LimitQuestions,
    messages.CheckQuestions,
    messages.StatsDelta,
    messages.Drained,
)
_MODEL_MODULES = (
    bulkhead,
    circuit_breaker,
    cluster,
    cors,
    ext_authz,
    fault,
    http_filters,
    jwt,
    listener,
    matchers,
    rate_limit,
    rbac,
    route,
    tls,
)


class FrameError(Exception):
    """A frame that is not one of ours, or that is too large. The connection cannot be used any further."""


def _model_classes() -> tuple[type, ...]:
    """The dataclasses and enums of agent.model, by module and name, so that both ends count alike."""
    found = [
        value
        for module in _MODEL_MODULES
        for _, value in sorted(vars(module).items())
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and (is_dataclass(value) or issubclass(value, Enum))
    ]
    return (*found, vocabulary.HealthStatus, vocabulary.Locality)


CLASSES: tuple[type, ...] = (*MESSAGES, *_model_classes())
_FIELDS: tuple[tuple[str, ...], ...] = tuple(
    tuple(field.name for field in fields(cls)) if is_dataclass(cls) else () for cls in CLASSES
)


def build(index: int, *values: Any) -> Any:
    """Make the value of class number `index` from its fields (an enum: from its value)."""
    cls = CLASSES[index]
    names = _FIELDS[index]
    if not is_dataclass(cls):
        return cls(*values)
    if len(names) != len(values):
        raise FrameError(f"{cls.__name__} has {len(names)} fields, found {len(values)}")
    return cls(**dict(zip(names, values, strict=True)))


def _reducer(index: int, cls: type) -> Any:
    if not is_dataclass(cls):
        return lambda member: (build, (index, member.value))
    names = _FIELDS[index]
    return lambda value: (build, (index, *[getattr(value, name) for name in names]))


_DISPATCH: dict[type, Any] = {cls: _reducer(index, cls) for index, cls in enumerate(CLASSES)}


def _refuse(value: Any) -> Any:
    raise FrameError(f"{type(value).__name__} is not part of the vocabulary of agent.ipc.messages")


class _Writer(pickle.Pickler):
    dispatch_table = _DISPATCH

    def reducer_override(self, value: Any) -> Any:
        """Refuse what has no entry: without this, pickle would name any importable function or class."""
        if value is build or type(value) in _DISPATCH:
            return NotImplemented
        return _refuse(value)


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Resolve the one name that a frame may hold."""
        if name == "build" and module == __name__:
            return build
        raise FrameError(f"found the name {module}.{name}")


def encode(message: messages.ToWorker | messages.ToSupervisor, descriptors: int = 0) -> bytes:
    """One frame. Raises FrameError for a value outside the vocabulary or a body above MAX_BODY_BYTES."""
    if type(message) not in MESSAGES:
        _refuse(message)
    if descriptors > MAX_DESCRIPTORS:
        raise FrameError(f"{descriptors} descriptors, at most {MAX_DESCRIPTORS}")
    buffer = io.BytesIO()
    _Writer(buffer, protocol=5).dump(message)
    body = buffer.getvalue()
    if len(body) > MAX_BODY_BYTES:
        raise FrameError(f"a {type(message).__name__} of {len(body)} bytes, at most {MAX_BODY_BYTES}")
    return HEADER.pack(len(body), zlib.crc32(body), descriptors) + body


def header_of(data: bytes | bytearray | memoryview) -> tuple[int, int, int]:
    """(body length, checksum, descriptors) of the frame at the start of `data`. Raises FrameError."""
    if len(data) < HEADER.size:
        raise FrameError(f"a header of {len(data)} bytes, expected {HEADER.size}")
    length, checksum, descriptors = HEADER.unpack_from(data)
    if length > MAX_BODY_BYTES or descriptors > MAX_DESCRIPTORS:
        raise FrameError(f"a frame of {length} bytes and {descriptors} descriptors is above the limits")
    return length, checksum, descriptors


def decode_body(body: bytes | bytearray | memoryview, checksum: int) -> Any:
    """The message in a frame's body. Raises FrameError for everything that `encode` did not make."""
    if zlib.crc32(body) != checksum:
        raise FrameError("the checksum does not fit the body")
    stream = io.BytesIO(body)
    try:
        message = _Reader(stream).load()
    except FrameError:
        raise
    except Exception as error:  # a damaged pickle may raise anything; all of it means the same
        raise FrameError(f"unreadable body: {error!r}") from error
    if type(message) not in MESSAGES or stream.read(1):
        raise FrameError(f"found {type(message).__name__} instead of one message")
    return message


def decode(frame: bytes) -> Any:
    """The message in one whole frame. Raises FrameError."""
    length, checksum, _ = header_of(frame)
    if len(frame) != HEADER.size + length:
        raise FrameError(f"a frame of {len(frame)} bytes, its header says {HEADER.size + length}")
    return decode_body(memoryview(frame)[HEADER.size :], checksum)
