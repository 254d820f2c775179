"""Transcripts: a state machine's behaviour as a file that is read like a conversation.

A file holds blocks `command` / `----` / expected output, ended by an empty line; lines that start with # are prose.
The runner hands each command to `execute` and compares what it returns. TRANSCRIPTS_REWRITE=1 writes what came
instead: commit such a change only when you understand what caused it. Source: the testdata of etcd-io/raft (the form).
"""

import os
from collections.abc import Callable
from pathlib import Path


def run(path: Path, execute: Callable[[str], str]) -> None:
    """Play the file at `path`. The commands of a block may be several lines; `execute` gets each block's text."""
    blocks = path.read_text().rstrip("\n").split("\n\n")
    played = [_play(block, execute) for block in blocks]
    if os.environ.get("TRANSCRIPTS_REWRITE"):
        path.write_text("\n\n".join(played) + "\n")
    assert "\n\n".join(played).splitlines() == "\n\n".join(blocks).splitlines(), f"{path.name} reads otherwise"


def _play(block: str, execute: Callable[[str], str]) -> str:
    head, rule, _ = block.partition("\n----")
    if not rule:
        return block  # prose only
    command = "\n".join(line for line in head.splitlines() if not line.startswith("#"))
    return f"{head}\n----\n{execute(command).rstrip()}".rstrip()


def cases(folder: Path) -> list[Path]:
    """The transcripts of a folder, for pytest.mark.parametrize with ids=lambda path: path.stem."""
    found = sorted(folder.glob("*.txt"))
    assert found, f"no transcripts in {folder}"
    return found
