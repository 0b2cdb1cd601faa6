"""The training loop around `VMC`: progress, history, checkpoints, resuming."""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

from ._ansatz import AbstractWavefunction, SolidNet
from ._faults import Checkpoints, Faults, Figure
from ._folder import locked, writable
from ._history import History
from ._pretrain import Pretraining
from ._processes import is_first, on_first
from ._progress import progress_bar
from ._run_folder import (
    describe_run,
    HISTORY,
    session,
    Settings,
    write_run_json,
)
from ._sampler import initial_walkers, REPLACED
from ._sharding import on_mesh, replicate, shard_walkers
from ._types import Key, Walkers
from ._vmc import Statistics, VMC, VMCState


_logger = logging.getLogger("eqsym")

_COLUMNS = ("step", *(f.name for f in dataclasses.fields(Statistics)), "seconds")


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
    steps: int,
    walkers: int | Walkers,
    key: Key,
    pretraining: Pretraining | None = None,
    burn_in: int = 5,
    path: str | os.PathLike | None = None,
    checkpoint_every: int = 100,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Trains a wave function.

    With a `path`, the folder gets `run.json`, `history.csv`, `checkpoints/` and, with
    matplotlib, `training.png`; and a run that was interrupted (also by Ctrl-C or
    SIGTERM, which save first) goes on from its last whole checkpoint when it is called
    again with the same arguments: bit for bit as if it had never stopped, where the
    same program gives the same numbers, as on CPUs. A finished run can be prolonged
    with more `steps`. [`eqsym.load_run`][] loads it into a notebook.

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
    - `checkpoint_every`: steps between checkpoints. None is written while updates are
        being rejected: the last one is of a wave function that could still be trained.
    - `mesh`: devices to spread walkers and images over, [`eqsym.device_mesh`][]. One
        device by default. With devices of several processes all of them have to call
        this, with the same arguments and a folder that all can read; the first one
        writes. SIGTERM to one of them ends all at the same step, and saves; Ctrl-C does
        not save then.
    - `progress`: whether to show progress bars; by default on terminals only.

    **Returns:**

    The last state and the history, [`eqsym.RunResult`][].

    **Raises:** `ValueError` for less than one step or walker, walkers of the wrong
    shape or number, pretraining of anything but a [`eqsym.SolidNet`][], and a folder
    whose checkpoints are all damaged, or are of another model or of other settings
    (with the fields that differ; `steps`, `checkpoint_every`, `mesh` and every `chunk`
    may), or whose history has other columns; `OSError` for a folder that cannot be
    written, or in which another run is going on. All before anything is computed.
    `FloatingPointError` where training diverges: 20 updates in a row were rejected.
    `OSError` where three checkpoints in a row could not be written.
    """
    for name, value in (("steps", steps), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    folder = None if path is None else writable(Path(path))
    place, pretrain, chain = jax.random.split(key, 3)
    if isinstance(walkers, int):
        walkers = initial_walkers(wavefunction.crystal, walkers, key=place)
    if mesh is not None:
        walkers = shard_walkers(walkers, mesh)
    seeds = jax.random.key_data(key).tolist()
    settings = Settings(vmc, len(walkers), seeds, burn_in, pretraining)
    checkpoints = Checkpoints(folder, settings, checkpoint_every)
    state = _place(vmc.init(wavefunction, walkers, key=chain), mesh)

    with locked(folder):
        restored = checkpoints.restore(state)
        start = 0 if restored is None else int(restored.step)
        table = None if folder is None else folder / HISTORY
        history = History(table, _COLUMNS, steps=start, write=is_first())
        if restored is not None:
            state = restored
        else:
            with on_mesh(mesh):
                if pretraining is not None:
                    wavefunction, walkers = _pretrained(
                        pretraining, wavefunction, walkers, pretrain, progress
                    )
                state = vmc.init(wavefunction, walkers, key=chain)
                state = _burned_in(vmc, state, burn_in, progress)
            state = _place(state, mesh)
        if folder is not None and start < steps:
            described = describe_run(wavefunction, settings)
            part = session(start, steps, checkpoint_every, mesh)
            on_first(lambda: write_run_json(folder, described, part))
        if restored is None:
            checkpoints.save(state, history)
        _logger.info(
            "Training a %s with %d walkers from step %d to %d%s.",
            type(wavefunction).__name__,
            len(walkers),
            start,
            max(start, steps),
            "" if folder is None else f" in {folder}",
        )
        with on_mesh(mesh):
            state = _trained(vmc, state, steps, history, checkpoints, progress)
        return RunResult(state, history.columns())


def _trained(
    vmc: VMC,
    state: VMCState,
    steps: int,
    history: History,
    checkpoints: Checkpoints,
    progress: bool | None,
) -> VMCState:
    start = int(state.step)
    if start >= steps:
        return state
    step = eqx.filter_jit(vmc.step)
    before = _last(history.columns()["seconds"]) - time.monotonic()
    faults = Faults()
    figure = Figure(checkpoints.folder)
    # The newest state that may be saved: no update was rejected just before.
    sound, together = state, True
    try:
        with (
            _ended_by_sigterm(),
            progress_bar(
                "Training",
                steps,
                progress,
                initial=start,
                compiled="the training step",
            ) as bar,
        ):
            for i in range(start + 1, steps + 1):
                state, statistics = step(state)
                row = {
                    name: value.item()
                    for name, value in vars(jax.device_get(statistics)).items()
                }
                seconds = time.monotonic() + before
                history.append({"step": i, **row, "seconds": round(seconds, 3)})
                sound = sound if row["rejected"] else state
                faults.see(i, row)
                if i == start + 1:
                    _logger.info("The first step is done.")
                checkpoints.save_if_due(sound, history)
                figure.refresh(history)
                _end_together(i)
                bar.set_postfix_str(
                    f"E {row['energy']:.4f} Ha, variance {row['variance']:.4f}, "
                    f"acceptance {row['acceptance']:.2f}",
                    refresh=False,
                )
                bar.update()
        figure.refresh(history, last=True)
    except BaseException as error:
        # Of several processes one that ends for another reason than these is alone, and
        # none can save alone.
        shared = isinstance(error, (SystemExit, FloatingPointError, OSError))
        together = shared or jax.process_count() == 1
        raise
    finally:
        faults.report()
        if together:
            checkpoints.save_last(sound, history)
    return state


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Leaves Python where SIGTERM comes, with which clusters announce that time is up,
    in the way in which Ctrl-C does: so that the state can be saved."""
    outside = threading.current_thread() is not threading.main_thread()
    several = jax.process_count() > 1  # `_end_together` looks after these
    if outside or several or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: object) -> None:
        del frame
        _logger.warning("Terminated by a signal; saving the last state.")
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_together(step: int) -> None:
    """Where one of several processes was sent SIGTERM, leaves Python in all of them, at
    a step that they agree on."""
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
        _logger.warning("A process was terminated by a signal; saving the last state.")
        raise SystemExit(128 + signal.SIGTERM)


