"""Cross-origin requests: which origins may ask, and what they are told. The policies of a route, ready to be asked.

Not:    counting, answering (agent.proxy.cors).
Source: data-plane.md 1.10; Envoy's CORS filter; Fetch standard, "CORS protocol". What one level leaves open the next
        says, field by field.
"""

from agent.codec.head import Headers, RequestHead
from agent.model.cors import CorsPolicy
from agent.model.shares import falls
from agent.router.matchers import TextMatcher
from mesh.resilience.backoff import Rng

ORIGIN = b"origin"
_REQUEST_METHOD = b"access-control-request-method"
_REQUEST_HEADERS = b"access-control-request-headers"
_REQUEST_PRIVATE = b"access-control-request-private-network"
_ALLOW_ORIGIN = b"access-control-allow-origin"
_ALLOW_CREDENTIALS = b"access-control-allow-credentials"
_ALLOW_METHODS = b"access-control-allow-methods"
_ALLOW_HEADERS = b"access-control-allow-headers"
_ALLOW_PRIVATE = b"access-control-allow-private-network"
_EXPOSE_HEADERS = b"access-control-expose-headers"
_MAX_AGE = b"access-control-max-age"
_ANY = b"*"
_TRUE = b"true"
Fields = tuple[tuple[bytes, bytes], ...]


def is_preflight(head: RequestHead) -> bool:
    """Whether a request with an origin asks for leave of another request."""
    return head.method == b"OPTIONS" and bool(head.headers.index.get(_REQUEST_METHOD))


class Cors:
    """`policies`: from the most specific level on, at least one. Raises re2.error for a matcher with a bad regex."""

    __slots__ = (
        "_counted",
        "_credentials",
        "_enabled",
        "_everybody",
        "_exposed",
        "_headers",
        "_max_age",
        "_methods",
        "_origins",
        "_private",
        "forwards_unmatched",
    )

    def __init__(self, policies: tuple[CorsPolicy, ...]) -> None:
        origins = next((own.allow_origins for own in policies if own.allow_origins), ())
        self._origins = tuple(TextMatcher(matcher) for matcher in origins)
        self._everybody = any(matcher.matches(_ANY) for matcher in self._origins)
        self._methods = _first(tuple(own.allow_methods for own in policies))
        self._headers = _first(tuple(own.allow_headers for own in policies))
        self._exposed = _first(tuple(own.expose_headers for own in policies))
        self._max_age = _first(tuple(own.max_age for own in policies))
        self._credentials = _chosen(tuple(own.allow_credentials for own in policies), False)
        self._private = _chosen(tuple(own.allow_private_network for own in policies), False)
        self.forwards_unmatched = _chosen(tuple(own.forward_unmatched for own in policies), True)
        self._enabled = policies[0].enabled_per_million
        self._counted = policies[0].counted_per_million

    def enabled(self, rng: Rng) -> bool:
        """Whether this request is treated."""
        return falls(self._enabled, rng)

    def counted(self, rng: Rng) -> bool:
        """Whether this request, which is not treated, is counted nevertheless."""
        return falls(self._counted, rng)

    def allows(self, origin: bytes) -> bool:
        """Whether an origin may ask."""
        return self._everybody or any(matcher.matches(origin) for matcher in self._origins)

    def preflight_fields(self, head: RequestHead, origin: bytes) -> Fields:
        """What the answer to a preflight says; `origin` b"" when it may not ask."""
        index = head.headers.index
        fields: list[tuple[bytes, bytes]] = [(_ALLOW_ORIGIN, origin)] if origin else []
        if self._credentials:
            fields.append((_ALLOW_CREDENTIALS, _TRUE))
        for name, allowed, asked in (
            (_ALLOW_METHODS, self._methods, _REQUEST_METHOD),
            (_ALLOW_HEADERS, self._headers, _REQUEST_HEADERS),
        ):
            if allowed:
                fields.append((name, index.get(asked, b"") if allowed == _ANY else allowed))
        if self._max_age:
            fields.append((_MAX_AGE, self._max_age))
        if self._private and index.get(_REQUEST_PRIVATE) == _TRUE:
            fields.append((_ALLOW_PRIVATE, _TRUE))
        return tuple(fields)

    def mark_answer(self, headers: Headers, origin: bytes) -> None:
        """Tell the browser that `origin`, which may ask, may read the answer."""
        headers.set(_ALLOW_ORIGIN, origin)
        if self._credentials:
            headers.set(_ALLOW_CREDENTIALS, _TRUE)
        if self._exposed:
            headers.set(_EXPOSE_HEADERS, self._exposed)


def _first(values: tuple[str, ...]) -> bytes:
    return next((value.encode() for value in values if value), b"")


def _chosen(values: tuple[bool | None, ...], default: bool) -> bool:
    return next((value for value in values if value is not None), default)
