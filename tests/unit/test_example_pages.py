"""The reading and comparing that tests/e2e/test_examples.py relies on: what differs from a page is found."""

from pathlib import Path

import pytest

from tests.support import examples
from tests.support.examples import Step

PAGE = """\
# A page

```sh
echo one
```
```text
one
```
Words.

```sh
X=2
```
```yaml
a: b
```
"""


def test_steps_of_a_page() -> None:
    assert examples.steps(PAGE) == [Step("echo one\n", "one\n"), Step("X=2\n", None)]


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a b\n", "a   b\n", True),
        ("a\n", "b\n", False),
        ("a\n", "a\nb\n", False),
        ("a\nb\n", "a\n", False),
        ("", "a\n", False),
        ("rev ...\n", "rev 12\n", True),
        ("rev ...\n", "version 12\n", False),
        ("a\n...\nz\n", "a\nz\n", True),
        ("a\n...\nz\n", "a\nb\nc\nz\n", True),
        ("a\n...\nz\n", "a\nb\n", False),
        ("a.c ...\n", "abc 1\n", False),
    ],
)
def test_what_fits_a_page(shown: str, printed: str, same: bool) -> None:
    assert bool(examples.differences(Step("x", shown), printed)) is not same


def test_without_an_output_anything_fits() -> None:
    assert examples.differences(Step("x", None), "anything") == ""


def test_steps_share_a_shell_and_each_has_its_output(tmp_path: Path) -> None:
    steps = [Step("X=2\necho one\n", None), Step("echo $X; pwd | grep -q x && true; false | cat\n", None)]
    assert examples.typed(steps, tmp_path, {"PATH": "/usr/bin:/bin"}, timeout_s=20)[1].splitlines()[0] == "2"


@pytest.mark.parametrize(("commands", "words"), [("echo a\nfalse\n", "step 2 ended with 1"), ("exit 3\n", "with 3")])
def test_what_fails_is_said(tmp_path: Path, commands: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        examples.typed([Step("true\n", None), Step(commands, None)], tmp_path, {"PATH": "/usr/bin:/bin"}, timeout_s=20)


def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="step 1 ended with -1"):
        examples.typed([Step("sleep 60\n", None)], tmp_path, {"PATH": "/usr/bin:/bin"}, timeout_s=0.2)