def _place(state: VMCState, mesh: jax.sharding.Mesh | None) -> VMCState:
    if mesh is None:
        return state
    walkers = shard_walkers(state.sampler.walkers, mesh)
    return eqx.tree_at(lambda s: s.sampler.walkers, replicate(state, mesh), walkers)


def _pretrained(
    pretraining: Pretraining,
    wavefunction: AbstractWavefunction,
    walkers: Walkers,
    key: Key,
    progress: bool | None,
) -> tuple[AbstractWavefunction, Walkers]:
    if not isinstance(wavefunction, SolidNet):
        raise ValueError(
            "`pretraining` fits the orbitals of a `SolidNet`, got the wave function "
            f"`{type(wavefunction).__name__}`. Leave `pretraining` out, or call it on "
            "the network inside and start from its result."
        )
    with progress_bar(
        "Pretraining", pretraining.steps, progress, compiled="the pretraining step"
    ) as bar:

        def show(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.5f}", refresh=False)
            bar.update()

        return pretraining(wavefunction, walkers, key=key, callback=show)


def _burned_in(
    vmc: VMC, state: VMCState, steps: int, progress: bool | None
) -> VMCState:
    move = eqx.filter_jit(vmc.equilibrate)
    replaced = 0
    with progress_bar("Burn-in", steps, progress, compiled="moves") as bar:
        for _ in range(steps):
            state = move(state)
            replaced += int(state.sampler.replaced)
            bar.set_postfix_str("", refresh=False)
            bar.update()
    if replaced:
        _logger.warning("Burn-in: %s", REPLACED.format(replaced))
    return state


def _last(values: Float[np.ndarray, " steps"]) -> float:
    return float(values[-1]) if len(values) else 0.0
