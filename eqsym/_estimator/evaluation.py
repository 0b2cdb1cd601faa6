"""Energies of wave functions, sampled directly."""

import os
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Inexact

from .._core import Electrons, Key
from .._hamiltonian import AbstractHamiltonian, LocalEnergy
from .._symmetrizer import AbstractSymmetrizer, symmetry_ratio
from .._wavefunction import AbstractWavefunction
from .arguments import check_kinds
from .chains import Chains
from .energies import (
    AbstractSample,
    evaluation,
    excess,
    Parts,
    per_cell,
    Quantities,
    sampled,
)
from .estimate import jackknife
from .results import Evaluation


class _EnergyMoments(NamedTuple):
    """Of energies in excess of the reference, and of Pf/f, if P is given."""

    above: Parts
    square: Any
    ratio: Any
    ratio_square: Any


class _EnergySample(AbstractSample):
    wavefunction: AbstractWavefunction
    hamiltonian: AbstractHamiltonian
    symmetrizer: AbstractSymmetrizer | None

    @property
    def names(self) -> tuple[str, ...]:
        return ("energy", "potential", "symmetry")[: 2 + (self.symmetrizer is not None)]

    def __call__(
        self, electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> _EnergyMoments:
        energy = self.hamiltonian.local_energy(self.wavefunction, electrons, key=key)
        above = excess(energy, reference)
        ratio = ratio_square = None
        if self.symmetrizer is not None:
            ratio = symmetry_ratio(self.wavefunction, self.symmetrizer, electrons)
            ratio_square = jnp.abs(ratio) ** 2
        return _EnergyMoments(
            above=above,
            square=jnp.abs(above.total) ** 2,
            ratio=ratio,
            ratio_square=ratio_square,
        )

    def compared(
        self, moments: _EnergyMoments
    ) -> list[Inexact[np.ndarray, " walkers"]]:
        found = [moments.above.total, moments.above.potential]
        return found if moments.ratio is None else [*found, moments.ratio]


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
    check_kinds(
        wavefunction=wavefunction,
        hamiltonian=hamiltonian,
        chains=chains,
        symmetrizer=symmetrizer,
        path=path,
    )
    sample = _EnergySample(wavefunction, hamiltonian, symmetrizer)
    samples = sampled("evaluate", sample, wavefunction, hamiltonian, chains, path)

    def results(means: _EnergyMoments) -> Quantities:
        symmetry = None
        if means.ratio is not None:
            symmetry = means.ratio_square - np.abs(means.ratio) ** 2
        return per_cell(
            means.above,
            means.square,
            symmetry,
            reference=samples.reference,
            cells=wavefunction.crystal.cells,
        )

    found: Quantities = jackknife(samples.means, results, samples.origin)
    return evaluation(found, samples)
