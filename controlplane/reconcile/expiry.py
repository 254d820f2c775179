"""The condition of a Secret whose certificate has expired. Pure.

Not:    refusing it: proxies take an expired certificate, and whether its peers do is theirs to say.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from controlplane.compiler.types import Condition
from controlplane.policy.objects import PolicyObject
from controlplane.policy.rules.key_pair import not_after
from controlplane.policy.secret import CERTIFICATE_KEYS, Secret


def expiry_conditions(secrets: Iterable[PolicyObject], now: float) -> Iterator[Condition]:
    """`now`: seconds since the epoch."""
    at = datetime.fromtimestamp(now, UTC)
    for item in secrets:
        spec = item.spec_as(Secret)
        for name, _ in CERTIFICATE_KEYS:
            until = not_after(spec.pem(name))
            if until is not None and until < at:
                text = until.isoformat().replace("+00:00", "Z")
                message = f"data[{name}]: the certificate was valid until {text}; proxies are given it all the same"
                yield Condition(item.ref, "CertificateExpired", "True", "Expired", message, path=f"data[{name}]")
