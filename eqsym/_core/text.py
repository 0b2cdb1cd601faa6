"""Tables as text, for notebooks, and as data frames."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, TYPE_CHECKING


if TYPE_CHECKING:
    from pandas import DataFrame


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of as many cells each, in columns aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
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
