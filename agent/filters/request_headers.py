"""A request's head on its way in: from what a client sent to what routes may be matched on and hosts may believe.

Owns:   the order of the steps, and doing none of them for a request that does not need it.
Not:    the steps themselves (paths, hop_by_hop, forwarded, client_certificate, request_id, trace_context,
        envoy_headers), configured operations (header_operations).
Source: data-plane.md 1.9, "Request pass, in order".
Differs: Referer passes as it is (Envoy drops some).
"""

from typing import Final, Protocol

from agent.codec.head import RequestHead
from agent.filters import client_certificate, envoy_headers, forwarded, hop_by_hop, paths, request_id, trace_context
from agent.filters.request_id import Bits
from agent.model.listener import HttpConnectionManager

NO_PATH: Final = "absolute_path_rejected"
UNTYPED_QUERY: Final = "query_missing_content_type"


class Client(Protocol):
    """The connection that a request came on. `certificate`: its element of x-forwarded-client-cert, or b""."""

    @property
    def peer_address(self) -> str: ...
    @property
    def local_address(self) -> str: ...
    @property
    def secure(self) -> bool: ...
    @property
    def certificate(self) -> bytes: ...


class RequestHeaders:
    """Made once per filter chain. The methods change the head in place."""

    __slots__ = (
        "_anew",
        "_bits",
        "_certificates",
        "_control",
        "_edge",
        "_generate",
        "_hops",
        "_inspected",
        "_merge",
        "_normalize",
    )

    def __init__(self, hcm: HttpConnectionManager, bits: Bits) -> None:
        self._bits = bits
        self._normalize = hcm.normalize_path
        self._merge = hcm.merge_slashes
        self._edge = hcm.use_remote_address
        self._hops = hcm.xff_num_trusted_hops
        self._generate = hcm.generate_request_id
        self._anew = hcm.use_remote_address and not hcm.preserve_external_request_id
        self._certificates = hcm.forward_client_cert
        self._control = envoy_headers.EDGE_CONTROL if self._edge else envoy_headers.CONTROL
        self._inspected = hop_by_hop.FIELDS | self._control | {client_certificate.NAME}

    def prepare(self, head: RequestHead, client: Client) -> str:
        """Returns why the head is refused, or "" when it may be routed."""
        target = head.path
        if target[:1] != b"/":
            return NO_PATH
        if head.method == b"QUERY" and b"content-type" not in head.headers.index:
            return UNTYPED_QUERY  # a query is its body, so its type has to be said
        if self._normalize and paths.needs_work(target, self._merge):
            normalized = paths.normalized(target, self._merge)
            if normalized is None:
                return paths.REFUSED
            head.path = normalized
        elif self._merge and not self._normalize and b"//" in target:
            head.path = paths.merged(target)
        seen = head.headers.seen
        if seen is None or self not in seen:
            if not self._inspected.isdisjoint(head.headers.index):
                refusal = self._clean(head, client)
                if refusal:
                    return refusal
            elif seen is not None:
                seen.add(self)
        if not head.authority:  # HTTP/1.0 allows that, but we write HTTP/1.1
            head.authority = client.local_address.encode()
            head.headers.set(b"host", head.authority)
        if self._edge:
            forwarded.add_peer(head, client.peer_address, self._hops)
        forwarded.set_protocol(head, client.secure, self._edge and not self._hops)
        if client.certificate:
            self._add_certificate(head, client.certificate)
        if self._generate:
            request_id.give(head, self._bits, self._anew)
        trace_context.follow(head, self._bits)
        return ""

    def _clean(self, head: RequestHead, client: Client) -> str:
        """Take out what ends here or was not for the client to say."""
        headers = head.headers
        if not hop_by_hop.FIELDS.isdisjoint(headers.index):
            dropped = set(self._control)
            refusal = hop_by_hop.strip_request(head, dropped)
            if refusal:
                return refusal
            headers.remove_all(dropped)
        else:
            headers.remove_all(self._control)
        if not client_certificate.keeps_client(self._certificates, client.certificate != b""):
            headers.remove(client_certificate.NAME)
        if head.upgrade:
            hop_by_hop.ask_for_upgrade(head)
        return ""

    def _add_certificate(self, head: RequestHead, element: bytes) -> None:
        if not client_certificate.adds_own(self._certificates):
            return
        name, headers = client_certificate.NAME, head.headers
        before = headers.index.get(name)
        if before:
            headers.set(name, before.replace(b", ", b",") + b"," + element)
        else:
            headers.set(name, element)
