"""What a run does about faults: it counts and reports them, saves what is sound, and
stops where it does not get any further."""

import contextlib
import gc
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Generic, Protocol, runtime_checkable, TypeVar

import jax
from jaxtyping import Array, Int

from ._checkpoint import (
    forget_after,
    is_whole,
    latest_checkpoint,
    restore_checkpoint,
    save_checkpoint,
    set_aside_damaged,
)
from ._history import History
from ._interrupts import Interrupts
from ._plot import plot_training
from ._processes import is_first, on_all, on_first
from ._run_folder import PHASES, Settings
from ._sampler import REPLACED


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


@runtime_checkable
class _PhaseState(Protocol):
    """Of a phase of a run, with the steps that it has taken."""

    @property
    def step(self) -> Int[Array, ""]: ...


State = TypeVar("State", bound=_PhaseState)


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


class Checkpoints(Generic[State]):
    """Saves the states of a phase of a run, if the run has a folder: now and then, and
    when the phase ends.

    - `interrupts`: of the run.
    - `flush`: called before a checkpoint is written; does nothing at first.
    - `marks`: by their steps, states to go back to, which stay in memory and, once a
        later one is saved, on the disk.
    """

    interrupts: Interrupts
    flush: Callable[[], None]
    marks: dict[int, State]

    def __init__(
        self,
        phase: str,
        folder: Path | None,
        settings: Settings,
        every: int,
        interrupts: Interrupts,
    ):
        """**Arguments:**

        - `phase`: one of `PHASES`.
        - `folder`: the run folder, or `None` to save nothing.
        - `settings`: to store with them, and to compare.
        - `every`: steps between two.
        - `interrupts`: of the run.
        """
        self.interrupts = interrupts
        self.flush = lambda: None
        self.marks = {}
        self._phase = phase
        self._place = None if folder is None else folder / PHASES[phase]
        self._settings = settings
        self._every = every
        self._saved = 0
        self._on_disk: set[int] = set()
        self._failed_in_row = 0

    def resume(self, like: State) -> State | None:
        """The state of the newest whole checkpoint, if there is one.

        **Raises:** `ValueError` if all are damaged, or of something else.
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
        _logger.info("Resuming from the checkpoint %s.", self._place / str(found))
        return state

    @property
    def stopped(self) -> bool:
        """Whether no further step should be taken."""
        return self.interrupts.stopped

    @contextlib.contextmanager
    def during(self, state: State) -> Iterator[None]:
        """Around the loop of a phase, which calls `keep` after every step. When it
        ends, for whatever reason, the last state that was kept is saved.

        **Arguments:**

        - `state`: the one before the first step.
        """
        self._newest, self._saved = state, int(state.step)
        self.interrupts.new_phase()
        together = True
        try:
            yield
        except BaseException as error:
            # Of several processes one that ends for another reason than these is alone,
            # and none can save alone.
            shared = isinstance(error, (FloatingPointError, OSError))
            together = shared or self.interrupts.ending or jax.process_count() == 1
            raise
        finally:
            if together:
                self._save_last(self._newest)

    def keep(self, state: State) -> None:
        """Takes the newest state that may be saved, and saves it if it is due. Ends the
        phase if it was interrupted."""
        self._newest = state
        self._save_if_due(state)
        self.interrupts.check()

    def save(self, state: State) -> None:
        """Writes a checkpoint.

        **Raises:** `OSError` if it cannot be written.
        """
        if self._place is None:
            return
        on_first(self.flush)
        for number, marked in sorted(self.marks.items()):
            if number < int(state.step) and number not in self._on_disk:
                self._write(marked)
        self._write(state)

    def mark(self, state: State, numbers: Collection[int]) -> None:
        """Adds a state to go back to, and forgets all but those of some steps."""
        marks = {**self.marks, int(state.step): state}
        self.marks = {n: marked for n, marked in marks.items() if n in numbers}

    def restore_marks(self, numbers: Collection[int], state: State) -> list[int]:
        """Reads the states to go back to, as far as they are on the disk, and returns
        their steps.

        **Arguments:**

        - `numbers`: their steps.
        - `state`: the one that the phase goes on from, to go back to if there is none.
        """
        self.marks, step = {}, int(state.step)
        if self._place is not None:
            place = self._place
            whole = on_first(
                lambda: " ".join(str(n) for n in numbers if is_whole(place, n)).encode()
            )
            for number in map(int, whole.split()):
                self._on_disk.add(number)
                if number != step:
                    found = restore_checkpoint(place, number, state, self._settings)
                    self.marks[number] = found
        if step in numbers or not self.marks:
            self.marks[step] = state
        return sorted(self.marks)

    def go_back(self, step: int) -> State:
        """One of the marks, which is also the newest checkpoint from now on."""
        state = self._newest = self.marks[step]
        self.marks = {n: marked for n, marked in self.marks.items() if n <= step}
        if self._place is not None:
            forget_after(self._place, step)
            if self._latest() != step:
                self._write(state)
        self._saved = step
        return state

    def remove(self) -> None:
        """Removes the folder of a phase that is over, and was followed by another."""
        if self._place is not None:
            place = self._place
            on_first(lambda: shutil.rmtree(place, ignore_errors=True))

    def _write(self, state: State) -> None:
        assert self._place is not None
        step, keep = int(state.step), tuple(self.marks)
        save_checkpoint(self._place, step, state, self._settings, keep=keep)
        self._on_disk.add(step)
        self._saved = step

    def _save_if_due(self, state: State) -> None:
        """Writes a checkpoint if the next multiple of `every` was reached. Failures are
        logged; the next one is tried when it is due.

        **Raises:** `OSError` after three failures in a row.
        """
        done, saved = int(state.step) // self._every, self._saved // self._every
        if self._place is None or done == saved:
            return
        try:
            self.save(state)
        except OSError as error:
            self._failed_in_row += 1
            if self._failed_in_row >= _MOST_UNSAVED:
                raise OSError(
                    f"{self._failed_in_row} checkpoints in a row could not be written "
                    f"to {self._place} ({error}). Make room on that disk and call "
                    "`run` again: it goes on from the last checkpoint."
                ) from error
            _logger.warning(
                "The checkpoint of step %d could not be written (%s). The run goes on; "
                "the checkpoints before are as they were.",
                int(state.step),
                error,
            )
            # Not before the next one is due.
            self._saved = int(state.step)
        else:
            self._failed_in_row = 0

    def _save_last(self, state: State) -> None:
        """Writes the state a phase ends with, unless it is there already."""
        step = int(state.step)
        if self._place is None:
            if self.interrupts.ending:
                _logger.warning(
                    "The %s was interrupted at step %d. Nothing is saved without a "
                    "`path`.",
                    self._phase,
                    step,
                )
            return
        # Asked of the folder: an interrupt can come just after a checkpoint was saved.
        if self._latest() != step:
            try:
                self.save(state)
            except OSError as error:
                _logger.error("The last state could not be saved: %s", error)
                return
        if self.interrupts.ending:
            _logger.warning(
                "The %s was interrupted. Saved step %d in %s; run again to go on.",
                self._phase,
                step,
                self._place,
            )

    def _latest(self) -> int | None:
        """The number of the newest whole checkpoint that the first process sees."""
        assert self._place is not None
        place = self._place
        found = on_first(lambda: str(latest_checkpoint(place)).encode()).decode()
        return int(found) if found.isdigit() else None


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
