"""Completion scripts, made from the parsers themselves, so that a new flag is completed without further work.

Owns:   the tree of commands and flags, and what it becomes in bash, zsh and fish.
Not:    names of objects: a script asks no server.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from controlplane.cli import arguments
from controlplane.cli.arguments import Parser
from controlplane.cli.commands.catalogue import COMMANDS
from controlplane.policy.kinds import KINDS


@dataclass(frozen=True, slots=True)
class Word:
    """Something that can stand on the command line, with what it is for."""

    text: str
    help: str = ""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag; `choices` are its values, `files` = any value, which may be a path."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """What can follow a command path such as `token create`; the path of the top is empty."""

    path: str
    words: tuple[Word, ...]
    flags: tuple[Flag, ...]


def tree() -> tuple[Level, ...]:
    """Every level, the top first."""
    top = Parser(prog="meshctl")
    arguments.add_connection(top)
    words = tuple(Word(command.name, command.help) for command in COMMANDS.values())
    levels = [Level("", words, tuple(_flags(top)))]
    for command in COMMANDS.values():
        module: Any = import_module(command.module)
        parser = Parser(prog=command.name)
        module.add_arguments(parser)
        levels += _levels(command.name, parser)
    return tuple(levels)


def _levels(path: str, parser: argparse.ArgumentParser) -> Iterator[Level]:
    words: list[Word] = []
    below: list[Level] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            words += [Word(name, helps.get(name, "")) for name in action.choices]
            below += [level for name, sub in action.choices.items() for level in _levels(f"{path} {name}", sub)]
        elif not action.option_strings:
            words += [Word(word) for word in _positional(action)]
    yield Level(path, tuple(words), tuple(_flags(parser)))
    yield from below


def _positional(action: argparse.Action) -> tuple[str, ...]:
    if action.choices is not None:
        return tuple(map(str, action.choices))
    return tuple(sorted(map(KINDS.resource, KINDS))) if str(action.metavar).startswith("KIND") else ()


def _flags(parser: argparse.ArgumentParser) -> Iterator[Flag]:
    for action in parser._actions:
        if action.option_strings and action.help is not argparse.SUPPRESS:
            takes_value = action.nargs != 0
            choices = tuple(map(str, action.choices or ()))
            yield Flag(tuple(action.option_strings), (action.help or "").replace("%%", "%"), takes_value, choices)


# --- shells


def bash(levels: tuple[Level, ...]) -> str:
    """A function that walks the words to find the command, then offers what can follow."""
    paths = " ".join(f"[{_quoted(level.path or '-')}]=1" for level in levels)
    offers = "\n".join(f"    {_quoted(level.path)}) words={_quoted(' '.join(_all(level)))} ;;" for level in levels)
    values = "\n".join(f"    {pattern}) words={_quoted(' '.join(choices))} ;;" for pattern, choices in _values(levels))
    return _BASH.format(paths=paths, offers=offers, values=values, valued=_valued(levels))


def zsh(levels: tuple[Level, ...]) -> str:
    """The same, with a description beside each word."""
    paths = " ".join(f"{_quoted(level.path or '-')} 1" for level in levels)
    offers = "\n".join(f"    {_quoted(level.path)}) offered=({_described(level)}) ;;" for level in levels)
    values = "\n".join(f"    {pattern}) offered=({' '.join(choices)}) ;;" for pattern, choices in _values(levels))
    return _ZSH.format(paths=paths, offers=offers, values=values, valued=_valued(levels))


def fish(levels: tuple[Level, ...]) -> str:
    """One `complete` line for each word and flag, each bound to its command path."""
    lines = [_FISH.format(paths=" ".join(_quoted(level.path) for level in levels), valued=_spaced(levels))]
    for level in levels:
        condition = _quoted(f"__meshctl_at {level.path}".strip())
        for word in level.words:
            description = f" -d {_quoted(word.help)}" if word.help else ""
            lines.append(f"complete -c meshctl -f -n {condition} -a {_quoted(word.text)}{description}")
        lines += [f"complete -c meshctl -n {condition}{_fish_flag(flag)}" for flag in level.flags]
    return "\n".join(lines) + "\n"


def _fish_flag(flag: Flag) -> str:
    names = "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in flag.names)
    value = f" -x -a {_quoted(' '.join(flag.choices))}" if flag.choices else " -r" if flag.takes_value else ""
    return f"{names}{value} -d {_quoted(flag.help)}"


def _all(level: Level) -> list[str]:
    return [*(word.text for word in level.words), *(name for flag in level.flags for name in flag.names)]


def _described(level: Level) -> str:
    words = [(word.text, word.help) for word in level.words]
    words += [(name, flag.help) for flag in level.flags for name in flag.names]
    return " ".join(_quoted(f"{text.replace(':', chr(92) + ':')}:{help_}") for text, help_ in words)


def _values(levels: tuple[Level, ...]) -> list[tuple[str, tuple[str, ...]]]:
    """(pattern `path|flag`, its choices) of every flag with a closed set of values."""
    return [
        ("|".join(_quoted(f"{level.path} {name}") for name in flag.names), flag.choices)
        for level in levels
        for flag in level.flags
        if flag.choices
    ]


def _valued(levels: tuple[Level, ...]) -> str:
    """A shell pattern of the flags that take a value, wherever they stand."""
    return "|".join(_spaced(levels).split())


def _spaced(levels: tuple[Level, ...]) -> str:
    found = {name for level in levels for flag in level.flags if flag.takes_value for name in flag.names}
    return " ".join(sorted(found))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


_BASH = """\
# meshctl completion for bash: source <(meshctl completion bash)
_meshctl() {{
  local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" path="" word words="" skip=""
  local -A paths=({paths})
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    if [[ -n $skip ]]; then skip=""; continue; fi
    case "$word" in
      {valued}) skip=1; continue ;;
      -*) continue ;;
    esac
    if [[ -n ${{paths["${{path:+$path }}$word"]}} ]]; then path="${{path:+$path }}$word"; fi
  done
  COMPREPLY=()
  case "$path $previous" in
{values}
  esac
  if [[ -z $words ]]; then
    case "$previous" in {valued}) compopt -o default; return ;; esac
    case "$path" in
{offers}
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}}
complete -F _meshctl meshctl
"""

_ZSH = """\
#compdef meshctl
# meshctl completion for zsh: source <(meshctl completion zsh), or this text as _meshctl in a folder of $fpath
_meshctl() {{
  local previous="${{words[CURRENT-1]}}" level="" word skip=""
  local -a line=("${{(@)words[2,CURRENT-1]}}") offered=()
  local -A paths=({paths})
  for word in $line; do
    if [[ -n $skip ]]; then skip=""; continue; fi
    case "$word" in
      {valued}) skip=1; continue ;;
      -*) continue ;;
    esac
    if [[ -n "${{paths[${{level:+$level }}$word]}}" ]]; then level="${{level:+$level }}$word"; fi
  done
  case "$level $previous" in
{values}
  esac
  if (( ! $#offered )); then
    case "$previous" in {valued}) _files; return ;; esac
    case "$level" in
{offers}
    esac
  fi
  _describe -V meshctl offered
}}
if [[ $funcstack[1] == _meshctl ]]; then _meshctl; else compdef _meshctl meshctl; fi
"""

_FISH = """\
# meshctl completion for fish: meshctl completion fish | source
function __meshctl_at --description 'is the command line at this command?'
  set -l path
  set -l skip 0
  for word in (commandline -opc)[2..-1]
    if test $skip = 1
      set skip 0
    else if contains -- $word {valued}
      set skip 1
    else if not string match -q -- '-*' $word
      set -l longer (string join ' ' $path $word)
      contains -- $longer {paths}; and set path (string split ' ' $longer)
    end
  end
  test "$path" = "$argv"
end
complete -c meshctl -f"""

SHELLS: dict[str, Callable[[tuple[Level, ...]], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
