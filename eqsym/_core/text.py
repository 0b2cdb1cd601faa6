"""Tables as text, for notebooks, and as data frames."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from pandas import DataFrame


# Of a terminal.
_WIDTH = 80


def aligned(rows: Sequence[Sequence[str]], gap: int = 2) -> str:
    """Rows of as many cells each, in columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    between = " " * gap
    return "\n".join(
        between.join(
            cell.rjust(w) for cell, w in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def in_blocks(rows: Sequence[Sequence[str]]) -> str:
    """The same on lines of 80 characters: if they are too short, with columns closer to
    each other, or else in blocks of columns, which begin with the first one again."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for gap in (2, 1):
        if sum(widths) + gap * (len(widths) - 1) <= _WIDTH:
            return aligned(rows, gap)
    label, *others = (width + 2 for width in widths)
    room = _WIDTH + 2 - label
    # About as many characters in each.
    share = sum(others) / math.ceil(sum(others) / room) + max(others) / 2
    blocks, left = [[0]], min(room, share)
    for i, width in enumerate(others, 1):
        if width > left and len(blocks[-1]) > 1:
            blocks.append([0])
            left = min(room, share)
        blocks[-1].append(i)
        left -= width
    return "\n\n".join(
        aligned([[row[i] for i in block] for row in rows]) for block in blocks
    )


def in_columns(items: Sequence[str], most: int = 16) -> str:
    """Items below each other; if there are more than `most` of them, in as many columns
    as fit on lines of 80 characters, one column after the other."""
    gap = 4
    width = max(map(len, items)) + gap
    fit = max(1, (_WIDTH + gap) // width) if len(items) > most else 1
    height = -(-len(items) // fit)
    columns = [items[i : i + height] for i in range(0, len(items), height)]
    return "\n".join(
        "".join(
            column[i].ljust(width) for column in columns if i < len(column)
        ).rstrip()
        for i in range(height)
    )


def html_table(rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """The same as HTML, the first row as heads. All of it is text: what HTML would read
    as a tag or an entity is escaped, and lines are broken as they are in the text."""
    lines = []
    for row, tag in zip(rows, ["th", *["td"] * len(rows)], strict=False):
        cells = (f"<{tag}>{_escaped(cell)}</{tag}>" for cell in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    if caption:
        lines.insert(0, f"<caption>{_escaped(caption)}</caption>")
    return "\n".join(["<table>", *lines, "</table>"])


def data_frame(columns: Mapping[str, Any], index: Any = None) -> "DataFrame":
    """A data frame of pandas.

    **Raises:** `ImportError` without pandas.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "Data frames need pandas, which eqsym does without: install it with "
            "`pip install pandas`."
        ) from error
    return pandas.DataFrame(dict(columns), index=index)


def _escaped(text: str) -> str:
    return escape(text).replace("\n", "<br>")
