"""x-forwarded-client-cert: who the client is, as its certificate proved.

Owns:   what is believed and what is added, by forward_client_cert_details.
Not:    the check of the certificate (agent.listener).
Source: HttpConnectionManager.ForwardClientCertDetails; Envoy's mutateXfccRequestHeader; data-plane.md 1.9 (6).
        Hash, Subject, URI and DNS are always told, as our compiler and Istio ask for; By when we have an id.
Invariant: without mutual TLS nothing that a client says passes, except under ALWAYS_FORWARD_ONLY.
"""

from collections.abc import Iterable
from typing import Final

NAME: Final = b"x-forwarded-client-cert"
SANITIZE: Final = "SANITIZE"
FORWARD_ONLY: Final = "FORWARD_ONLY"
APPEND_FORWARD: Final = "APPEND_FORWARD"
SANITIZE_SET: Final = "SANITIZE_SET"
ALWAYS_FORWARD_ONLY: Final = "ALWAYS_FORWARD_ONLY"

Subject = Iterable[Iterable[tuple[str, str]]]  # as in ssl's getpeercert
# RFC 4514 section 3.
_SHORT: Final = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_SPECIAL: Final = str.maketrans({sign: f"\\{sign}" for sign in ',+"\\<>;'})


def adds_own(mode: str) -> bool:
    """Whether `element` is needed at all."""
    return mode in (APPEND_FORWARD, SANITIZE_SET)


def keeps_client(mode: str, mutual: bool) -> bool:
    """Whether the field of the request itself passes."""
    return mode == ALWAYS_FORWARD_ONLY or (mutual and mode in (FORWARD_ONLY, APPEND_FORWARD))


def element(own_id: str, digest: str, subject: Subject, uris: Iterable[str], dns: Iterable[str]) -> bytes:
    """What we say of a client. `digest`: SHA-256 of its certificate in hexadecimal."""
    parts = [f"By={own_id}"] if own_id else []
    parts.append(f"Hash={digest}")
    parts.append(f'Subject="{_quoted(subject_name(subject))}"')
    parts += [f"URI={uri}" for uri in sorted(uris)] or ["URI="]
    parts += [f"DNS={name}" for name in sorted(dns)]
    return ";".join(parts).encode("utf-8", "replace")


def subject_name(subject: Subject) -> str:
    """The subject as RFC 4514 writes it: last part first."""
    parts = ["+".join(f"{_SHORT.get(kind, kind)}={_escaped(value)}" for kind, value in names) for names in subject]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    printable = "".join(sign if sign.isprintable() else "?" for sign in value)
    return printable.translate(_SPECIAL)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
