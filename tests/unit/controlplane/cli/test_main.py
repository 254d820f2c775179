"""Finding the command, refusing wrong flags, exit codes."""

import argparse
import subprocess
import sys
from importlib import import_module

import pytest

from controlplane.cli.arguments import Parser, duration, names
from controlplane.cli.commands.catalogue import COMMANDS

HEAVY = ("aiohttp", "pydantic", "yaml", "rich", "grpc", "cryptography", "google.protobuf")


def test_help_lists_every_command_and_the_exit_codes(meshctl) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--help")
    assert done.code == 0
    for command in COMMANDS.values():
        assert f"\n  {command.name} " in done.out
    assert "exit codes: 0 done; 1 failed" in done.out
    assert "GOSSAMER_SERVER" in done.out


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom controlplane.cli.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(meshctl, name: str) -> None:  # type: ignore[no-untyped-def]
    done = meshctl(name, "--help")
    assert done.code == 0
    assert done.out.startswith(f"usage: meshctl {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_says_what_it_is_for(name: str) -> None:
    module = import_module(COMMANDS[name].module)
    parser = Parser(prog=name)
    module.add_arguments(parser)
    pending = [parser]
    while pending:
        for action in pending.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                pending += list(action.choices.values())
            elif (
                action.option_strings
                and "--locality" not in action.option_strings
                and "--node" not in action.option_strings
            ):
                assert action.help, action.option_strings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stats"], "meshctl: unknown command 'stats': did you mean status?"),
        (["get", "vs", "--sever", "x"], "meshctl get: unrecognized arguments: --sever x: did you mean --server?"),
        (["apply"], "meshctl apply: the following arguments are required: -f/--filename"),
        (["get", "vs", "-o", "xml"], "meshctl get: argument -o/--output: invalid choice: 'xml'"),
        (["--timeout", "soon", "get", "vs"], "found 'soon', expected a duration such as 30s, 5m or 1h"),
        (["get", "virtualservce"], "KIND: found 'virtualservce', expected a kind (did you mean virtualservices?)"),
        (["get", "vs,dr", "reviews"], "NAME: found names behind several kinds (use KIND/NAME)"),
        (["get", "vs/a", "b"], "NAME: found 'b' among KIND/NAME words, expected KIND/NAME"),
        (["get", "vs", "a", "-A"], "-A: found names and -A, expected one of them"),
        (["get", "vs,dr", "-w"], "-w: found several kinds or names, expected one to watch"),
        (["delete", "vs"], "NAME: found no name of a VirtualService"),
        (["delete"], "delete: expected either KIND NAME or -f"),
        (["describe", "vs"], "NAME: found no name (meshctl get lists the objects)"),
        (["--server", "ftp://x", "status"], "--server: found 'ftp://x', expected http://HOST:PORT"),
        (["--server", "http://u:p@x", "status"], "--server: found 'http://u:p@x', expected http://HOST:PORT"),
        (["--token-file", "/nowhere", "status"], "--token-file: cannot read /nowhere: No such file or directory"),
        (["token"], "meshctl token: the following arguments are required: ACTION"),
        (["completion", "tcsh"], "meshctl completion: argument shell: invalid choice: 'tcsh'"),
    ],
)
def test_wrong_usage_exits_64_and_says_why(meshctl, arguments: list[str], message: str) -> None:  # type: ignore[no-untyped-def]
    done = meshctl(*arguments)
    assert done.code == 64
    assert message in done.err
    assert done.out == ""


def test_without_a_command_the_help_is_shown(meshctl) -> None:  # type: ignore[no-untyped-def]
    done = meshctl()
    assert done.code == 64
    assert "commands:" in done.out


def test_version(meshctl) -> None:  # type: ignore[no-untyped-def]
    done = meshctl("--version")
    assert done.code == 0
    assert done.out.startswith("meshctl ")


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172800), ("7", 7)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 s", "1w", "inf", "1e9", "nan", "\u0661s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        duration(text)


def test_names_may_be_repeated_and_joined_by_commas() -> None:
    assert names(["a,b", " c ", ",", ""]) == ["a", "b", "c"]
    assert names(None) == []


def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """`meshctl completion bash | head -1`: no traceback, whatever was not read."""
    command = f"{sys.executable} -m controlplane.cli completion fish | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "# meshctl completion for fish: meshctl completion fish | source\n"
    assert done.stderr == ""
