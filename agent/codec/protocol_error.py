"""Bytes that are no message that we serve. Source: data-plane.md 2.1 for status and details of each."""

from agent.codec.head import RequestHead

CODEC_ERROR = "http1.codec_error"
UPSTREAM_ERROR = "protocol_error"


class ProtocolError(Exception):
    """The peer's bytes are not a message that we serve. `details` as in Envoy's access log; `status` for the answer."""

    def __init__(self, status: int, details: str, head: RequestHead | None = None) -> None:
        """`head`: of the request, when that was whole."""
        super().__init__(details)
        self.status = status
        self.details = details
        self.head = head
