"""Which of several providers has to be content with a request, and what is said when none is.

Owns:   the tree of requirements; rules by path.
Not:    one token (jwt), where it stands (jwt_locations), signatures and memory (an argument: `Judge`).
Source: Envoy's jwt_authn verifier.cc and authenticator.cc: of several tokens of one provider all must be good, the
        last bad one is told; within `requires_any` with allow_missing only a missing token is as good as none; what is
        said is the first reason that is neither that nor another issuer.
"""

from collections.abc import Callable
from typing import Final

from agent.codec.head import RequestHead
from agent.filters.jwt import MISSING, UNKNOWN_ISSUER
from agent.filters.jwt_locations import Found, Locations
from agent.model.jwt import (
    JwtAuthentication,
    JwtProvider,
    JwtRule,
    MayMiss,
    NeedsAll,
    NeedsAny,
    NeedsToken,
    Requirement,
)
from agent.router.matchers import CompiledHeader, TextMatcher

GOOD: Final = ""
_NONE: Final = frozenset({MISSING, UNKNOWN_ISSUER})
# Whether a token is good for a provider, with the audiences in place of the provider's own: "" or why not.
Judge = Callable[[JwtProvider, Found, "tuple[str, ...] | None"], str]
Verifier = Callable[[RequestHead, Judge], str]


class CompiledRule:
    """A rule, ready to be asked. `verify` None: nothing is demanded."""

    __slots__ = ("_headers", "_path", "_prefix_length", "_separated", "verify")

    def __init__(self, rule: JwtRule, providers: dict[str, JwtProvider]) -> None:
        """Raises re2.error for a bad regex."""
        self._path = TextMatcher(rule.path)
        self._headers = tuple(CompiledHeader(matcher) for matcher in rule.headers)
        self._separated = rule.separated
        self._prefix_length = len(rule.path.value.encode())
        self.verify = verifier(rule.requires, providers) if rule.requires is not None else None

    def matches(self, head: RequestHead) -> bool:
        path = head.path.partition(b"?")[0]
        if not self._path.matches(path):
            return False
        if self._separated and path[self._prefix_length : self._prefix_length + 1] not in (b"", b"/"):
            return False
        return not self._headers or all(matcher.matches(head) for matcher in self._headers)


def compiled_rules(config: JwtAuthentication) -> tuple[CompiledRule, ...]:
    """All rules in order."""
    providers = {own.name: own for own in config.providers}
    return tuple(CompiledRule(rule, providers) for rule in config.rules)


def verifier(requirement: Requirement, providers: dict[str, JwtProvider]) -> Verifier:
    """The requirement as a function: GOOD, or why a request is refused."""
    match requirement:
        case NeedsToken():
            return _token(providers[requirement.provider], requirement.audiences)
        case NeedsAny():
            return _any(requirement, providers)
        case NeedsAll():
            return _all(tuple(verifier(one, providers) for one in requirement.requirements))
        case MayMiss():
            return _missing(tuple(providers.values()), requirement.failed)


def _token(provider: JwtProvider, audiences: tuple[str, ...] | None) -> Verifier:
    locations = Locations(provider)

    def verify(head: RequestHead, judge: Judge) -> str:
        tokens = locations.tokens(head)
        told = GOOD if tokens else MISSING
        for found in tokens:
            reason = judge(provider, found, audiences)
            if reason != GOOD:
                told = reason
        return told

    return verify


def _any(requirement: NeedsAny, providers: dict[str, JwtProvider]) -> Verifier:
    others = tuple(one for one in requirement.requirements if not isinstance(one, MayMiss))
    may_miss = [one for one in requirement.requirements if isinstance(one, MayMiss)]
    tests = tuple(verifier(one, providers) for one in others)
    may_fail = any(one.failed for one in may_miss)
    if not tests and may_miss:
        return _missing(tuple(providers.values()), may_fail)

    def verify(head: RequestHead, judge: Judge) -> str:
        told = MISSING
        for test in tests:
            reason = test(head, judge)
            if reason == GOOD:
                return GOOD
            if told in _NONE:
                told = reason if reason not in _NONE or told == MISSING else told
        return GOOD if may_fail or (may_miss and told == MISSING) else told

    return verify


def _all(tests: tuple[Verifier, ...]) -> Verifier:
    def verify(head: RequestHead, judge: Judge) -> str:
        for test in tests:
            reason = test(head, judge)
            if reason != GOOD:
                return reason
        return GOOD

    return verify


def _missing(providers: tuple[JwtProvider, ...], may_fail: bool) -> Verifier:
    """By itself: a token of any provider must be good when it is there."""
    tests = tuple((own, Locations(own)) for own in providers)

    def verify(head: RequestHead, judge: Judge) -> str:
        told = GOOD
        for provider, locations in tests:
            for found in locations.tokens(head):
                reason = judge(provider, found, None)
                if reason == GOOD:
                    return GOOD
                told = reason
        return GOOD if may_fail else told

    return verify
