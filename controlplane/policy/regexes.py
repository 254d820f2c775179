"""Whether a pattern is RE2 (decision 6): what compiles here compiles in the proxies.

Source: github.com/google/re2 syntax; the limit of 1024 characters is Istio's.
"""

import re2

MAX_PATTERN = 1024
# Without this the library writes every bad pattern to standard error (decision 37).
_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


def regex_problem(pattern: str) -> str | None:
    """What is wrong with a pattern, in words that follow "expected"; None when it can be used."""
    if not pattern:
        return "an RE2 regular expression that is not empty"
    if len(pattern) > MAX_PATTERN:
        return f"at most {MAX_PATTERN} characters"
    try:
        re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        return f"an RE2 regular expression ({_words(error)})"
    return None


def _words(error: Exception) -> str:
    reason = error.args[0] if error.args else "cannot be compiled"
    return reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
