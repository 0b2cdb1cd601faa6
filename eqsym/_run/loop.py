"""The training loop around `VMC`: progress, history, checkpoints, resuming."""

import dataclasses
import logging
import os
import time
from pathlib import Path
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._core import (
    Integer,
    interactive,
    interruptible,
    is_first,
    Key,
    on_first,
    on_mesh,
    progress_bar,
    replicate,
    shard_walkers,
    Walkers,
    whole_number,
)
from .._storage import History, locked, writable
from .._training import (
    check_loss,
    Pretraining,
    PretrainingState,
    report_replaced,
    Statistics,
    VMC,
    VMCState,
)
from .._wavefunction import AbstractWavefunction, initial_walkers, SolidNet
from .divergence import Watch
from .faults import Faults
from .figure import Draw, Figure
from .folder import (
    BURN_IN,
    describe_run,
    HISTORY,
    note_in_run_json,
    PHASES,
    PRETRAINING,
    RunSettings,
    session,
    TRAINING,
    write_run_json,
)
from .phases import Checkpoints


State = TypeVar("State", VMCState, PretrainingState)

_logger = logging.getLogger("eqsym")

# Of the updates, after a run has gone back.
_HALF = 0.5
_KICK = (
    "Step %d: %s. Training recovers from such a kick, or does not, as its history will "
    "show. If it does not, start again, with a smaller learning rate or norm bound, "
    "more damping, or longer pretraining."
)
_COLUMNS = ("step", *(f.name for f in dataclasses.fields(Statistics)), "seconds")


class _BurnIn(eqx.Module):
    """Burn-in: a state of training whose walkers move, steps taken, and walkers that
    were replaced in them."""

    state: VMCState
    step: Int[Array, ""]
    replaced: Int[Array, ""]


class RunResult(eqx.Module):
    """What a training run leaves.

    - `state`: the last state, with wave function, walkers and optimizer.
    - `history`: for every column of `history.csv` an array over the steps: `step`, the
        fields of [`eqsym.Statistics`][], and `seconds` of wall time (the one column
        that two runs with the same key do not share).
    """

    state: VMCState
    history: dict[str, Float[np.ndarray, " steps"]]

    @property
    def wavefunction(self) -> AbstractWavefunction:
        """The trained wave function."""
        return self.state.wavefunction

    @property
    def walkers(self) -> Walkers:
        """The walkers after the last step."""
        return self.state.sampler.walkers


