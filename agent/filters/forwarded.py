"""Where a request comes from: x-forwarded-for, x-forwarded-proto, the address that is believed.

Source: HttpConnectionManager.use_remote_address and xff_num_trusted_hops; data-plane.md 1.9.
Differs: a loopback peer is written as it is (Envoy writes an address of its own instead).
"""

import ipaddress
from functools import lru_cache
from typing import Final

from agent.codec.head import RequestHead

FOR: Final = b"x-forwarded-for"
PROTO: Final = b"x-forwarded-proto"
EXTERNAL_ADDRESS: Final = b"x-envoy-external-address"
_SCHEMES: Final = (b"http", b"https")
PEER: Final = -1  # as `hops`: believe nobody but the peer


def host_of(address: str) -> str:
    """`address:port` without the port and without the brackets of IPv6."""
    return address.rpartition(":")[0].strip("[]") or address


def set_protocol(head: RequestHead, secure: bool, overwrite: bool) -> None:
    """Say with which scheme the request came, unless an earlier proxy has; the request's own scheme follows."""
    said = head.headers.index.get(PROTO)
    if said is None or overwrite:
        scheme = b"https" if secure else b"http"
        if said is None:
            head.headers.add(PROTO, scheme)
        else:
            head.headers.set(PROTO, scheme)
    else:
        scheme = said if said in _SCHEMES else b"https" if secure else b"http"
    if not head.scheme:  # else the target has named it
        head.scheme = scheme


def add_peer(head: RequestHead, peer_address: str, hops: int) -> None:
    """At an edge: append the peer to x-forwarded-for, and say which address is believed."""
    peer = host_of(peer_address).encode()
    before = head.headers.index.get(FOR)
    value = peer if not before else before.replace(b", ", b",") + b"," + peer
    head.headers.set(FOR, value)
    believed = client_address(value, hops) if hops else ""
    head.headers.set(EXTERNAL_ADDRESS, believed.encode() or peer)


def client_address(forwarded_for: bytes, hops: int) -> str:
    """The entry that the nearest `hops` proxies vouch for, "" when there are not so many, or it is no IP address."""
    entries = forwarded_for.split(b",")
    if len(entries) <= hops:
        return ""
    return _ip_address(entries[-1 - hops].strip(b" \t").decode("latin-1"))


@lru_cache(maxsize=1024)  # callers are few, and so are the proxies before them
def _ip_address(text: str) -> str:
    """`text`, or "" when it is none."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return ""
    return text
