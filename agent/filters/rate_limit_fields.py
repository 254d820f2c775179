"""The X-RateLimit fields by which a rate limit service's answer is passed on to clients.

Source: Envoy's ratelimit_headers.cc (draft-polli-ratelimit-headers-03): of several limits the one that leaves least,
        and the quotas of all.
"""

from collections.abc import Sequence
from typing import Final

from agent.model.rate_limit import LimitState

LIMIT: Final = b"x-ratelimit-limit"
REMAINING: Final = b"x-ratelimit-remaining"
RESET: Final = b"x-ratelimit-reset"


def limit_fields(states: Sequence[LimitState]) -> tuple[tuple[bytes, bytes], ...]:
    """The three fields; none without a limit."""
    if not states:
        return ()
    least = min(states, key=lambda state: state.remaining)
    quotas = "".join(
        f", {state.requests};w={state.window_s}" + (f';name="{state.name}"' if state.name else "") for state in states
    )
    return (
        (LIMIT, f"{least.requests}{quotas}".encode()),
        (REMAINING, b"%d" % least.remaining),
        (RESET, b"%d" % least.reset_s),
    )
