"""The history of a run: one CSV row per step."""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float


class History:
    """Rows of named numbers, appended to a CSV file as they come.

    The one mutable object of the library: a log, of which no result depends.
    """

    def __init__(
        self, path: str | os.PathLike | None, columns: tuple[str, ...], *, steps: int
    ):
        """**Arguments:**

        - `path`: the file, or `None` to keep the rows in memory only.
        - `columns`: names; the first one counts the steps.
        - `steps`: rows of an existing file that are kept: those of steps up to here.
            Later ones, and a line cut off in its middle, are of an interrupted run that
            will be run again.

        **Raises:** `ValueError` where the file has other columns.
        """
        self._path = None if path is None else Path(path)
        self._columns = columns
        self._rows: list[list[str]] = []
        if self._path is not None:
            if self._path.exists():
                self._rows = [r for r in self._read() if int(r[0]) <= steps]
            self._rewrite()

    def _read(self) -> list[list[str]]:
        assert self._path is not None
        with open(self._path, newline="") as file:
            lines = file.read()
        complete = lines[: lines.rfind("\n") + 1].splitlines()
        header, *rows = list(csv.reader(complete)) or [[]]
        if tuple(header) != self._columns:
            raise ValueError(
                f"The history {self._path} has the columns {header}, expected "
                f"{list(self._columns)}. It is not of this kind of run: use another "
                "run folder."
            )
        return [row for row in rows if len(row) == len(self._columns)]

    def _rewrite(self) -> None:
        assert self._path is not None
        temporary = self._path.with_name(self._path.name + ".tmp")
        with open(temporary, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(
                [list(self._columns), *self._rows]
            )
        os.replace(temporary, self._path)

    def append(self, row: Mapping[str, float | int]) -> None:
        """Adds a row, in full precision."""
        values = [repr(row[name]) for name in self._columns]
        self._rows.append(values)
        if self._path is not None:
            with open(self._path, "a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(values)

    def columns(self) -> dict[str, Float[np.ndarray, " steps"]]:
        """All rows, as one array for every column."""
        table = np.array(self._rows, dtype=np.float64).reshape(-1, len(self._columns))
        return {name: table[:, i] for i, name in enumerate(self._columns)}
