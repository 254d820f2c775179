"""The server name that a TLS client asks for, read from the first bytes of a connection. Pure.

Source: RFC 8446 4.1.2 and 5.1, RFC 6066 3. A ClientHello may be split over records, and records over packets.
Invariant: nothing is read beyond the ClientHello, and no more than MAX_BYTES are looked at (Envoy's limit).
"""

MAX_BYTES = 16 * 1024
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _HOST_NAME = 0, 0
_RECORD_HEADER, _MESSAGE_HEADER = 5, 4
_VERSION_AND_RANDOM = 34


class NoClientHello(ValueError):
    """What came is no ClientHello, or one that is too long."""


def server_name(data: bytes) -> str | None:
    """The name, lower-case, "" when none is asked for; None while more has to come. Raises NoClientHello."""
    hello = _hello(data)
    if hello is None:
        if len(data) >= MAX_BYTES:
            raise NoClientHello("longer than 16 KiB")
        return None
    try:
        return _name(hello)
    except (IndexError, UnicodeDecodeError) as error:
        raise NoClientHello("found something else than a ClientHello") from error


def _hello(data: bytes) -> bytes | None:
    """The ClientHello's body out of its records, or None while it is not whole."""
    message = b""
    at = 0
    while True:
        record = data[at : at + _RECORD_HEADER]
        if record[:1] not in (b"", bytes((_HANDSHAKE,))):
            raise NoClientHello("found another record")
        if len(record) < _RECORD_HEADER:
            return None
        length = int.from_bytes(record[3:], "big")
        if not length:
            raise NoClientHello("found an empty record")
        message += data[at + _RECORD_HEADER : at + _RECORD_HEADER + length]
        at += _RECORD_HEADER + length
        if message and message[0] != _CLIENT_HELLO:
            raise NoClientHello("found another message")
        wanted = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
        if len(message) >= _MESSAGE_HEADER and len(message) >= wanted:
            return message[_MESSAGE_HEADER:wanted]
        if at > len(data):
            return None


def _name(hello: bytes) -> str:
    at = _VERSION_AND_RANDOM
    at += 1 + hello[at]  # session id
    at += 2 + _number(hello, at)  # cipher suites
    at += 1 + hello[at]  # compression methods
    if at >= len(hello):
        return ""  # no extensions
    end = at + 2 + _number(hello, at)
    at += 2
    while at < end:
        kind, length = _number(hello, at), _number(hello, at + 2)
        at += 4
        if kind == _SERVER_NAME:
            return _first_host(hello[at : at + length])
        at += length
    return ""


def _first_host(names: bytes) -> str:
    at = 2  # the list's own length
    while at < len(names):
        kind, length = names[at], _number(names, at + 1)
        if kind == _HOST_NAME:
            return names[at + 3 : at + 3 + length].decode("ascii").lower()
        at += 3 + length
    return ""


def _number(data: bytes, at: int) -> int:
    return data[at] << 8 | data[at + 1]
