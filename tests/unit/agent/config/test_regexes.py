"""Regular expressions, as the worker compiles them."""

import pytest
from envoy.type.matcher.v3.regex_pb2 import RegexMatchAndSubstitute, RegexMatcher

from agent.config.fields import Refused
from agent.config.regexes import regex, substitution


@pytest.mark.parametrize("pattern", ["/a", "(?i)a", "[^/]+", "é", "a{1000}"])
def test_good_patterns(pattern: str) -> None:
    assert regex(RegexMatcher(regex=pattern), "p") == pattern
    made = RegexMatchAndSubstitute(pattern=RegexMatcher(regex=pattern), substitution="s")
    assert substitution(made, "p") == (pattern, "s")


@pytest.mark.parametrize("pattern", ["(", "[", "*", "a{1001}", "(?=a)", r"\1"])
def test_bad_patterns(pattern: str) -> None:
    """Backtracking and look-around are no RE2."""
    with pytest.raises(Refused) as caught:
        regex(RegexMatcher(regex=pattern), "p")
    assert caught.value.path == "p.regex"
    assert caught.value.reason.startswith(f"found {pattern!r}, expected an RE2 pattern (")


def test_the_path_of_a_rewrites_pattern() -> None:
    made = RegexMatchAndSubstitute(pattern=RegexMatcher(regex="("))
    with pytest.raises(Refused) as caught:
        substitution(made, "p")
    assert caught.value.path == "p.pattern.regex"
