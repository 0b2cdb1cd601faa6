"""The figure in a run folder, drawn while the run goes on."""

import gc
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from .._core import is_first
from .._storage import History


_logger = logging.getLogger("eqsym")

# Makes a matplotlib figure of the columns of a history.
Draw: TypeAlias = Callable[[dict[str, Float[np.ndarray, " steps"]]], Any]
_FIGURE = "training.png"


# The time between two figures: in seconds, and in times that the last one took.
_FIGURE_SECONDS, _FIGURE_SHARE = 30.0, 50.0


class Figure:
    """`training.png` in a run folder, drawn now and then."""

    def __init__(self, folder: Path | None, draw: Draw | None):
        """**Arguments:**

        - `folder`: the run folder, or `None` to draw nothing.
        - `draw`: makes a figure of the history, or `None` to draw nothing.
        """
        self._folder = folder if is_first() else None
        self._draw = draw
        self._next = time.monotonic() + _FIGURE_SECONDS
        self._drawn = folder is not None and (folder / _FIGURE).exists()

    def refresh(self, history: History, *, last: bool = False) -> None:
        """Draws if the last figure is old enough, or if there is one and the run ends.
        Errors are logged: a figure never stops a run."""
        begin = time.monotonic()
        due = begin >= self._next or (last and self._drawn)
        if self._folder is None or self._draw is None or not due:
            return
        try:
            place = self._folder / _FIGURE
            temporary = self._folder / "training.tmp.png"
            self._draw(history.columns()).savefig(temporary)
            os.replace(temporary, place)
            self._drawn = True
            # Figures are full of reference cycles: memory would grow with each.
            gc.collect()
        except ImportError:
            self._folder = None
        except Exception as error:
            _logger.warning("training.png could not be drawn: %s", error)
            self._folder = None
        spent = time.monotonic() - begin
        self._next = begin + max(_FIGURE_SECONDS, _FIGURE_SHARE * spent)
