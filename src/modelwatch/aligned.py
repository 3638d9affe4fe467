"""Tables of plain text, for people."""

from __future__ import annotations

from collections.abc import Sequence


def shown(text: str) -> str:
    """Text that stays on its line, whoever has thought it up.

    >>> shown("two" + chr(10) + "lines")
    'two?lines'
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def aligned(lines: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Lines of cells as one text, column under column: the first `left` columns to the left, the others to the right.

    >>> print(aligned([["feature", "rows"], ["age", "300"]]))
    feature  rows
    age       300
    """
    lines = [[shown(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
