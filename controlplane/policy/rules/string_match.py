"""Rules of StringMatch: at most one way to compare, patterns in RE2."""

from controlplane.policy.regexes import regex_problem
from controlplane.policy.string_match import StringMatch
from controlplane.policy.violations import Found, Path, Report


def check_string_match(
    report: Report, path: Path, match: StringMatch | None, *, empty_prefix: bool = False, presence: bool = False
) -> None:
    """`empty_prefix`: "" is a prefix of everything (only of uri); `presence`: the regex `*` means "is there"."""
    if match is None:
        return
    written = [name for name in ("exact", "prefix", "regex") if getattr(match, name) is not None]
    if len(written) > 1:
        report.refuse(path, "only one of exact, prefix and regex", found=Found(" and ".join(written)))
    if match.prefix == "" and not empty_prefix:
        report.refuse(path / "prefix", "a prefix that is not empty")
    if match.regex is not None and not (presence and match.regex == "*"):
        check_regex(report, path / "regex", match.regex)


def check_regex(report: Report, path: Path, pattern: str) -> None:
    """RE2, at most 1024 characters."""
    problem = regex_problem(pattern)
    if problem is not None:
        report.refuse(path, problem)
