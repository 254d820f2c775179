"""Tables as kubectl writes them: capitals, three blanks between columns, no lines, nothing wrapped.

Invariant: what is printed holds no control characters but our own colours; cells are measured without them.
"""

from collections.abc import Collection, Iterable, Sequence
from unicodedata import east_asian_width

from controlplane.cli.output.terminal import STRONG, Terminal

_GAP = 3
_PLAIN = Terminal(colour=False)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    terminal: Terminal = _PLAIN,
    states: Collection[str] = (),
    heading: bool = True,
    widths: list[int] | None = None,
) -> str:
    """Lines below a heading. Cells of the columns in `states` are coloured by what they say; empty ones are `-`.

    `widths`: the least widths; grown here, so that rows that come later stand below the earlier ones.
    """
    lines = [[column.upper() for column in columns]] if heading else []
    lines += [[one_line(cell) or "-" for cell in row] for row in rows]
    widths = [0] * len(columns) if widths is None else widths
    widths[:] = [max(known, *(_width(line[index]) for line in lines), 0) for index, known in enumerate(widths)]
    text = []
    for number, line in enumerate(lines):
        cells = [
            terminal.paint(cell, STRONG) if heading and number == 0 else terminal.word(cell) if name in states else cell
            for name, cell in zip(columns, line, strict=True)
        ]
        text.append(_row(cells, line, widths) + "\n")
    return "".join(text)


def _row(cells: Sequence[str], plain: Sequence[str], widths: Sequence[int]) -> str:
    parts = [cell + " " * (width - _width(bare) + _GAP) for cell, bare, width in zip(cells, plain, widths, strict=True)]
    return "".join(parts).rstrip()


def pairs(items: Iterable[tuple[str, str]], *, indent: int = 0) -> str:
    """`Name:   value` lines, the values below each other."""
    listed = [(f"{' ' * indent}{name}:", value) for name, value in items]
    width = max((len(name) for name, _ in listed), default=0) + _GAP
    return "".join(f"{name:<{width}}{value}\n" for name, value in listed)


def one_line(value: object) -> str:
    """Text from elsewhere without line breaks and control characters, which could redraw the terminal."""
    flat = " ".join(("" if value is None else str(value)).split())
    return "".join(sign if sign.isprintable() else "?" for sign in flat)


def _width(text: str) -> int:
    return sum(2 if east_asian_width(sign) in "WF" else 1 for sign in text)
