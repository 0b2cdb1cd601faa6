"""The history of a run: one CSV row per step."""

import csv
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float


_logger = logging.getLogger("eqsym")


class History:
    """Rows of named numbers, appended to a CSV file as they come.

    The one mutable object of the library: a log, of which no result depends. Where the
    disk is full, rows wait in memory until they can be written.
    """

    def __init__(
        self,
        path: str | os.PathLike | None,
        columns: tuple[str, ...],
        *,
        steps: int,
        write: bool = True,
    ):
        """**Arguments:**

        - `path`: the file, or `None` to keep the rows in memory only.
        - `columns`: names; the first one counts the steps, from 1.
        - `steps`: rows of an existing file that are kept: those of steps up to here.
            Later ones, and a line cut off in its middle, are of an interrupted run that
            will be run again. Lines before that are damaged, or missing, are reported.
        - `write`: whether the file is written, or only read at the start.

        **Raises:** `ValueError` where the file has other columns.
        """
        self._path = None if path is None else Path(path)
        self._columns = columns
        self._rows: list[list[str]] = []
        self._behind = False
        if self._path is not None:
            if self._path.exists():
                rows = _read(self._path, columns)
                self._rows = [r for r in rows if int(r[0]) <= steps]
            if len(self._rows) < steps:
                _logger.warning(
                    "The history %s has %d of %d steps: lines were damaged or lost. "
                    "Parameters and walkers are not affected.",
                    self._path,
                    len(self._rows),
                    steps,
                )
            if write:
                self._rewrite()
            else:
                self._path = None

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
        if self._path is None:
            return
        try:
            if self._behind:
                self._rewrite()
            else:
                with open(self._path, "a", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerow(values)
        except OSError as error:
            if not self._behind:
                _logger.warning(
                    "The history %s cannot be written (%s). Its rows are kept in "
                    "memory and written as soon as that is possible.",
                    self._path,
                    error,
                )
            self._behind = True
        else:
            self._behind = False

    def flush(self) -> None:
        """Puts the rows on the disk itself, before a checkpoint that relies on them.

        **Raises:** `OSError` where they cannot be written.
        """
        if self._path is None:
            return
        if self._behind:
            self._rewrite()
            self._behind = False
        with open(self._path) as file:
            os.fsync(file.fileno())

    def columns(self) -> dict[str, Float[np.ndarray, " steps"]]:
        """All rows, as one array for every column."""
        return _arrays(self._rows, self._columns)


def read_history(path: str | os.PathLike) -> dict[str, Float[np.ndarray, " steps"]]:
    """One array for every column of a history file, which is left as it is.

    **Arguments:**

    - `path`: the file.

    **Raises:** `FileNotFoundError` where there is none.
    """
    columns = tuple(Path(path).read_text().partition("\n")[0].split(","))
    return _arrays(_read(Path(path), columns), columns)


def _read(path: Path, columns: tuple[str, ...]) -> list[list[str]]:
    """The rows of a file but for a cut line at its end, and damaged lines."""
    with open(path, newline="", errors="replace") as file:
        lines = file.read()
    complete = lines[: lines.rfind("\n") + 1].splitlines()
    header, *rows = list(csv.reader(complete)) or [[]]
    if tuple(header) != columns:
        raise ValueError(
            f"The history {path} has the columns {header}, expected {list(columns)}. "
            "It is not of this kind of run, or of another version of eqsym: use "
            "another run folder."
        )
    found: dict[int, list[str]] = {}
    for row in rows:
        if len(row) == len(columns) and all(map(_is_number, row)) and row[0].isdigit():
            found[int(row[0])] = row
    return [found[step] for step in sorted(found)]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _arrays(
    rows: list[list[str]], columns: tuple[str, ...]
) -> dict[str, Float[np.ndarray, " steps"]]:
    table = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    return {name: table[:, i] for i, name in enumerate(columns)}
