"""Cross-origin resource sharing. Source: envoy/extensions/filters/http/cors/v3/cors.proto; data-plane.md 1.10."""

from dataclasses import dataclass

from agent.model.matchers import StringMatcher
from agent.model.shares import MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class CorsPolicy:
    """What one level says; "", () and None leave it to the level above.

    `enabled_per_million` and `counted_per_million`: of the requests, how many the policy is for, and how many are only
    counted; the most specific level decides.
    """

    allow_origins: tuple[StringMatcher, ...] = ()
    allow_methods: str = ""
    allow_headers: str = ""
    expose_headers: str = ""
    max_age: str = ""
    allow_credentials: bool | None = None
    allow_private_network: bool | None = None
    forward_unmatched: bool | None = None  # None everywhere = yes
    enabled_per_million: int = MILLION
    counted_per_million: int = 0
