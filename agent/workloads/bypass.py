"""Which local ports can be reached past the agent: applications that listen beyond loopback (decision 9).

Owns:   reading /proc/net/tcp and /proc/net/tcp6.
Source: proc(5): local address as hexadecimal in the machine's byte order, state 0A = LISTEN.
"""

import ipaddress
import struct
from pathlib import Path

_LISTEN = "0A"
_FILES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))


def listening(text: str) -> set[tuple[str, int]]:
    """(address, port) of every listening socket in the text of /proc/net/tcp or tcp6."""
    found: set[tuple[str, int]] = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) < 4 or fields[3] != _LISTEN:
            continue
        packed, _, port = fields[1].partition(":")
        found.add((_address(packed), int(port, 16)))
    return found


def _address(packed: str) -> str:
    words = [int(packed[at : at + 8], 16) for at in range(0, len(packed), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def beyond_loopback(sockets: set[tuple[str, int]]) -> frozenset[int]:
    """The ports on which something listens on an address that other machines can reach."""
    return frozenset(port for address, port in sockets if not ipaddress.ip_address(address).is_loopback)


def exposed_ports() -> frozenset[int]:
    """The ports of this network namespace; empty where /proc cannot be read."""
    found: set[tuple[str, int]] = set()
    for path in _FILES:
        try:
            found |= listening(path.read_text())
        except (OSError, ValueError):
            continue
    return beyond_loopback(found)
