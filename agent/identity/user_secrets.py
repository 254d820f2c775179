"""Whether the user's certificates and roots can be used, before they reach a worker.

Source: what OpenSSL loads, since workers load the same bytes.
Invariant: no message shows a key; no key is written to a file.
"""

import os
import ssl

from agent.model.tls import KeyPair


def why_not(pair: KeyPair | None, roots_pem: bytes) -> str:
    """Why a certificate with its key, or roots, cannot be used; nothing when they can."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if pair is not None:
            _load(context, pair)
        elif roots_pem:
            context.load_verify_locations(cadata=roots_pem.decode("ascii", "replace"))
    except (ssl.SSLError, OSError) as error:
        what = "a certificate that fits its key" if pair is not None else "certificates"
        return f"found what OpenSSL does not load ({getattr(error, 'reason', None) or error}), expected {what}"
    return ""


def _load(context: ssl.SSLContext, pair: KeyPair) -> None:
    descriptor = os.memfd_create("secret", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pair.key_pem.rstrip() + b"\n" + pair.chain_pem)
        # A key under a password must not ask for it on a terminal.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=lambda: "")
    finally:
        os.close(descriptor)
