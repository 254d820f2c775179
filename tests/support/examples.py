"""Pages with commands and what they print, typed into a shell: the output must be what the page shows.

Owns:   cutting a page into steps, comparing. `...` in a page stands for any text of a line; a line of it alone for any
        lines, also none.
Not:    what the commands run against (tests.e2e.test_examples).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryFile

from tests.support import terminals

_STEP = re.compile(r"^```sh\n(.*?)^```$(?:\n```text\n(.*?)^```$)?", re.M | re.S)
_MARK = "\x1e"
ANY = "..."


@dataclass(frozen=True, slots=True)
class Step:
    """A block of commands; `shown` is None where the page does not say what they print."""

    commands: str
    shown: str | None


def steps(text: str) -> list[Step]:
    """The steps of a page, in order."""
    return [Step(match[1], match[2]) for match in _STEP.finditer(text)]


def typed(found: Sequence[Step], folder: Path, env: Mapping[str, str], *, timeout_s: float) -> list[str]:
    """Type them into one shell in `folder`, and close it; what each printed. Raises AssertionError when one fails.

    Without pipefail, as in a reader's shell: what stands before `grep -q` is cut off by it.
    """
    text = "set +o pipefail\n" + "\n".join(f"{step.commands}\necho '{_MARK}'" for step in found)
    with TemporaryFile() as output:
        shell = terminals.terminal(text, output, folder=folder, env=env)
        try:
            code = shell.wait(timeout_s)
        except TimeoutExpired:
            code = -1
        finally:
            terminals.close(shell)
        printed = terminals.read(output).split(f"{_MARK}\n")
    assert code == 0, f"step {len(printed)} ended with {code}:\n{found[len(printed) - 1].commands}\n{printed[-1]}"
    return printed[:-1]


def differences(step: Step, printed: str) -> str:
    """Empty when the output is as shown; else both."""
    if step.shown is None or _fits(list(_lines(step.shown)), list(_lines(printed))):
        return ""
    return f"{step.commands}\n--- shown\n{step.shown}\n--- printed\n{printed}"


def _lines(text: str) -> Iterator[str]:
    """Words with one blank between them: columns are as wide as what stands in them."""
    return (" ".join(line.split()) for line in text.splitlines())


def _fits(shown: list[str], printed: list[str]) -> bool:
    if not shown:
        return not printed
    if shown[0] == ANY:
        return any(_fits(shown[1:], printed[start:]) for start in range(len(printed) + 1))
    pattern = ".*".join(map(re.escape, shown[0].split(ANY)))
    return bool(printed) and bool(re.fullmatch(pattern, printed[0])) and _fits(shown[1:], printed[1:])
