"""Runs: pretraining, burn-in and training, saved and resumed."""

import dataclasses
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._core import (
    checked_but,
    Integer,
    interactive,
    interruptible,
    is_first,
    Key,
    on_first,
    on_mesh,
    progress_bar,
    random_key,
    replicate,
    shard_walkers,
    Walkers,
    whole_number,
)
from .._storage import encode, History, locked, writable
from .._training import (
    AbstractStrategy,
    check_loss,
    Pretraining,
    PretrainingState,
    report_replaced,
    Statistics,
    VMC,
    VMCState,
)
from .._wavefunction import AbstractWavefunction, orbital_network
from .arguments import (
    check_callable,
    check_run_kinds,
    check_state,
    starting_point,
)
from .callbacks import Callback
from .figure import Draw, Figure
from .folder import (
    BURN_IN,
    describe_run,
    group_in,
    HISTORY,
    PHASES,
    PRETRAINING,
    RunSettings,
    session,
    TRAINING,
    write_run_json,
)
from .phases import Checkpoints
from .result import RunResult
from .stages import check_stages, in_words, Stages
from .training import train


State = TypeVar("State", VMCState, PretrainingState)
_logger = logging.getLogger("eqsym")

_COLUMNS = ("step", *(f.name for f in dataclasses.fields(Statistics)), "seconds")


class _BurnIn(eqx.Module):
    """The state of burn-in: a state of training whose walkers move, steps taken, and
    walkers that were replaced in them."""

    state: VMCState
    step: Int[Array, ""]
    replaced: Int[Array, ""]


# A state of a phase before training.
_Early = TypeVar("_Early", PretrainingState, _BurnIn)


