"""What TLS clients send first."""

import ssl


def hello(name: str | None, *, tls12: bool = False, protocols: list[str] | None = None) -> bytes:
    """OpenSSL's ClientHello that asks for a server of that name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if tls12:
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    if protocols:
        context.set_alpn_protocols(protocols)
    outgoing = ssl.MemoryBIO()
    made = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    try:
        made.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a client that does not wait for its server")
