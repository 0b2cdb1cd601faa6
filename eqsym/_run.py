"""The training loop around `VMC`: progress, history, checkpoints, resuming."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from ._ansatz import AbstractWavefunction, SolidNet
from ._checkpoint import latest_checkpoint, restore_checkpoint, save_checkpoint
from ._history import History
from ._pretrain import Pretraining
from ._sampler import initial_walkers
from ._sharding import replicate, shard_walkers
from ._types import Key, Walkers
from ._vmc import Statistics, VMC, VMCState


# Steps in a row without a finite update, after which a run stops.
_MOST_REJECTED = 20
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

    With a `path`, the folder gets `history.csv` and `checkpoints/`, and a run that was
    interrupted (also by Ctrl-C, which saves first) goes on from its last checkpoint
    when it is called again with the same arguments: bit for bit as if it had never
    stopped. A finished run can be prolonged with more `steps`.

    **Arguments:**

    - `vmc`: what one step does.
    - `wavefunction`: to start from.
    - `steps`: the number of training steps in total, resumed ones included.
    - `walkers`: their number, or first configurations in Bohr, (walkers, electrons, 3).
    - `key`: seeds everything.
    - `pretraining`: done before the first step, if given.
    - `burn_in`: sampler steps before the first step.
    - `path`: the run folder.
    - `checkpoint_every`: steps between checkpoints.
    - `mesh`: devices to spread the walkers over, such as [`eqsym.walker_mesh`][]. One
        device by default.
    - `progress`: whether to show a progress bar; by default on terminals only.

    **Returns:**

    The last state and the history, [`eqsym.RunResult`][].

    **Raises:** `ValueError` for less than one step or walker, walkers of the wrong
    shape or number, pretraining of anything but a [`eqsym.SolidNet`][], and checkpoints
    that are damaged or of another model; `OSError` for a folder that cannot be written.
    All before anything is computed. `FloatingPointError` where training diverges: the
    last parameters that were finite are in the last checkpoint.
    """
    for name, value in (("steps", steps), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    folder = None if path is None else _writable(Path(path))
    place, pretrain, chain = jax.random.split(key, 3)
    if isinstance(walkers, int):
        walkers = initial_walkers(wavefunction.crystal, walkers, key=place)
    if mesh is not None:
        walkers = shard_walkers(walkers, mesh)
    state = _place(vmc.init(wavefunction, walkers, key=chain), mesh)

    checkpoints = None if folder is None else folder / "checkpoints"
    found = None if checkpoints is None else latest_checkpoint(checkpoints)
    if checkpoints is not None and found is not None:
        state = restore_checkpoint(checkpoints, found, state)
    else:
        if pretraining is not None:
            wavefunction, walkers = _pretrained(
                pretraining, wavefunction, walkers, pretrain, progress
            )
        state = vmc.init(wavefunction, walkers, key=chain)
        state = _place(_burned_in(vmc, state, burn_in), mesh)
    start = int(state.step)
    history = History(
        None if folder is None else folder / "history.csv", _COLUMNS, steps=start
    )
    if checkpoints is not None and found is None:
        save_checkpoint(checkpoints, start, state)

    step = eqx.filter_jit(vmc.step)
    before = _last(history.columns()["seconds"]) - time.monotonic()
    rejected = 0
    try:
        with _bar("Training", steps, start, progress) as bar:
            for i in range(start + 1, steps + 1):
                following, statistics = step(state)
                row = {
                    name: value.item()
                    for name, value in vars(jax.device_get(statistics)).items()
                }
                seconds = time.monotonic() + before
                history.append({"step": i, **row, "seconds": round(seconds, 3)})
                state = following
                rejected = rejected + 1 if row["rejected"] else 0
                if rejected >= _MOST_REJECTED:
                    raise FloatingPointError(
                        f"Training diverged: the last {rejected} updates were not "
                        f"finite, up to step {i}. The parameters are those before. "
                        "Try a smaller learning rate or norm bound, more damping, "
                        "longer pretraining, or double precision."
                    )
                if checkpoints is not None and i % checkpoint_every == 0:
                    save_checkpoint(checkpoints, i, state)
                bar.set_postfix_str(
                    f"E {row['energy']:.4f} Ha, variance {row['variance']:.4f}, "
                    f"acceptance {row['acceptance']:.2f}",
                    refresh=False,
                )
                bar.update()
    finally:
        # Asked of the folder: an interrupt can come just after a checkpoint was saved.
        last = int(state.step)
        if checkpoints is not None and latest_checkpoint(checkpoints) != last:
            save_checkpoint(checkpoints, last, state)
    return RunResult(state, history.columns())


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
    with _bar("Pretraining", pretraining.steps, 0, progress) as bar:

        def show(step: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.5f}", refresh=False)
            bar.update()

        return pretraining(wavefunction, walkers, key=key, callback=show)


def _burned_in(vmc: VMC, state: VMCState, steps: int) -> VMCState:
    move = eqx.filter_jit(vmc.equilibrate)
    for _ in range(steps):
        state = move(state)
    return state


def _bar(name: str, total: int, initial: int, progress: bool | None) -> Any:
    disable = None if progress is None else not progress
    return tqdm(desc=name, total=total, initial=initial, disable=disable)


def _last(values: Float[np.ndarray, " steps"]) -> float:
    return float(values[-1]) if len(values) else 0.0


def _writable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"`path` must be a folder that can be written, got {folder}: {error}"
        ) from error
    return folder
