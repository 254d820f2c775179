"""Hosts of rules: short names, wildcards, and which of several rules is the most specific.

Owns:   resolving a host by the namespace of the rule that names it, matching, choosing.
Not:    which objects are visible to a proxy, and their order (controlplane.model, controlplane.compiler).
Source: Istio pkg/config/host and ResolveShortnameToFQDN: only a name without a dot is short.
"""

from collections.abc import Iterable, Iterator

from mesh.vocabulary import DEFAULT_DOMAIN_SUFFIX, ServiceName


def is_wildcard(host: str) -> bool:
    """Whether it begins with an asterisk: `*`, `*.example.com`, `*-v1.example.com`."""
    return host.startswith("*")


def resolve(host: str, namespace: str, *, domain_suffix: str = DEFAULT_DOMAIN_SUFFIX) -> ServiceName:
    """The full name of a host in a rule of `namespace`: `reviews` is reviews.<namespace>.svc.cluster.local.

    Lower-case, without a dot at the end. A wildcard, an IP address or a name with a dot stays as it is.
    """
    name = host.lower().removesuffix(".")
    if "." in name or ":" in name or is_wildcard(name):
        return ServiceName(name)
    return ServiceName(f"{name}.{namespace}.{domain_suffix}")


def covers(pattern: str, host: str) -> bool:
    """Whether everything that `host` names is named by `pattern` too. Both resolved; `host` may be a wildcard."""
    if pattern == host:
        return True
    if not is_wildcard(pattern):
        return False
    suffix = pattern[1:]
    if is_wildcard(host):
        return len(host) >= len(pattern) and host[1:].endswith(suffix)
    return host.endswith(suffix)


def overlaps(left: str, right: str) -> bool:
    """Whether some name falls under both."""
    return covers(left, right) or covers(right, left)


def label_wildcards(host: str) -> Iterator[str]:
    """Every wildcard of whole labels that covers `host`, the narrowest first: itself when it is one, `*` at the end."""
    dot = host.find(".")
    while dot >= 0:
        yield f"*{host[dot:]}"
        dot = host.find(".", dot + 1)
    yield "*"


def specificity(pattern: str) -> tuple[bool, int]:
    """Sorts the most specific last: exact names above wildcards, long ones above short ones."""
    return not is_wildcard(pattern), len(pattern)


def most_specific(host: str, patterns: Iterable[str]) -> str | None:
    """The pattern that fits `host` best: the exact one, else the longest wildcard; None when none covers it."""
    fitting = [pattern for pattern in patterns if covers(pattern, host)]
    return max(fitting, key=specificity) if fitting else None
