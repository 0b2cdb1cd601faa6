"""The result of a run, also as it is loaded from its folder."""

from typing import TYPE_CHECKING

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._core import checked, data_frame, Integer, Walkers, whole_number
from .._crystal import Crystal
from .._estimator import Estimate, estimate_from
from .._group import SpaceGroup
from .._training import PlainTraining, VMCState
from .._wavefunction import AbstractWavefunction


if TYPE_CHECKING:
    from pandas import DataFrame


# The fewest steps that an energy is the mean of by default.
_FEWEST = 20
# The window of correlation is as many integrated times of it.
_WINDOW = 5


class RunResult(eqx.Module):
    r"""The result of [`eqsym.run`][], which [`eqsym.load_run`][] reads from a folder.

    With a strategy in training there are two wave functions. `wavefunction` is the bare
    network, whose parameters were trained. `trained` is the function whose energy was
    minimized: the network as the strategy sees it, for example its projection onto an
    irrep. Walkers and history belong to `trained`, and so does what you want to know.
    The bare network under a projection is in no sector: the rest of it was never
    trained. In plain training the two are the same, and so they are in
    [`eqsym.AugmentedTraining`][] and [`eqsym.ProjectedTraining`][], which sample the
    bare function; after these, [`eqsym.post_hoc`][] and [`eqsym.sectors`][] average.

    It prints as `RunResult(step 40, E = -0.985(8) Ha over the last 20)`, with the
    strategy if that is not plain; `eqx.tree_pformat` shows all of it.

    - `wavefunction`: the bare wave function.
    - `trained`: the wave function that was sampled, with the strategy of the last stage
        and its last draw. `None` if it was loaded from a folder and the strategy holds
        classes or functions that are not of eqsym; a warning says which.
    - `walkers`: distributed as `trained`, in Bohr, (walkers, electrons, 3).
    - `step`: training steps taken.
    - `history`: for every column of `history.csv` an array over the steps: `step`, the
        fields of [`eqsym.Statistics`][], and `seconds` of wall time (the one column
        that two runs with the same key do not share). In the folder of a run that goes
        on it may be some steps ahead of the walkers.
    - `state`: the last state, with sampler and optimizer: give it to [`eqsym.run`][] to
        go on from it. `None` if it was loaded from a folder.
    """

    wavefunction: AbstractWavefunction
    trained: AbstractWavefunction | None
    walkers: Walkers
    step: int
    history: dict[str, Float[np.ndarray, " steps"]]
    state: VMCState | None
    _group: SpaceGroup | None
    _strategy: str

    @property
    def crystal(self) -> Crystal:
        """The crystal of the wave function."""
        return self.wavefunction.crystal

    @property
    def group(self) -> SpaceGroup:
        """The group that the run was symmetrized by or, without one, the group of the
        crystal from [`eqsym.SpaceGroup.of`][], which is then found anew."""
        return SpaceGroup.of(self.crystal) if self._group is None else self._group

    @checked
    def energy(self, last: Integer | None = None) -> Estimate:
        r"""The mean energy of the last steps, in Hartree per primitive cell.

        It tells how far training has come, at no cost. The wave function changed in
        these steps, so that the mean is above the energy of the last one. For that,
        with data on whether the walkers have mixed, use [`eqsym.evaluate`][] on
        `trained`.

        The error accounts for the correlation between steps. With the autocorrelation
        $\rho(t)$ of n energies of variance $s^2$ it is $\sqrt{2 \tau s^2 / n}$ with
        $\tau = \frac12 + \sum_{t=1}^{W} \rho(t)$ and the smallest window
        $W \geq 5 \tau$ (Madras, Sokal, J. Stat. Phys. 50, 109 (1988)), times
        $\sqrt{1 + (2 W + 1) / n}$ for the bias of short series (Wolff, Comput. Phys.
        Commun. 156, 143 (2004)). It is too small if the steps are not many times
        $2 \tau$. A drift counts as correlation.

        **Arguments:**

        - `last`: the number of steps; by default a tenth of all, at least 20, or as
            many as there are. Steps without a finite energy are left out.

        **Returns:**

        The mean and its standard error, [`eqsym.Estimate`][]. Energies of one run are
        correlated, over whatever steps.

        **Raises:** `ValueError` for fewer than two steps with a finite energy.
        """
        taken = len(self.history["energy"])
        last = _default(taken) if last is None else whole_number("last", last, 2)
        energies = self.history["energy"][max(0, taken - last) :]
        energies = energies[np.isfinite(energies)]
        if len(energies) < 2:
            raise ValueError(
                "An error bar needs at least 2 training steps with a finite energy, "
                f"got {len(energies)} in the last {min(last, taken)}."
            )
        return estimate_from(
            self._origin, np.mean(energies), correlated_error(energies)
        )

    @property
    def _origin(self) -> frozenset[str]:
        """Stands for the run, also as it is loaded or goes on: its first energy."""
        energies = self.history["energy"]
        first = np.asarray(energies[np.isfinite(energies)][:1], np.float64)
        return frozenset({f"run {first.tobytes().hex()}"})

    def to_frame(self) -> "DataFrame":
        """The history as a data frame of pandas, one row for each training step.

        **Raises:** `ImportError` if pandas is not installed: eqsym does without.
        """
        columns = {name: x for name, x in self.history.items() if name != "step"}
        steps = self.history["step"].astype(int)
        frame = data_frame(columns, steps)
        return frame.rename_axis("step")

    def __repr__(self) -> str:
        taken = len(self.history["energy"])
        last = min(_default(taken), taken)
        try:
            found = f", E = {self.energy()} Ha over the last {last}"
        except ValueError:
            found = ""
        plain = self._strategy == PlainTraining.__name__
        strategy = "" if plain else f", {self._strategy}"
        return f"RunResult(step {self.step}{found}{strategy})"


def _default(taken: int) -> int:
    return max(_FEWEST, taken // 10)


def correlated_error(values: Float[np.ndarray, " steps"]) -> float:
    """The standard error of the mean of a stationary series, see
    [`eqsym.RunResult.energy`][]."""
    n = len(values)
    centered = values - np.mean(values)
    variance = np.mean(centered**2)
    if variance == 0:
        return 0.0
    time, window = 0.5, 0
    while window < n - 1 and window < _WINDOW * time:
        window += 1
        covariance = np.sum(centered[window:] * centered[:-window]) / n
        time += covariance / variance
    bias = 1 + (2 * window + 1) / n
    return float(np.sqrt(2 * max(time, 0.5) * variance / n * bias))
