"""The training phase of a run: steps, history, and going back from a divergence."""

import functools
import logging
import time
from pathlib import Path

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._core import duration, on_first, progress_bar
from .._storage import History
from .._training import VMCState
from .callbacks import Callback, stops
from .divergence import risen, Watch
from .faults import Faults
from .figure import Figure
from .folder import note_in_run_json
from .phases import Checkpoints
from .stages import stage_of, Stages
from .stepping import Started, TrainingStep


_logger = logging.getLogger("eqsym")

# Factor of the updates after a run has gone back.
_HALF = 0.5
# Steps whose mean energy the log tells at the end.
_LAST = 100
_KICK = (
    "Step %d: %s. Training recovers from such a kick, or does not, as its history will "
    "show. If it does not, start again, with a smaller learning rate or norm bound, "
    "more damping, or longer pretraining."
)
_RISEN = (
    "Training ends worse than it was: %s. Either updates are mostly noise (take a "
    "smaller learning rate or more walkers), or the walkers had not reached the "
    "distribution of the network when training began (take longer pretraining, or a "
    "longer `burn_in`)."
)


def train(
    stages: Stages,
    state: VMCState,
    steps: int,
    history: History,
    checkpoints: Checkpoints[VMCState],
    folder: Path | None,
    figure: Figure,
    progress: bool | None,
    callback: Callback | None = None,
) -> VMCState:
    """The state after all steps, or as many as there were before an interrupt or before
    the callback had enough.

    **Raises:** `FloatingPointError` if training diverges; what the callback raises.
    """
    start = int(state.step)
    if start >= steps:
        # A script that goes on from here may call a finished run again, as often as it
        # likes. Anything else was hardly meant.
        short = start > steps or history.before >= steps
        _logger.log(
            logging.WARNING if short else logging.INFO,
            "Step %d of %d is done already: no step is taken. To go on, give a larger "
            "number of `steps`, which counts all.",
            start,
            steps,
        )
        return state
    take_step = [TrainingStep(vmc) for vmc in stages.trainers]
    compiled: set[int] = set()
    stage_at = functools.partial(stage_of, stages.starts)
    before = _last(history.columns()["seconds"]) - time.monotonic()
    faults = Faults()
    watch = Watch(stages.starts, history.columns(), history.before)
    watch.marks = checkpoints.restore_marks(
        watch.marks, state, lambda step: stages.like(state, step)
    )
    # The newest state known to be sound, and its step.
    sound, sound_step = state, start
    # Steps whose numbers were seen, and the step after these if it was started.
    done, ahead = start, None
    try:
        with (
            checkpoints.during(state),
            progress_bar("Training", steps, progress, initial=start) as bar,
        ):

            def begin(state: VMCState, done: int) -> Started:
                stage = stage_at(done + 1)
                if stage != stage_at(done):
                    state = stages.enter(stage, state)
                if stage not in compiled:
                    compiled.add(stage)
                    bar.compiling("the training step")
                return take_step[stage](state)

            while done < steps and not checkpoints.stopped:
                previous = state
                taken = begin(state, done) if ahead is None else ahead
                state, i = taken.state, done + 1
                # Before this one is looked at, so that a GPU need not wait. If this
                # one ends the run, or sends it back, nothing comes of the next one.
                follows = i < steps and stage_at(i) == stage_at(i + 1)
                ahead = begin(state, i) if follows else None
                row, done = taken.row(), i
                seconds = time.monotonic() + before
                history.append({"step": i, **row, "seconds": round(seconds, 3)})
                faults.see(i, row)
                watch.see(i, row)
                if watch.kick:
                    _logger.warning(_KICK, i, watch.kick)
                if watch.lost:
                    state = _gone_back(
                        watch, faults, state, history, checkpoints, folder
                    )
                    watch = Watch(stages.starts, history.columns(), history.before)
                    watch.marks = sorted(checkpoints.marks)
                    done, ahead = int(state.step), None
                    sound, sound_step = state, done
                elif watch.sound == i - 1:
                    sound, sound_step = previous, i - 1
                    if watch.marks[-1] == i - 1:
                        checkpoints.mark(sound, watch.marks)
                # Before its energies are known, a state is saved only at the end.
                newest = sound if watch.outside else state
                checkpoints.hold(newest)
                stopping = callback is not None and stops(
                    callback, i, taken.statistics, state, checkpoints.interrupts
                )
                checkpoints.keep(sound, sound_step, newest)
                figure.refresh(history)
                bar.say(
                    f"E {row['energy']:.4f} Ha, variance {row['variance']:.4f}, "
                    f"acceptance {row['acceptance']:.2f}"
                )
                bar.update(done - bar.done)
                if stopping:
                    break
        figure.refresh(history, last=True)
        if done == steps:
            _report_end(history, stages.starts[stage_at(steps)])
        if watch.outside > 1:
            _logger.warning(
                "Training ends while it may diverge: %s. The newest checkpoint is of "
                "step %d.",
                watch,
                sound_step,
            )
    finally:
        history.write()
        faults.report()
    return state


def _gone_back(
    watch: Watch,
    faults: Faults,
    state: VMCState,
    history: History,
    checkpoints: Checkpoints[VMCState],
    folder: Path | None,
) -> VMCState:
    """A state from before, for a run that diverges to go on from with half of each
    update.

    Nothing has to be on the disk at once: a run that is resumed from there comes here
    again, in the same way.

    **Raises:** `FloatingPointError` the second time, and if the only state to go back
    to is the one that cannot be trained.
    """
    i = int(state.step)
    good = checkpoints.go_back(watch.good)
    back = int(good.step)
    what = f"{watch}.{faults.rejections(i)}"
    again = state.scale < 1
    if again or back >= watch.first - 1:
        how = " again, with half of each update" if again else ""
        saved = from_saved = ""
        if folder is not None and back < watch.first - 1:
            saved = f" Step {back}, before that, is saved."
            if back:
                from_saved = " or from `eqsym.load_run(path).wavefunction` of this one"
        raise FloatingPointError(
            f"Training diverged{how}: {what}{saved} Try a smaller learning rate or "
            "norm bound, more damping, more walkers, longer pretraining, or double "
            f"precision: in another run folder, from the start{from_saved}."
        )
    _logger.warning(
        "Step %d: training diverges: %s It goes back to step %d and on with half of "
        "each update.",
        i,
        what,
        back,
    )
    faults.forget_rejections()
    history.cut(back)
    if folder is not None:
        note = {"at_step": i, "to_step": back, "scale": _HALF}
        on_first(lambda: note_in_run_json(folder, "went_back", note))
    return eqx.tree_at(lambda s: s.scale, good, _HALF * good.scale)


def _report_end(history: History, start: int) -> None:
    """`start` is the step before which the last strategy began."""
    columns = history.columns()
    last = columns["energy"][-_LAST:]
    _logger.info(
        "Finished: step %d, energy %.4f Ha per cell over the last %d, in %s.",
        int(_last(columns["step"])),
        float(np.mean(last)),
        len(last),
        duration(_last(columns["seconds"])),
    )
    if what := risen(columns["energy"][columns["step"] > start]):
        _logger.warning(_RISEN, what)


def _last(values: Float[np.ndarray, " steps"]) -> float:
    return float(values[-1]) if len(values) else 0.0
