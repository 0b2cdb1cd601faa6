"""Tables of results, as text, in notebooks and as data frames, and numbers for JSON."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TYPE_CHECKING

import equinox as eqx
import numpy as np

from .._core import AbstractSummarized, aligned, data_frame, html_table
from .estimate import Estimate


if TYPE_CHECKING:
    from pandas import DataFrame


def cell(value: Any) -> str:
    """A value in a printed table."""
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


class Column(NamedTuple):
    """Values of all rows: `None` if there is none, and "" if there cannot be one.

    - `name`: in a data frame, `None` for a column that is only printed.
    - `head`: in print, `None` for a column that is only in a data frame.
    - `error`: whether the values are estimates or exact numbers: then the data frame
        has a second column for the errors.
    - `shown`: how a value is printed.
    """

    name: str | None
    head: str | None
    values: Sequence[Any]
    error: bool = False
    shown: Callable[[Any], str] = cell


class Table(eqx.Module):
    """Rows with names: printed as text, shown as HTML in notebooks, and a data frame.

    - `rows`: their names.
    - `columns`: with a value for each row.
    - `notes`: lines below the table.
    """

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([aligned(self._lines()), *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._lines(), "\n".join(self.notes))

    def to_frame(self) -> "DataFrame":
        """A data frame of pandas, one row for each row that is printed. Errors are
        columns of their own: `energy` and `energy_error`."""
        return data_frame(self.series(), None if self.rows == ("",) else self.rows)

    def series(self) -> dict[str, list[Any]]:
        """The columns of the data frame."""
        found: dict[str, list[Any]] = {}
        for name, _, values, error, _ in self.columns:
            if name is None:
                continue
            values = [None if isinstance(one, str) else one for one in values]
            if error:
                pairs = [_pair(value) for value in values]
                found[name] = [mean for mean, _ in pairs]
                found[f"{name}_error"] = [error for _, error in pairs]
            else:
                found[name] = values
        return found

    def _lines(self) -> list[list[str]]:
        printed = [column for column in self.columns if column.head is not None]
        lines = [["", *(str(column.head) for column in printed)]]
        for i, name in enumerate(self.rows):
            lines.append(
                [name, *(column.shown(column.values[i]) for column in printed)]
            )
        return lines


class AbstractResult(AbstractSummarized):
    """Numbers that print as a table, which is also what a notebook shows."""

    @abc.abstractmethod
    def _table(self) -> Table:
        """The rows."""

    def to_dict(self) -> dict[str, Any]:
        """Numbers only, for JSON: `{"energy": {"mean": .., "error": ..}, ..}`."""
        return _numbers(self)

    def to_frame(self) -> "DataFrame":
        """A data frame of pandas, one row for each row that is printed. Errors are
        columns of their own: `energy` and `energy_error`.

        **Raises:** `ImportError` if pandas is not installed: eqsym does without.
        """
        return self._table().to_frame()

    def __str__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()


class AbstractLabeled(AbstractSummarized):
    """A part of a result that is found by its label, also in JSON."""

    label: eqx.AbstractVar[str]


def with_unit(value: Estimate | None, unit: str = " Ha") -> str:
    """In a `repr`."""
    return "None" if value is None else f"{value}{unit}"


def _pair(value: Any) -> tuple[float, float]:
    if value is None:
        return np.nan, np.nan
    if isinstance(value, Estimate):
        return value.mean, value.error
    return float(value), 0.0


def _numbers(node: Any) -> Any:
    if isinstance(node, Estimate):
        return {"mean": node.mean, "error": node.error}
    if isinstance(node, eqx.Module):
        return {name: _numbers(value) for name, value in vars(node).items()}
    if isinstance(node, (tuple, list)):
        if node and all(isinstance(part, AbstractLabeled) for part in node):
            parts = [_numbers(part) for part in node]
            return {part.pop("label"): part for part in parts}
        return [_numbers(part) for part in node]
    return node.tolist() if isinstance(node, np.ndarray) else node
