"""The history of a run: one CSV row per step."""

import logging
import os
import time
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float


_logger = logging.getLogger("eqsym")

# Between two times that rows are written.
_SECONDS = 2.0


class History:
    """Rows of named numbers, appended to a CSV file every two seconds.

    It is mutable, unlike most of the library: a log, on which no result depends. While
    the disk is full, rows wait in memory until they can be written.

    - `before`: the step before the first row.
    """

    before: int

    def __init__(
        self,
        path: str | os.PathLike | None,
        columns: tuple[str, ...],
        *,
        steps: int,
        before: int = 0,
        write: bool = True,
    ):
        """**Arguments:**

        - `path`: the file, or `None` to keep the rows in memory only.
        - `columns`: names; the first one counts the steps, from 1.
        - `steps`: rows of an existing file are kept up to this step. Later rows, and a
            line that was cut off, belong to steps that will be run again. Damaged or
            missing lines before are reported.
        - `before`: the step before the first row.
        - `write`: whether the file is written, from the first new row on.

        **Raises:** `ValueError` if the file has other columns.
        """
        self._path = None if path is None else Path(path)
        self._columns = columns
        self.before = before
        # The rows as numbers, one after the other. As text for the file, those that it
        # holds, or is to hold, and those that wait.
        self._numbers = array("d")
        self._lines: list[str] = []
        self._waiting: list[tuple[float | int, ...]] = []
        self._next = time.monotonic()
        # Whether the file does not hold these rows, and whether that was reported.
        self._stale, self._reported = True, False
        if self._path is not None:
            if self._path.exists():
                found, lines = _read(self._path)
                if found and found != columns:
                    raise ValueError(
                        f"The history {self._path} has the columns {','.join(found)}, "
                        f"expected {','.join(columns)}. It is damaged, or not of this "
                        "kind of run, or of another version of eqsym: mend its first "
                        "line, or use another run folder."
                    )
                for step, line in lines:
                    if step <= steps:
                        self._lines.append(line)
                        self._numbers.extend(map(float, line.split(",")))
            if len(self._lines) < steps - before:
                _logger.warning(
                    "The history %s has %d of %d steps: lines were damaged or lost. "
                    "Parameters and walkers are not affected.",
                    self._path,
                    len(self._lines),
                    steps - before,
                )
        if not write:
            self._path = None

    def append(self, row: Mapping[str, float | int]) -> None:
        """Adds a row, in full precision."""
        values = tuple([row[name] for name in self._columns])
        self._numbers.extend(values)
        if self._path is None:
            return
        self._waiting.append(values)
        if time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Puts rows that wait into the file. If it cannot be written, they wait on, and
        a warning says so."""
        if self._path is None or not (self._waiting or self._stale):
            return
        self._next = time.monotonic() + _SECONDS
        try:
            self._write()
        except OSError as error:
            if not self._reported:
                _logger.warning(
                    "The history %s cannot be written (%s). Its rows are kept in "
                    "memory and written as soon as that is possible.",
                    self._path,
                    error,
                )
            self._reported = True
        else:
            self._reported = False

    def flush(self) -> None:
        """Puts all rows on the disk itself, before a checkpoint that relies on them.

        **Raises:** `OSError` if they cannot be written.
        """
        if self._path is None:
            return
        self._write()
        with open(self._path) as file:
            os.fsync(file.fileno())

    def cut(self, steps: int) -> None:
        """Forgets the rows of later steps, which will be run again otherwise."""
        self._settle()
        rows = np.array(self._numbers).reshape(-1, len(self._columns))
        kept = rows[:, 0] <= steps
        self._numbers = array("d", rows[kept].ravel().tolist())
        if self._path is not None:
            self._lines = [s for s, k in zip(self._lines, kept, strict=True) if k]
        self._stale = True

    def _settle(self) -> list[str]:
        """Turns the rows that wait into lines, and returns these."""
        lines = [",".join(map(repr, values)) for values in self._waiting]
        self._lines += lines
        self._waiting = []
        return lines

    def _write(self) -> None:
        assert self._path is not None
        lines = self._settle()
        if self._stale:
            self._rewrite()
        elif lines:
            # Not known to be whole, if this fails.
            self._stale = True
            with open(self._path, "a", newline="") as file:
                file.writelines(line + "\n" for line in lines)
            self._stale = False

    def _rewrite(self) -> None:
        assert self._path is not None
        temporary = self._path.with_name(self._path.name + ".tmp")
        with open(temporary, "w", newline="") as file:
            file.write(",".join(self._columns) + "\n")
            file.writelines(line + "\n" for line in self._lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        self._stale = False

    def columns(self) -> dict[str, Float[np.ndarray, " steps"]]:
        """All rows, as one array for every column."""
        return _by_column(np.array(self._numbers), self._columns)


def read_history(path: str | os.PathLike) -> dict[str, Float[np.ndarray, " steps"]]:
    """One array for every column of a history file. The file is left as it is.

    **Arguments:**

    - `path`: the file.

    **Raises:** `FileNotFoundError` if there is none.
    """
    columns, lines = _read(Path(path))
    rows = [line.split(",") for _, line in lines]
    return _by_column(np.array(rows, np.float64), columns)


def _read(path: Path) -> tuple[tuple[str, ...], list[tuple[int, str]]]:
    """The columns (none, if there is no whole line), and steps with their lines. A line
    that was cut off at the end, and damaged lines, are left out."""
    with open(path, errors="replace") as file:
        whole = file.read().split("\n")[:-1]
    if not whole:
        return (), []
    header, *lines = whole
    columns = tuple(header.split(","))
    found: dict[int, str] = {}
    for line in lines:
        step, *rest = line.split(",")
        complete = len(rest) == len(columns) - 1 and step.isdecimal()
        if complete and all(map(_is_number, rest)):
            found[int(step)] = line
    return columns, sorted(found.items())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _by_column(
    numbers: Float[np.ndarray, "..."], columns: tuple[str, ...]
) -> dict[str, Float[np.ndarray, " steps"]]:
    table = numbers.reshape(-1, len(columns)) if columns else numbers
    return {name: table[:, i] for i, name in enumerate(columns)}
