"""The documentation as readers copy from it: code blocks, commands, links. Pure.

Owns:   cutting Markdown and shell text into what tests check.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.M | re.S)
_HERE = re.compile(r"<<'(\w+)'\n(.*?)^\1$", re.M | re.S)
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*", re.M)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_INLINE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block. `file` is relative to the repository, `line` where it begins."""

    file: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def pages() -> list[Path]:
    """Everything that users read."""
    return [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "deploy" / "README.md",
        *sorted(ROOT.glob("docs/**/*.md")),
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks in these languages."""
    found = []
    for page in pages():
        text = page.read_text()
        for match in _BLOCK.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start()) + 2
                found.append(Block(file=name_of(page), line=line, language=match[1], text=match[2]))
    return found


def heredocs(block: Block) -> list[str]:
    """What a shell block writes into files or hands to commands."""
    return [match[2] for match in _HERE.finditer(block.text)]


def commands(block: Block) -> Iterator[list[str]]:
    """The simple commands of a shell block, as words; without redirections, comments and here-documents."""
    text = _COMMENT.sub("", _HERE.sub("<EOF\n", block.text).replace("\\\n", " "))
    words: list[str] = []
    skip = False
    for token in _tokens(text):
        if not set(token) - set("|&;()\n"):
            yield words
            words, skip = [], False
        elif not set(token) - set("<>&"):
            skip = True  # the word after it is a file
        elif skip:
            skip = False
        else:
            words.append(token)
    yield words


def _tokens(text: str) -> Iterator[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;()<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    return iter(lexer)


def calls(program: str) -> list[tuple[Block, list[str]]]:
    """The arguments of every call of a program in shell blocks; `...` in them stands for more."""
    return [
        (block, [word for word in words[1:] if word != "..."])
        for block in blocks("sh", "console")
        for words in commands(block)
        if words and words[0].rpartition("/")[2] == program
    ]


def quoted() -> list[tuple[str, str]]:
    """(page, text) of everything that is written `so` outside blocks."""
    return [
        (name_of(page), match[1]) for page in pages() for match in _INLINE.finditer(_BLOCK.sub("", page.read_text()))
    ]


def inline(program: str) -> list[tuple[str, str]]:
    """(page, text) of what is quoted and begins with the program's name and a word."""
    return [(page, text) for page, text in quoted() if text.startswith(f"{program} ")]


def links() -> list[tuple[Path, str]]:
    """(page, target) of the links that stay in the repository."""
    found = [(page, match[1]) for page in pages() for match in _LINK.finditer(_BLOCK.sub("", page.read_text()))]
    return [(page, target) for page, target in found if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = _HEADING.findall(_BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
