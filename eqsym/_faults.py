"""What a run does about faults: it counts and reports them, saves what is sound, and
stops where it does not get any further."""

import gc
import logging
import math
import os
import time
from collections import Counter
from pathlib import Path

from ._checkpoint import (
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    set_aside_damaged,
)
from ._history import History
from ._plot import plot_training
from ._processes import is_first, on_all, on_first
from ._run_folder import CHECKPOINTS, Settings
from ._sampler import REPLACED
from ._vmc import VMCState


_logger = logging.getLogger("eqsym")

# Steps in a row without a finite update, after which a run stops.
_MOST_REJECTED = 20
# Checkpoints in a row that could not be written, after which a run stops.
_MOST_UNSAVED = 3
# Steps in a row with hardly any move accepted, or refused, before that is reported.
_STUCK_STEPS = 20
_LOW, _HIGH = 0.02, 0.98
_FIGURE = "training.png"
# Between two figures: seconds, and times what it took to draw the last one.
_FIGURE_SECONDS, _FIGURE_SHARE = 30.0, 50.0


class Faults:
    """Counts what goes wrong in the steps of a run."""

    def __init__(self):
        self._steps = 0
        # Why each of the last updates was rejected, since the last one that was not.
        self._rejected: list[str] = []
        self._stuck_in_row = 0
        self._totals = dict.fromkeys(_MEANINGS, 0)

    def see(self, step: int, row: dict[str, float | int]) -> None:
        """Takes note of a step.

        **Raises:** `FloatingPointError` after 20 rejected updates in a row.
        """
        self._steps += 1
        for name in self._totals:
            if row[name] and not self._totals[name]:
                _logger.warning(
                    "Step %d: %s", step, _MEANINGS[name].format(int(row[name]))
                )
            self._totals[name] += int(row[name])
        stuck = not _LOW < row["acceptance"] < _HIGH
        self._stuck_in_row = self._stuck_in_row + 1 if stuck else 0
        if self._stuck_in_row == _STUCK_STEPS:
            _logger.warning(
                "Step %d: of the moves of the last %d steps a share of %.2g was "
                "accepted; the width of the moves adapts, but has not found one that "
                "does better. With hardly any, the walkers stand still: look for an "
                "amplitude that is not finite. With nearly all, every move is too "
                "short, or the wave function is constant.",
                step,
                _STUCK_STEPS,
                row["acceptance"],
            )
        if row["rejected"]:
            self._rejected.append(_reason(row))
        else:
            self._rejected = []
        if len(self._rejected) >= _MOST_REJECTED:
            self._stop(step)

    def _stop(self, step: int) -> None:
        reason, times = Counter(self._rejected).most_common(1)[0]
        raise FloatingPointError(
            f"Training diverged: the last {len(self._rejected)} updates, up to step "
            f"{step}, were rejected. In {times} of them {reason}. The parameters are "
            "those before. Try a smaller learning rate or norm bound, more damping, "
            "longer pretraining, or double precision: in another run folder, from the "
            "start or from `eqsym.load_run(path).wavefunction` of this one."
        )

    def report(self) -> None:
        """Logs the totals, if there is anything to say."""
        found = [
            _MEANINGS[name].format(total)
            for name, total in self._totals.items()
            if total
        ]
        if found:
            _logger.warning("In all %d steps: %s", self._steps, " ".join(found))


def _reason(row: dict[str, float | int]) -> str:
    """Why an update was rejected."""
    if math.isnan(row["variance"]):
        return "no walker had a finite local energy and weight"
    if math.isnan(row["energy"]):
        return "the projection had no positive weight, as sampled"
    return "it was not finite itself"


# What the counts of faults in `Statistics` are counts of.
_MEANINGS = {
    "invalid": "{} local energies or weights were not finite and were left out.",
    "dropped": "{} images with weight were left out by a bound on their number.",
    "replaced": REPLACED,
    "retries": "A Gram matrix was not positive; its damping was raised {} times.",
    "rejected": "{} updates were not finite and were rejected.",
}


