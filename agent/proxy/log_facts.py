"""What a line of the access log says of a request or a TCP connection, gathered at once.

Owns:   where each fact is found.
Not:    what a line makes of them (agent.filters.inline), when it is written (chain, tcp_connection).
Why:    compiled code reads an attribute of an object whose type it knows at a tenth of what it costs otherwise, and
        the filters, below the data path, do not know these.
"""

from typing import TYPE_CHECKING

from agent.filters.inline import Facts

if TYPE_CHECKING:
    from agent.proxy.exchange import Exchange
    from agent.proxy.tcp_connection import TcpConnection


def facts_of(subject: "Exchange | TcpConnection") -> Facts:
    """The arguments of a Record, in the order of agent.filters.inline.FACTS. Raises UnicodeDecodeError."""
    head, response, connection = subject.head, subject.response, subject.connection
    match, choice, host, carrier = subject.match, subject.choice, subject.host, subject.carrier
    started, ended = subject.started, subject.ended
    return (
        subject,
        head.headers.index.get,
        response.headers.index.get if response is not None else None,
        subject.attempts,
        head.authority.decode(),
        choice.cluster if choice is not None else None,
        subject.details,
        subject.transport_failure,
        subject.flags,
        host.key if host is not None else None,
        connection.local_address,
        head.method.decode(),
        head.version_minor,
        head.path.decode(),
        connection.peer_address,
        subject.received_bytes,
        match.route.name if match is not None else None,
        subject.sent_bytes,
        carrier.local_address if carrier is not None else None,
        subject.status,
        int((ended - started) * 1000) if started and ended else None,
        connection.peer_uris,
    )
