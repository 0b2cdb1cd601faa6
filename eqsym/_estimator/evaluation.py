"""Energies of wave functions, sampled directly."""

import os

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

from .._core import Electrons, Key
from .._hamiltonian import AbstractHamiltonian, LocalEnergy
from .._symmetrizer import AbstractSymmetrizer, symmetry_ratio
from .._wavefunction import AbstractWavefunction
from .chains import Chains
from .energies import AbstractSample, evaluation, excess, per_cell, sampled, stack
from .estimate import Evaluation, jackknife


class _EnergySample(AbstractSample):
    wavefunction: AbstractWavefunction
    hamiltonian: AbstractHamiltonian
    symmetrizer: AbstractSymmetrizer | None

    @property
    def names(self) -> tuple[str, ...]:
        return ("energy", "potential", "symmetry")[: 2 + (self.symmetrizer is not None)]

    def __call__(
        self, electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> Inexact[Array, " moments"]:
        del key
        energy = self.hamiltonian.local_energy(self.wavefunction, electrons)
        energy = excess(energy, reference)
        square = jnp.abs(energy.total) ** 2
        if self.symmetrizer is None:
            ratio = jnp.ones_like(energy.kinetic)
        else:
            ratio = symmetry_ratio(self.wavefunction, self.symmetrizer, electrons)
        return stack(
            energy.kinetic, energy.potential, square, ratio, jnp.abs(ratio) ** 2
        )

    def compared(
        self, moments: Inexact[np.ndarray, "walkers moments"]
    ) -> list[Inexact[np.ndarray, " walkers"]]:
        kinetic, potential, _, ratio, _ = moments.T
        return [kinetic + potential, potential, ratio][: len(self.names)]


def evaluate(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    chains: Chains,
    *,
    symmetrizer: AbstractSymmetrizer | None = None,
    path: str | os.PathLike | None = None,
) -> Evaluation:
    r"""Samples $|\psi|^2$ and averages the local energy.

    Works for every wave function, a symmetrized one included, at the price of one
    amplitude and one local energy of it per move and sample. For a function averaged
    after training, [`eqsym.post_hoc`][] is far cheaper.

    **Arguments:**

    - `wavefunction`: the wave function.
    - `hamiltonian`: of the same crystal.
    - `chains`: how to sample, [`eqsym.Chains`][].
    - `symmetrizer`: the projector P of the symmetry measure Var[Pf/f], if wanted.
    - `path`: a folder, if given, in which the estimate is kept, and from which it goes
        on after it was stopped; see
        [Runs that survive](../runs.md#estimates-that-survive).

    **Returns:**

    Energies per primitive cell with error bars, and whether the chains have mixed,
    [`eqsym.Evaluation`][]. If they have not, a warning says so.

    **Raises:** `ValueError` for walkers of the wrong shape, a Hamiltonian or group of
    another crystal, or a `path` with something else in it; `OSError` for a `path` that
    cannot be written or is in use; `FloatingPointError` if more than half of the
    walkers have no finite local energy in the first 10 steps, or less than two have
    one.
    """
    sample = _EnergySample(wavefunction, hamiltonian, symmetrizer)
    samples = sampled(sample, wavefunction, hamiltonian, chains, path)

    reference = samples.reference
    cells = wavefunction.crystal.cells

    def results(means: np.ndarray) -> np.ndarray:
        kinetic, potential, square, ratio, ratio_square = np.moveaxis(means, -1, 0)
        variance = square.real - np.abs(kinetic + potential) ** 2
        kinetic, potential = (
            kinetic + reference.kinetic,
            potential + reference.potential,
        )
        symmetry = ratio_square.real - np.abs(ratio) ** 2
        return np.stack(
            [*per_cell(kinetic, potential, variance, cells), symmetry], axis=-1
        )

    *parts, symmetry = jackknife(samples.moments, results)
    measured = None if symmetrizer is None else symmetry
    return evaluation(parts, measured, samples)
