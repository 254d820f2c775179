"""Completion scripts: complete for every command, and what bash really offers."""

import subprocess
from pathlib import Path

import pytest

from controlplane.cli.commands.catalogue import COMMANDS
from controlplane.cli.completion import SHELLS, tree
from controlplane.policy.kinds import KINDS


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "meshctl.bash"
    path.write_text(SHELLS["bash"](tree()))
    return path


def offered(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of the words; `(files)` when it completes file names."""
    program = (
        'source "$0"; compopt() { echo "(files)"; }; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _meshctl; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program, str(script), *words], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("meshctl", "st"), ["status"]),
        (("meshctl", "get", "virt"), ["virtualservices"]),
        (("meshctl", "get", "vs", "-o", ""), ["table", "wide", "yaml", "json", "name"]),
        (("meshctl", "token", "cr"), ["create"]),
        (("meshctl", "token", "create", "--ns", "x", "--us"), ["--uses"]),
        (("meshctl", "--server", "status", "envoy", "boot"), ["bootstrap"]),
        (("meshctl", "completion", ""), ["bash", "zsh", "fish", "-h", "--help"]),
        (("meshctl", "config-dump", "node-1", "--type", "CD"), ["CDS"]),
        (("meshctl", "apply", "-f", ""), ["(files)"]),
        (("meshctl", "apply", "--dry-run", ""), ["server", "client"]),
        (("meshctl", "nonsense", "--ca"), ["--ca-file"]),
    ],
)
def test_bash_offers(script: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(script, *words) == expected


def test_bash_offers_every_command_and_every_kind(script: Path) -> None:
    assert set(COMMANDS) <= set(offered(script, "meshctl", ""))
    assert set(map(KINDS.resource, KINDS)) <= set(offered(script, "meshctl", "describe", ""))


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_know_every_level_word_and_flag(shell: str) -> None:
    levels = tree()
    text = SHELLS[shell](levels)
    assert {"token create", "envoy renew", "grpc bootstrap"} <= {level.path for level in levels}
    for level in levels:
        assert f"'{level.path}'" in text or f"'__meshctl_at {level.path}'" in text or not level.path
        for word in level.words:
            assert word.text in text
        for flag in level.flags:
            for name in flag.names:
                assert (name if shell == "zsh" else name.lstrip("-")) in text


def test_the_command_prints_the_script(meshctl) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("completion", "bash")
    assert (done.code, done.out) == (0, SHELLS["bash"](tree()))
