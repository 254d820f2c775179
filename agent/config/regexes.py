"""Regular expressions: RE2, compiled just as the worker will (decision 37)."""

import re2
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher

from agent.config.fields import only, refuse, within
from agent.router.matchers import compile_regex


def regex(message: RegexMatcher, path: str) -> str:
    """The pattern."""
    # google_re2 is the older way to say what is now the only engine; its limit is Envoy's own affair.
    only(message, path, frozenset({"google_re2", "regex"}))
    try:
        compile_regex(message.regex)
    except re2.error as error:
        raise refuse(within(path, "regex"), message.regex, f"an RE2 pattern ({_reason(error)})") from error
    return message.regex


def substitution(message: RegexMatchAndSubstitute, path: str) -> tuple[str, str]:
    """(pattern, substitution)."""
    only(message, path, frozenset({"pattern", "substitution"}))
    return regex(message.pattern, within(path, "pattern")), message.substitution


def _reason(error: Exception) -> str:
    reason = error.args[0] if error.args else error
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