def run(
    vmc: VMC,
    wavefunction: AbstractWavefunction,
    *,
    steps: Integer,
    walkers: Integer | Walkers,
    key: Key,
    pretraining: Pretraining | None = None,
    burn_in: Integer = 5,
    path: str | os.PathLike | None = None,
    checkpoint_every: Integer = 100,
    changed_settings: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    figure: Draw | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Trains a wave function.

    With a `path`, the folder gets `run.json`, `history.csv` and `checkpoints/`, and
    with a `figure` also `training.png`. A run that was interrupted, in pretraining,
    burn-in or training, goes on from its last whole checkpoint when it is called again
    with the same arguments: bit for bit as if it had never stopped, if the same program
    gives the same numbers, as on CPUs. Ctrl-C and SIGTERM wait for the end of a step
    (the first one is compiled for up to minutes), save, and leave with
    `KeyboardInterrupt` or `SystemExit`; a second Ctrl-C does not wait. A finished run
    can be prolonged with more `steps`. [`eqsym.load_run`][] loads it into a notebook.

    Without a `path`, Ctrl-C at a prompt (of Python, IPython or a notebook) returns what
    was trained so far; after Ctrl-C in pretraining or burn-in, the wave function and
    walkers so far, and no history. What follows in the same cell goes on. In a script
    Ctrl-C raises, because what follows there relies on a finished run.

    A run that diverges goes back once to a state from before, and goes on with half of
    each update, which is in [`eqsym.VMCState`][] as `scale`. It diverges when for 20
    steps in a row energies are not finite, updates are rejected, or energy or variance
    have left the range of the last hundred steps: a variance above 10 times its median,
    or an energy above all others by more than the spread of these and the standard
    deviation of the local energy; or when they have crept far above those of the best
    hundred steps. No state is saved while a step is outside of that range. The history
    is then that of the steps that were kept; `run.json` and the log tell about the
    others. In the first 20 steps there is no range yet: energies or variances far above
    those of the first step get a warning.

    What is happening is logged by the standard logger `eqsym`: the start, compilation
    and the end as information; faults, and how often they came, as warnings.

    **Arguments:**

    - `vmc`: what one step does.
    - `wavefunction`: to start from.
    - `steps`: the number of training steps in total, resumed ones included.
    - `walkers`: their number, or first configurations in Bohr, (walkers, electrons, 3).
    - `key`: seeds everything.
    - `pretraining`: done before the first step, if given.
    - `burn_in`: sampler steps before the first step.
    - `path`: the run folder.
    - `checkpoint_every`: steps between checkpoints, in all phases. None is written
        while updates are being rejected, or training seems to diverge: they are of wave
        functions whose energies the next step has found to be as before. The last state
        of a run is saved without that.
    - `changed_settings`: whether a run in the folder goes on with settings that are not
        those that it had before, such as another learning rate. The fields that differ
        are logged, and noted in `run.json` with the step, before and after. A state of
        another model, optimizer or number of walkers is refused in any case.
    - `mesh`: devices to spread walkers and images over, [`eqsym.device_mesh`][]. One
        device by default. With devices of several processes all of them have to call
        this, with the same arguments and a folder that all can read; the first one
        writes. SIGTERM or Ctrl-C to one of them ends all at the same step, and saves.
    - `figure`: draws `training.png` in the run folder from the history, every 30
        seconds or more while the run goes on: [`eqsym.plot.training`][], which needs
        matplotlib, or a function of your own that returns a matplotlib figure.
    - `progress`: whether to show progress bars; by default on terminals only.

    **Returns:**

    The last state and the history, [`eqsym.RunResult`][].

    **Raises:** `ValueError` for less than one step or walker, numbers that are not
    integers, walkers of the wrong shape or number, pretraining of anything but a
    [`eqsym.SolidNet`][], and a folder whose checkpoints are all damaged, or are of
    another model or of other settings (with the fields that differ; `steps`,
    `checkpoint_every`, `mesh` and every `chunk` may, and all settings with
    `changed_settings`; functions are compared by their names and the values that they
    hold, not by their code, which a warning says), or whose history has other
    columns; `OSError` for a folder that cannot be written, or in which another run is
    going on. All before anything is computed. `FloatingPointError` if training
    diverges a second time, after it has gone back, or from the start, so that there is
    nothing to go back to. `OSError` if three checkpoints in a row could not be written.
    """
    steps = whole_number("steps", steps, 1)
    checkpoint_every = whole_number("checkpoint_every", checkpoint_every, 1)
    burn_in = whole_number("burn_in", burn_in, 0)
    place, pretrain, chain = jax.random.split(key, 3)
    walkers = _first_walkers(walkers, wavefunction, place)
    folder = None if path is None else writable(Path(path))
    if mesh is not None:
        walkers = shard_walkers(walkers, mesh)
    seeds = jax.random.key_data(key).tolist()
    settings = RunSettings(vmc, len(walkers), seeds, burn_in, pretraining)
    # Refuses what does not fit, before any work.
    state = _place(vmc.init(wavefunction, walkers, key=chain), mesh)
    fit = None
    if pretraining is not None:
        if not isinstance(wavefunction, SolidNet):
            raise ValueError(
                "`pretraining` fits the orbitals of a `SolidNet`, got the wave "
                f"function `{type(wavefunction).__name__}`. Leave `pretraining` out, "
                "or call it on the network inside and start from its result."
            )
        fit = _place(pretraining.init(wavefunction, walkers, key=pretrain), mesh)

    returning = folder is None and interactive()
    with locked(folder), interruptible(returning=returning) as interrupts:
        checkpoints = {
            phase: Checkpoints(
                phase,
                folder,
                settings,
                checkpoint_every,
                interrupts,
                changed_settings=changed_settings,
            )
            for phase in PHASES
        }
        training = checkpoints[TRAINING]
        restored = training.resume(state)
        start = 0 if restored is None else int(restored.step)
        table = None if folder is None else folder / HISTORY
        history = History(table, _COLUMNS, steps=start, write=is_first())
        training.flush = history.flush
        if folder is not None and start < steps:
            described = describe_run(wavefunction, settings)
            part = session(start, steps, checkpoint_every, mesh)
            on_first(lambda: write_run_json(folder, described, part))

        if restored is None:
            with on_mesh(mesh):
                restored = _started(
                    vmc, state, burn_in, pretraining, fit, chain, checkpoints, progress
                )
            training.save(_place(restored, mesh))
        state = _place(restored, mesh)
        checkpoints[PRETRAINING].remove()
        checkpoints[BURN_IN].remove()
        _logger.info(
            "Training a %s with %d walkers from step %d to %d%s.",
            type(wavefunction).__name__,
            len(walkers),
            start,
            max(start, steps),
            "" if folder is None else f" in {folder}",
        )
        with on_mesh(mesh):
            drawn = Figure(folder, figure)
            state = _trained(
                vmc, state, steps, history, training, folder, drawn, progress
            )
        if interrupts.stopped:
            _logger.warning(
                "Interrupted: returning what there is after %d of %d training steps.",
                int(state.step),
                steps,
            )
        return RunResult(state, history.columns())


def _first_walkers(
    walkers: Integer | Walkers, wavefunction: AbstractWavefunction, key: Key
) -> Walkers:
    if isinstance(walkers, jax.Array) and walkers.ndim:
        return walkers
    count = whole_number("walkers", walkers, 1, of="walker")
    return initial_walkers(wavefunction.crystal, count, key=key)


def _started(
    vmc: VMC,
    state: VMCState,
    burn_in: int,
    pretraining: Pretraining | None,
    fit: PretrainingState | None,
    chain: Key,
    checkpoints: dict[str, Checkpoints],
    progress: bool | None,
) -> VMCState:
    """The state that training begins with, after pretraining and burn-in, or what is
    left of them to do."""
    zero = jnp.zeros_like(state.step)
    burnt = checkpoints[BURN_IN].resume(_BurnIn(state, zero, zero))
    if burnt is None:
        if pretraining is not None and fit is not None:
            saved = checkpoints[PRETRAINING]
            fit = _pretrained(pretraining, saved.resume(fit) or fit, saved, progress)
            state = vmc.init(fit.wavefunction, fit.sampler.walkers, key=chain)
        burnt = _BurnIn(state, zero, zero)
    return _burned_in(vmc, burnt, burn_in, checkpoints[BURN_IN], progress).state


def _place(state: State, mesh: jax.sharding.Mesh | None) -> State:
    if mesh is None:
        return state
    walkers = shard_walkers(state.sampler.walkers, mesh)
    return eqx.tree_at(lambda s: s.sampler.walkers, replicate(state, mesh), walkers)


def _pretrained(
    pretraining: Pretraining,
    state: PretrainingState,
    checkpoints: Checkpoints[PretrainingState],
    progress: bool | None,
) -> PretrainingState:
    step = eqx.filter_jit(pretraining.step)
    with (
        checkpoints.during(state),
        progress_bar(
            "Pretraining",
            pretraining.steps,
            progress,
            initial=int(state.step),
            compiled="the pretraining step",
        ) as bar,
    ):
        while int(state.step) < pretraining.steps and not checkpoints.stopped:
            state, loss = step(state)
            check_loss(int(state.step), loss)
            checkpoints.keep(state)
            bar.set_postfix_str(f"loss {float(loss):.5f}", refresh=False)
            bar.update()
    report_replaced("Pretraining", state.replaced)
    return state


def _burned_in(
    vmc: VMC,
    state: _BurnIn,
    steps: int,
    checkpoints: Checkpoints[_BurnIn],
    progress: bool | None,
) -> _BurnIn:
    with (
        checkpoints.during(state),
        progress_bar(
            "Burn-in", steps, progress, initial=int(state.step), compiled="moves"
        ) as bar,
    ):
        while int(state.step) < steps and not checkpoints.stopped:
            state = _moved(vmc, state)
            checkpoints.keep(state)
            bar.set_postfix_str("", refresh=False)
            bar.update()
    report_replaced("Burn-in", state.replaced)
    return state


@eqx.filter_jit
def _moved(vmc: VMC, state: _BurnIn) -> _BurnIn:
    moved = vmc.equilibrate(state.state)
    replaced = state.replaced + moved.sampler.replaced
    return _BurnIn(moved, state.step + 1, replaced)


def _trained(
    vmc: VMC,
    state: VMCState,
    steps: int,
    history: History,
    checkpoints: Checkpoints[VMCState],
    folder: Path | None,
    figure: Figure,
    progress: bool | None,
) -> VMCState:
    start = int(state.step)
    if start >= steps:
        return state
    step = eqx.filter_jit(vmc.step)
    before = _last(history.columns()["seconds"]) - time.monotonic()
    faults = Faults()
    watch = Watch(vmc.schedule.starts, history.columns())
    watch.marks = checkpoints.restore_marks(watch.marks, state)
    # The newest state known to be sound.
    sound = state
    try:
        with (
            checkpoints.during(state),
            progress_bar(
                "Training",
                steps,
                progress,
                initial=start,
                compiled="the training step",
            ) as bar,
        ):
            while int(state.step) < steps and not checkpoints.stopped:
                previous = state
                state, statistics = step(state)
                i = int(state.step)
                row = {
                    name: value.item()
                    for name, value in vars(jax.device_get(statistics)).items()
                }
                seconds = time.monotonic() + before
                history.append({"step": i, **row, "seconds": round(seconds, 3)})
                faults.see(i, row)
                watch.see(i, row)
                if i == start + 1:
                    _logger.info("The first step is done.")
                if watch.kick:
                    _logger.warning(_KICK, i, watch.kick)
                if watch.lost:
                    state = _gone_back(
                        watch, faults, state, history, checkpoints, folder
                    )
                    watch = Watch(vmc.schedule.starts, history.columns())
                    watch.marks = sorted(checkpoints.marks)
                    sound = state
                elif watch.sound == i - 1:
                    sound = previous
                    if watch.marks[-1] == i - 1:
                        checkpoints.mark(sound, watch.marks)
                # Before its energies are known, a state is saved only at the end.
                checkpoints.keep(sound, sound if watch.outside else state)
                figure.refresh(history)
                bar.set_postfix_str(
                    f"E {row['energy']:.4f} Ha, variance {row['variance']:.4f}, "
                    f"acceptance {row['acceptance']:.2f}",
                    refresh=False,
                )
                bar.update(int(state.step) - bar.n)
        figure.refresh(history, last=True)
        if watch.outside > 1:
            _logger.warning(
                "Training ends where it may diverge: %s. The newest checkpoint is of "
                "step %d.",
                watch,
                int(sound.step),
            )
    finally:
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
    """What a run that diverges goes on with: a state from before, and half of each
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


def _last(values: Float[np.ndarray, " steps"]) -> float:
    return float(values[-1]) if len(values) else 0.0