@checked_but(
    *("vmc", "wavefunction", "walkers", "state", "pretraining", "stages"),
    *("callback", "figure"),
)
def run(
    vmc: VMC,
    wavefunction: AbstractWavefunction | None = None,
    *,
    steps: Integer,
    walkers: Integer | Walkers | np.ndarray | Sequence | None = None,
    key: Key,
    state: VMCState | None = None,
    pretraining: Pretraining | None = None,
    burn_in: Integer = 5,
    stages: Sequence[tuple[Integer, AbstractStrategy]] = (),
    path: str | os.PathLike | None = None,
    checkpoint_every: Integer = 100,
    changed_settings: bool = False,
    mesh: jax.sharding.Mesh | None = None,
    callback: Callback | None = None,
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

    Without a `path`, Ctrl-C at a prompt (of Python, IPython or a notebook) returns the
    state and history so far; after Ctrl-C in pretraining or burn-in, wave function and
    walkers so far, and no history. What follows in the same cell goes on. In a script
    Ctrl-C raises, because what follows there relies on a finished run.

    A run that diverges goes back once to a state from before, and goes on with half of
    each update, which is in [`eqsym.VMCState`][] as `scale`. It diverges when for 20
    steps in a row energies are not finite, updates are rejected, or energy or variance
    have left the range of the last hundred steps: a variance above 10 times its median,
    or an energy above all others by more than the spread of these and the standard
    deviation of the local energy; or when both have crept far above the best hundred
    steps. No state is saved while a step is outside of that range. The history then has
    the steps that were kept; `run.json` and the log tell about the others. In the first
    20 steps there is no range yet: an energy or variance far above the first step gets
    a warning.

    The standard logger `eqsym` tells of the start, of compilation and how long it took,
    and of the end as information; of faults and how often they came, and after Ctrl-C
    of the step that was saved, as warnings.

    **Arguments:**

    - `vmc`: takes the training steps.
    - `wavefunction`: to start from.
    - `steps`: the number of training steps in total, with the steps of a run that is
        resumed, or of a `state`.
    - `walkers`: their number, or first configurations in Bohr, (walkers, electrons, 3).
    - `key`: seeds everything.
    - `state`: to go on from, in place of `wavefunction` and `walkers`: such as
        `result.state` of another run, or of a loop of your own. Steps, momentum and
        walkers go on as they are, without pretraining and burn-in.
    - `pretraining`: done before the first step, if given.
    - `burn_in`: sampler steps before the first step.
    - `stages`: `(start, strategy)` for other strategies than `vmc.strategy`, each used
        after `start` training steps until the next one starts: for example
        `[(1000, eqs.SymmetrizedTraining(average))]`. Walkers, optimizer and parameters
        are carried over. For each stage a training step is compiled.
    - `path`: the run folder.
    - `checkpoint_every`: steps between checkpoints, in all phases. None is written
        while updates are being rejected, or training seems to diverge: they are of wave
        functions whose energies the next step has found to be as before. The last state
        of a run is saved without that.
    - `changed_settings`: whether a run in the folder goes on with settings that are not
        those that it had before, such as another learning rate. The fields that differ
        are logged, and noted in `run.json` with the step, before and after. With
        another number of walkers the saved ones are thinned or copied, moved by
        `burn_in` sampler steps, and training goes on from the same step, with its
        momentum and schedules. A state of another model, sampler or optimizer is
        refused in any case.
    - `mesh`: devices to spread walkers and operations over, of [`eqsym.device_mesh`][];
        one device by default. With devices of several processes all of them have to
        call this, with the same arguments and a folder that all can read; the first one
        writes. SIGTERM or Ctrl-C to one of them ends all at the same step, and saves.
    - `callback`: called as `callback(step, statistics, state)` after every training
        step, on every process, with the number of the step, its
        [`eqsym.Statistics`][], and the [`eqsym.VMCState`][] that the next step starts
        from. If it raises `StopIteration`, training ends there, as after the last step;
        calling `run` again goes on. Any other exception saves the state, as Ctrl-C
        does, and goes on to the caller. What it returns is ignored. If a run diverges
        and goes back, `state.step` is the step that it goes back to, and the steps
        after that come again. Steps before a resume do not come again.
    - `figure`: draws `training.png` in the run folder from the history, every 30
        seconds or more while the run goes on: [`eqsym.plot.training`][], which needs
        matplotlib, or a function of your own that returns a matplotlib figure. Only
        with a `path`.
    - `progress`: whether to show progress bars; by default in terminals and notebooks.

    **Returns:**

    The last state and the history, [`eqsym.RunResult`][].

    **Raises:** `ValueError` for arguments of the wrong kind, with what to type instead,
    a `callback` or `figure` that cannot be called as is said above, less than one step
    or walker, numbers that are not integers, a `state` that does not belong to the
    sampler, optimizer or strategy, stages that do not start one after the other,
    walkers of the wrong shape or number, a wave function that a strategy does not fit,
    pretraining of a wave function without orbitals of its own, and a folder whose
    checkpoints are all damaged, or are of another model, precision or other settings
    (with the fields that differ; `steps`, `checkpoint_every`, `mesh` and every `chunk`
    may, and all settings with `changed_settings`; functions are compared by their names
    and the values that they hold, not by their code, which a warning says), or whose
    history has other columns; `OSError` for a folder that cannot be written, or in
    which another run is going on. All before anything is computed. `FloatingPointError`
    if training diverges a second time, after it has gone back, or from the start, so
    that there is nothing to go back to. `OSError` if three checkpoints in a row could
    not be written.
    """
    check_run_kinds(vmc, wavefunction, pretraining, state)
    example = "`lambda step, statistics, state: None`"
    check_callable("callback", callback, example, ("step", "statistics", "state"))
    check_callable("figure", figure, "`eqs.plot.training`", ("history",))
    if figure is not None and path is None:
        raise ValueError(
            "`figure` draws into the run folder: give a `path` too, or leave it out, "
            "and call `eqs.plot.training(result.history)` at the end."
        )
    steps = whole_number("steps", steps, 1)
    checkpoint_every = whole_number("checkpoint_every", checkpoint_every, 1)
    burn_in = whole_number("burn_in", burn_in, 0)
    stages = check_stages(stages)
    key = random_key(key)
    place, pretrain, chain = jax.random.split(key, 3)
    given = state
    bare, first, before = starting_point(
        wavefunction, walkers, pretraining, given, place
    )
    folder = None if path is None else writable(Path(path))
    if mesh is not None:
        first = shard_walkers(first, mesh)
    seeds = jax.random.key_data(key).tolist()
    settings = RunSettings(vmc, len(first), seeds, burn_in, pretraining, stages)
    # Other keys than the three of `split`.
    switches, tried, choice = (jax.random.fold_in(key, i) for i in (3, 4, 5))
    planned = Stages(vmc, stages, switches)

    # Refuses what does not fit, before any work.
    planned.check(bare, first, key=tried)
    fit = None
    if pretraining is not None:
        orbital_network("`pretraining` fits", bare)
        fit = _place(pretraining.init(bare, first, key=pretrain), mesh)

    def begin(wavefunction: AbstractWavefunction, walkers: Walkers) -> VMCState:
        """The state before burn-in."""
        state = vmc.init(wavefunction, walkers, key=chain, check=False)
        return _place(state, mesh)

    if given is not None:
        check_state(given, planned.like(begin(bare, first), before))

    returning = folder is None and interactive()
    with locked(folder), interruptible(returning=returning) as interrupts:
        saved = {
            phase: Checkpoints(
                phase,
                folder,
                settings,
                checkpoint_every,
                interrupts,
                changed_settings=changed_settings,
                key=choice,
            )
            for phase in PHASES
        }
        # The newest state there is, or none.
        state = saved[TRAINING].resume(
            lambda step: _place(planned.like(begin(bare, first), step), mesh)
        )
        start = before if state is None else int(state.step)
        table = None if folder is None else folder / HISTORY
        history = History(table, _COLUMNS, steps=start, before=before, write=is_first())
        saved[TRAINING].flush = history.flush
        if folder is not None and start < steps:
            described = describe_run(folder, bare, settings)
            part = session(start, steps, checkpoint_every, mesh)
            on_first(lambda: write_run_json(folder, described, part))

        if state is not None and saved[TRAINING].resampled:
            with on_mesh(mesh):
                state = _place(_equilibrated(planned.at(start), state, burn_in), mesh)
            if start < steps:
                saved[TRAINING].replace(state)
        # Pretraining and burn-in, or the rest of them.
        if state is None and given is not None:
            state = _place(given, mesh)
            saved[TRAINING].save(state)
        elif state is None:
            with on_mesh(mesh):
                burnt = saved[BURN_IN].resume(lambda step: _unburnt(begin(bare, first)))
                if burnt is None:
                    if pretraining is not None and fit is not None:
                        fit = _pretrained(
                            pretraining, fit, saved[PRETRAINING], progress
                        )
                        bare, first = fit.wavefunction, fit.sampler.walkers
                    burnt = _unburnt(begin(bare, first))
                burnt = _burned_in(vmc, burnt, burn_in, saved[BURN_IN], progress)
            state = _place(burnt.state, mesh)
            saved[TRAINING].save(state)
        saved[PRETRAINING].remove()
        saved[BURN_IN].remove()

        _logger.info(
            "Training a %s with %d walkers from step %d to %d%s.",
            type(bare).__name__,
            len(first),
            start,
            max(start, steps),
            "" if folder is None else f" in {folder}",
        )
        with on_mesh(mesh):
            drawn = Figure(folder, figure)
            state = train(
                planned,
                state,
                steps,
                history,
                saved[TRAINING],
                folder,
                drawn,
                progress,
                callback,
            )
        if interrupts.stopped:
            _logger.warning(
                "Interrupted: returning what there is after %d of %d training steps.",
                int(state.step),
                steps,
            )
        return RunResult(
            wavefunction=state.wavefunction,
            trained=planned.view(state),
            walkers=state.sampler.walkers,
            step=int(state.step),
            history=history.columns(),
            state=state,
            _group=group_in(encode([vmc.strategy, *stages])),
            _strategy=in_words(planned.at(int(state.step)).strategy),
        )


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
    """The state after pretraining, from its checkpoint if there is one."""
    take_step = eqx.filter_jit(pretraining.step)

    def advance(state: PretrainingState) -> tuple[PretrainingState, str]:
        state, loss = take_step(state)
        check_loss(int(state.step), loss)
        return state, f"loss {float(loss):.5f}"

    resumed = checkpoints.resume(lambda step: state)
    return _advanced(
        "Pretraining",
        "the pretraining step",
        state if resumed is None else resumed,
        pretraining.steps,
        advance,
        checkpoints,
        progress,
    )


def _unburnt(state: VMCState) -> _BurnIn:
    zero = jnp.zeros_like(state.step)
    return _BurnIn(state, zero, zero)


def _equilibrated(vmc: VMC, state: VMCState, steps: int) -> VMCState:
    """The state after moves of walkers that are copies of each other, or were."""
    moved = _unburnt(state)
    for _ in range(steps):
        moved = _moved(vmc, moved)
    report_replaced("Burn-in", moved.replaced)
    return moved.state


def _burned_in(
    vmc: VMC,
    state: _BurnIn,
    steps: int,
    checkpoints: Checkpoints[_BurnIn],
    progress: bool | None,
) -> _BurnIn:
    """The state after burn-in."""
    return _advanced(
        "Burn-in",
        "moves",
        state,
        steps,
        lambda state: (_moved(vmc, state), ""),
        checkpoints,
        progress,
    )


# Compiled once for all runs of one kind.
@eqx.filter_jit
def _moved(vmc: VMC, state: _BurnIn) -> _BurnIn:
    moved = vmc.equilibrate(state.state)
    replaced = state.replaced + moved.sampler.replaced_walkers
    return _BurnIn(moved, state.step + 1, replaced)


def _advanced(
    name: str,
    compiled: str,
    state: _Early,
    steps: int,
    advance: Callable[[_Early], tuple[_Early, str]],
    checkpoints: Checkpoints[_Early],
    progress: bool | None,
) -> _Early:
    """The state after the steps of a phase before training, or as many as there were
    before an interrupt. `advance` gives the next state, and a text for the progress
    bar."""
    initial = int(state.step)
    with (
        checkpoints.during(state),
        progress_bar(name, steps, progress, initial=initial, compiled=compiled) as bar,
    ):
        done = initial
        while done < steps and not checkpoints.stopped:
            state, text = advance(state)
            done += 1
            checkpoints.keep(state, done)
            bar.say(text)
            bar.update()
    report_replaced(name, state.replaced)
    return state
