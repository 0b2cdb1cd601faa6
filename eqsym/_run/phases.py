"""Which states of a run are saved, when, and which of them it may need again.

Writing, reading and checking the files of a checkpoint is in `_storage/checkpoints.py`,
apart from this because estimates, and users with loops of their own, share it. It knows
nothing of phases, marks, interrupts or a disk that is full for a while.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Generic, Protocol, runtime_checkable, TypeVar

import jax
from jaxtyping import Array, Int

from .._core import Interrupts, Key, on_first
from .._storage import (
    common_checkpoint,
    Difference,
    forget_after,
    is_whole,
    listed,
    read_description,
    restore_with_changes,
    resumable_checkpoint,
    save_checkpoint,
    warn_of_uncompared,
)
from .folder import note_in_run_json, PHASES, RunSettings, saved_walkers, TRAINING
from .resampling import chosen_walkers, like_saved, resampled


_logger = logging.getLogger("eqsym")

# The field of the settings whose change asks for other walkers.
_WALKERS = "settings.walkers"
# Checkpoints in a row that could not be written, after which a run stops.
_MOST_UNSAVED = 3
_SECOND_RUN = (
    " To go on with another optimizer or sampler, start a second run from this one, in "
    "another folder: `before = eqs.load_run({!r})` and `eqs.run(vmc, "
    "before.wavefunction, walkers=before.walkers, ...)`."
)


@runtime_checkable
class _PhaseState(Protocol):
    """The state of a phase of a run, with the steps that it has taken."""

    @property
    def step(self) -> Int[Array, ""]: ...


State = TypeVar("State", bound=_PhaseState)


class Checkpoints(Generic[State]):
    """Saves the states of a phase of a run, if the run has a folder: now and then, and
    when the phase ends.

    - `interrupts`: of the run.
    - `flush`: called before a checkpoint is written; does nothing at first.
    - `marks`: states to go back to, by their steps. They stay in memory and, once a
        later state is saved, on the disk.
    - `resampled`: whether the phase goes on with another number of walkers.
    """

    interrupts: Interrupts
    flush: Callable[[], None]
    marks: dict[int, State]
    resampled: bool

    def __init__(
        self,
        phase: str,
        folder: Path | None,
        settings: RunSettings,
        every: int,
        interrupts: Interrupts,
        *,
        changed_settings: bool = False,
        key: Key,
    ):
        """**Arguments:**

        - `phase`: one of `PHASES`.
        - `folder`: the run folder, or `None` to save nothing.
        - `settings`: stored with the states, and compared when the phase goes on.
        - `every`: steps between two checkpoints.
        - `interrupts`: of the run.
        - `changed_settings`: whether the phase goes on with settings that are not those
            of its checkpoint, which is then noted in `run.json`.
        - `key`: seeds the choice of walkers if their number changes.
        """
        self.interrupts = interrupts
        self.flush = lambda: None
        self.marks = {}
        self._phase, self._folder = phase, folder
        self._place = None if folder is None else folder / PHASES[phase]
        self._settings = settings
        self._every = every
        self._may_change = changed_settings
        self._changes: list[Difference] = []
        self._noted, self._key = False, key
        self.resampled = False
        self._saved = 0
        self._on_disk: set[int] = set()
        # Steps of checkpoints with other settings.
        self._changed: set[int] = set()
        self._failed_in_row = 0

    def resume(self, like: Callable[[int], State]) -> State | None:
        """The state of the newest whole checkpoint, if there is one.

        **Arguments:**

        - `like`: makes a state of the structure that the state of a step has.

        **Raises:** `ValueError` if all are damaged, or if it is of another model; or of
        other settings, unless these may change.
        """
        if self._place is None:
            return None
        found = resumable_checkpoint(self._place)
        if found is None:
            return None
        place = self._place / str(found)
        expected = like(found)
        state, self._changes = self._restored(found, expected)
        if self._changes and not self._may_change:
            raise ValueError(
                f"The checkpoint {place} is of a run with other settings. Use what it "
                "was made with, or another folder; or go on with the settings here, "
                "with `changed_settings=True` in `run`. These fields differ:"
                f"{listed(self._changes)}"
            )
        warn_of_uncompared(place, state=expected, settings=self._settings)
        _logger.info("Resuming from the checkpoint %s.", place)
        changed = {difference.field for difference in self._changes}
        self.resampled = _WALKERS in changed
        return state

    @property
    def stopped(self) -> bool:
        """Whether no further step should be taken."""
        return self.interrupts.stopped

    @contextlib.contextmanager
    def during(self, state: State) -> Iterator[None]:
        """Around the loop of a phase, which calls `keep` after every step. However the
        loop ends, the newest state that was kept is saved.

        **Arguments:**

        - `state`: the one before the first step.
        """
        self._note_changes(int(state.step))
        self._newest, self._saved = state, int(state.step)
        self.interrupts.new_phase()
        together, ended = True, False
        try:
            yield
        except BaseException as error:
            # One of several processes that ends for another reason than these is alone,
            # and cannot save alone.
            shared = isinstance(error, (FloatingPointError, OSError))
            ended = not shared
            together = shared or self.interrupts.ending or jax.process_count() == 1
            raise
        finally:
            if together:
                self._save_last(self._newest, ended)

    def replace(self, state: State) -> None:
        """Writes a checkpoint in the place of the one that the phase goes on from, with
        the settings that it has from now on.

        **Raises:** `OSError` if it cannot be written.
        """
        self._note_changes(int(state.step))
        self.save(state)

    def hold(self, newest: State) -> None:
        """Takes the state to save if the phase ends before the next call of `keep`."""
        self._newest = newest

    def keep(self, state: State, step: int, newest: State | None = None) -> None:
        """Takes the newest state known to be sound, and saves it if a checkpoint is
        due. Ends the phase if it was interrupted.

        **Arguments:**

        - `state`: the newest one known to be sound.
        - `step`: its step, which would have to be fetched from a GPU.
        - `newest`: the one to save when the phase ends, the same by default.
        """
        self._newest = state if newest is None else newest
        self._save_if_due(state, step)
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
        """Adds a state to go back to, and forgets all but the ones of some steps."""
        marks = {**self.marks, int(state.step): state}
        self.marks = {n: marked for n, marked in marks.items() if n in numbers}

    def restore_marks(
        self, numbers: Collection[int], state: State, like: Callable[[int], State]
    ) -> list[int]:
        """Reads the states to go back to that are on the disk, and returns their steps.
        If other strategies are planned now for steps that were taken, their states may
        be of another structure: nothing can go back to them.

        **Arguments:**

        - `numbers`: their steps.
        - `state`: the one that the phase goes on from, and goes back to if there is no
            other.
        - `like`: as for `resume`.
        """
        self.marks, step = {}, int(state.step)
        if self._place is not None:
            place = self._place
            whole = on_first(
                lambda: " ".join(str(n) for n in numbers if is_whole(place, n)).encode()
            )
            for number in map(int, whole.split()):
                self._on_disk.add(number)
                if number == step:
                    continue
                try:
                    found, _ = self._restored(number, like(number))
                except ValueError as error:
                    _logger.warning("Nothing can go back to step %d: %s", number, error)
                else:
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
            # Settings that changed since it was written change for good.
            if common_checkpoint(self._place) != step or step in self._changed:
                on_first(self.flush)
                self._write(state)
        self._saved = step
        return state

    def remove(self) -> None:
        """Removes the folder of a phase that is over, once another has followed."""
        if self._place is not None:
            place = self._place
            on_first(lambda: shutil.rmtree(place, ignore_errors=True))

    def _restored(self, step: int, like: State) -> tuple[State, list[Difference]]:
        """The state of a checkpoint, with the number of walkers of the run; and the
        settings in which it differs from the run."""
        assert self._place is not None
        description = read_description(self._place, step)
        saved, here = saved_walkers(description), self._settings.walkers
        sized = like if saved == here else like_saved(like, here, saved)
        training = self._phase == TRAINING
        remedy = _SECOND_RUN.format(str(self._folder)) if training else ""
        state, changes = restore_with_changes(
            self._place, step, description, sized, self._settings, remedy
        )
        if changes:
            self._changed.add(step)
        if saved != here:
            # The same whenever a run comes here, also after it was resumed.
            key = jax.random.fold_in(self._key, step)
            state = resampled(state, like, here, chosen_walkers(saved, here, key=key))
        return state, changes

    def _note_changes(self, step: int) -> None:
        """Tells of settings that are not those the phase has had so far: in the log and
        in `run.json`, once there is a session that goes on with them."""
        folder, changes = self._folder, self._changes
        if folder is None or not changes or self._noted:
            return
        self._noted = True
        _logger.warning(
            "The %s goes on from step %d with other settings:%s",
            self._phase,
            step,
            listed(changes),
        )
        for field, before, after in changes:
            note = {"phase": self._phase, "step": step, "field": field}
            note |= {"before": before, "after": after}
            on_first(lambda n=note: note_in_run_json(folder, "changed_settings", n))

    def _write(self, state: State) -> None:
        assert self._place is not None
        step, keep = int(state.step), tuple(self.marks)
        save_checkpoint(self._place, step, state, self._settings, keep=keep)
        self._on_disk.add(step)
        self._changed.discard(step)
        self._saved = step

    def _save_if_due(self, state: State, step: int) -> None:
        """Writes a checkpoint if the next multiple of `every` was reached. Failures are
        logged; the next one is tried when it is due.

        **Raises:** `OSError` after three failures in a row.
        """
        done, saved = step // self._every, self._saved // self._every
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
                step,
                error,
            )
            # Not before the next one is due.
            self._saved = step
        else:
            self._failed_in_row = 0

    def _save_last(self, state: State, ended: bool) -> None:
        """Writes the state that a phase ends with, unless it is there already. `ended`
        if the user wanted it to end: also by a second Ctrl-C, in the middle of a step.
        """
        step = int(state.step)
        if self._place is None:
            if ended:
                _logger.warning(
                    "The %s was interrupted at step %d. Nothing is saved without a "
                    "`path`.",
                    self._phase,
                    step,
                )
            return
        # The folder knows: an interrupt can come just after a checkpoint was saved.
        if common_checkpoint(self._place) != step:
            try:
                self.save(state)
            except OSError as error:
                _logger.error("The last state could not be saved: %s", error)
                return
        if ended:
            _logger.warning(
                "The %s was interrupted. Saved step %d in %s; run again to go on.",
                self._phase,
                step,
                self._place,
            )
