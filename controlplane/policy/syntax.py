"""Names: DNS labels and domains, labels' keys and values, headers, addresses.

Owns:   whether a text is such a name, and the words that say what was expected.
Source: RFC 1123, RFC 9110 section 5.1; Kubernetes' label syntax; Istio's domains (validation.go) allow upper case and a
        wildcard in the first label (`*`, `*.suffix`, `*-suffix`).
"""

import ipaddress
import re

MAX_DOMAIN = 255
_LABEL = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")
_LOWER_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_WILDCARD_LABEL = re.compile(r"(?:\*|(?:\*-?)?[a-zA-Z0-9](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)")
_QUALIFIED = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9a-zA-Z-]{1,256}")
_PORT_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,13}[a-z0-9])?")

DNS_LABEL = "a DNS label: letters, digits and '-', at most 63, a letter or digit at both ends"
LOWER_DNS_LABEL = "a DNS label: lower-case letters, digits and '-', at most 63, a letter or digit at both ends"
LOWER_SUBDOMAIN = "a DNS subdomain: lower-case letters, digits, '-' and '.', at most 253"
DOMAIN = "a domain name or a short service name"
WILDCARD_DOMAIN = "a domain name, a short service name, or a wildcard such as *.example.com"
LABEL_KEY = "a label's key: [prefix/]name, the name of at most 63 letters, digits, '-', '_' and '.'"
LABEL_VALUE = "a label's value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends"
HEADER = "a header's name"
IP = "an IP address"
CIDR = "an IP address or a block such as 10.0.0.0/8"


def is_dns_label(text: str) -> bool:
    """In any case, as Istio takes it."""
    return _LABEL.fullmatch(text) is not None


def is_lower_dns_label(text: str) -> bool:
    """As Kubernetes takes it for namespaces and Services."""
    return _LOWER_LABEL.fullmatch(text) is not None


def is_lower_subdomain(text: str) -> bool:
    """As Kubernetes takes it for the names of most objects."""
    return len(text) <= 253 and all(map(is_lower_dns_label, text.split(".")))


def is_domain(text: str) -> bool:
    """One or more labels; a dot at the end is allowed; the last label is not all digits."""
    if not 0 < len(text) <= MAX_DOMAIN:
        return False
    labels = text.removesuffix(".").split(".")
    return not _all_digits(labels[-1]) and all(map(is_dns_label, labels))


def is_wildcard_domain(text: str) -> bool:
    """A domain whose first label may be or begin with an asterisk; `*` alone too."""
    if not 0 < len(text) <= MAX_DOMAIN:
        return False
    first, dot, rest = text.partition(".")
    if len(first) > 63 or not _WILDCARD_LABEL.fullmatch(first):
        return False
    return is_domain(rest) if dot else not _all_digits(first)


def _all_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()


def is_label_key(text: str) -> bool:
    """`[prefix/]name`."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > 253 or not all(map(is_dns_label, prefix.split(".")))):
        return False
    return _QUALIFIED.fullmatch(name) is not None


def is_label_value(text: str) -> bool:
    """May be empty."""
    return not text or _QUALIFIED.fullmatch(text) is not None


def is_header_name(text: str) -> bool:
    """A token of RFC 9110, at most 256 characters."""
    return _HEADER.fullmatch(text) is not None


def is_service_port_name(text: str) -> bool:
    """RFC 6335: at most 15 lower-case letters, digits and '-', with a letter, no two '-' together."""
    return _PORT_NAME.fullmatch(text) is not None and "--" not in text and any(char.isalpha() for char in text)


def is_ip(text: str) -> bool:
    """IPv4 or IPv6, without a zone."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def is_cidr(text: str) -> bool:
    """An address, or a block; bits below the prefix may be set, as Istio allows."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return "%" not in text