class Checkpoints:
    """The checkpoints of a run, if it has a folder."""

    def __init__(self, folder: Path | None, settings: Settings, every: int):
        """**Arguments:**

        - `folder`: the run folder, or `None` to save nothing.
        - `settings`: to store with them, and to compare.
        - `every`: steps between two.
        """
        self.folder = folder
        self._place = None if folder is None else folder / CHECKPOINTS
        self._settings = settings
        self._every = every
        self._saved = 0
        self._failed_in_row = 0

    def restore(self, like: VMCState) -> VMCState | None:
        """The state of the newest whole checkpoint, if there is one.

        **Raises:** `ValueError` where all are damaged, or of something else.
        """
        if self._place is None:
            return None
        set_aside_damaged(self._place)
        found = self._latest()
        if found is None:
            return None
        if not on_all((self._place / str(found)).is_dir()):
            raise ValueError(
                f"`path` must be on a disk that all processes share: not all of them "
                f"see the checkpoint {self._place / str(found)}."
            )
        state = restore_checkpoint(self._place, found, like, self._settings)
        self._saved = found
        _logger.info("Resuming from the checkpoint %s.", self._place / str(found))
        return state

    def save(self, state: VMCState, history: History) -> None:
        """Writes a checkpoint.

        **Raises:** `OSError` where it cannot be written.
        """
        if self._place is None:
            return
        on_first(history.flush)
        save_checkpoint(self._place, int(state.step), state, self._settings)
        self._saved = int(state.step)

    def save_if_due(self, state: VMCState, history: History) -> None:
        """Writes a checkpoint where the next multiple of `every` was reached. Failures
        are logged; the next one is tried when it is due.

        **Raises:** `OSError` after three failures in a row.
        """
        done, saved = int(state.step) // self._every, self._saved // self._every
        if self._place is not None and done != saved:
            self._try(state, history)

    def save_last(self, state: VMCState, history: History) -> None:
        """Writes the state a run ends with, unless it is there already."""
        # Asked of the folder: an interrupt can come just after a checkpoint was saved.
        if self._place is None or self._latest() == int(state.step):
            return
        try:
            self.save(state, history)
        except OSError as error:
            _logger.error("The last state could not be saved: %s", error)

    def _latest(self) -> int | None:
        """The number of the newest whole checkpoint that the first process sees."""
        assert self._place is not None
        place = self._place
        found = on_first(lambda: str(latest_checkpoint(place)).encode()).decode()
        return int(found) if found.isdigit() else None

    def _try(self, state: VMCState, history: History) -> None:
        try:
            self.save(state, history)
        except OSError as error:
            self._failed_in_row += 1
            if self._failed_in_row >= _MOST_UNSAVED:
                raise OSError(
                    f"{self._failed_in_row} checkpoints in a row could not be written "
                    f"to {self._place} ({error}). Make room on that disk and call "
                    "`run` again: it goes on from the last checkpoint."
                ) from error
            _logger.warning(
                "The checkpoint of step %d could not be written (%s). Training goes "
                "on; the checkpoints before are as they were.",
                int(state.step),
                error,
            )
            # Not before the next one is due.
            self._saved = int(state.step)
        else:
            self._failed_in_row = 0


class Figure:
    """`training.png` in a run folder, drawn now and then."""

    def __init__(self, folder: Path | None):
        """**Arguments:**

        - `folder`: the run folder, or `None` to draw nothing.
        """
        self._folder = folder if is_first() else None
        self._next = time.monotonic() + _FIGURE_SECONDS
        self._drawn = folder is not None and (folder / _FIGURE).exists()

    def refresh(self, history: History, *, last: bool = False) -> None:
        """Draws where the last time is long enough ago, or the run ends that was drawn
        before. What goes wrong is logged: a figure never stops a run."""
        begin = time.monotonic()
        due = begin >= self._next or (last and self._drawn)
        if self._folder is None or not due:
            return
        try:
            place = self._folder / _FIGURE
            temporary = self._folder / "training.tmp.png"
            plot_training(history.columns()).savefig(temporary)
            os.replace(temporary, place)
            self._drawn = True
            # A figure is a tangle of cycles: left to later, memory grows with each.
            gc.collect()
        except ImportError:
            self._folder = None
        except Exception as error:
            _logger.warning("training.png could not be drawn: %s", error)
            self._folder = None
        spent = time.monotonic() - begin
        self._next = begin + max(_FIGURE_SECONDS, _FIGURE_SHARE * spent)
