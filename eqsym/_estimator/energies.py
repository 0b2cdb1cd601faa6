"""Energies and symmetry measures from chains: what `evaluate`, `post_hoc` and `sectors`
share."""

import abc
import dataclasses
import logging
import os
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Int, Shaped

from .._core import chunked_vmap, Electrons, Key, Walkers
from .._hamiltonian import AbstractHamiltonian, check_crystals, LocalEnergy
from .._wavefunction import AbstractWavefunction
from .chain_mixing import Mixing
from .chains import Chains
from .estimate import Estimate, Evaluation
from .sampling import AbstractEstimator, accumulate, Sample


_logger = logging.getLogger("eqsym")


class Samples(NamedTuple):
    """Means over the chain of every walker that ever had a finite local energy,
    (walkers, moments); the reference energies, those of the first samples; samples that
    were finite, and others; whether the chains have mixed."""

    moments: Complex[np.ndarray, "walkers moments"]
    reference: LocalEnergy
    valid: int
    invalid: int
    mixing: Mixing


class AbstractSample(eqx.Module):
    """What an estimator is a function of the means of."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of what `compared` returns: "energy", "potential", "symmetry"."""

    @abc.abstractmethod
    def __call__(
        self, electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> Inexact[Array, " moments"]:
        """Numbers of one configuration, with energies over those of the reference."""

    @abc.abstractmethod
    def compared(
        self, moments: Inexact[np.ndarray, "walkers moments"]
    ) -> list[Inexact[np.ndarray, " walkers"]]:
        """Numbers by which the chains are compared: energies of f over those of the
        reference, and what is known of its symmetry."""


class _Energies(AbstractEstimator):
    sampled: AbstractSample
    wavefunction: AbstractWavefunction
    hamiltonian: AbstractHamiltonian
    draws: Key
    chunk: int | None

    @property
    def names(self) -> tuple[str, ...]:
        return self.sampled.names

    def reference(self, walkers: Walkers) -> LocalEnergy:
        return _typical(self.wavefunction, self.hamiltonian, walkers, self.chunk)

    def measure(
        self, walkers: Walkers, step: int, reference: LocalEnergy
    ) -> Inexact[Array, "walkers moments"]:
        key = jax.random.fold_in(self.draws, step)
        return _measured(self.sampled, walkers, key, reference, self.chunk)

    def sample(
        self, found: Inexact[np.ndarray, "walkers moments"], reference: LocalEnergy
    ) -> Sample:
        valid = np.all(np.isfinite(found), axis=1)
        moments = np.where(valid[:, None], found, 0).astype(np.complex128)
        kinetic, potential = float(reference.kinetic), float(reference.potential)
        zeros = {"energy": kinetic + potential, "potential": potential}
        cells = self.wavefunction.crystal.cells
        columns = [
            (np.real(x) + zeros[name]) / cells if name in zeros else np.real(x)
            for name, x in zip(self.names, self.sampled.compared(moments), strict=True)
        ]
        values = np.stack(columns, axis=1)
        sums = {"moments": moments, "counts": valid.astype(int)}
        return Sample(sums, np.where(valid[:, None], values, np.nan))

    def missing(self, sums: dict[str, Shaped[np.ndarray, "walkers ..."]]) -> str | None:
        without, count = int(np.sum(sums["counts"] == 0)), len(sums["counts"])
        if count - without >= max(2, count / 2):
            return None
        return f"The local energy of {without} of {count} walkers was not finite"


@eqx.filter_jit
def _typical(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    walkers: Walkers,
    chunk: int | None,
) -> LocalEnergy:
    found = chunked_vmap(
        lambda electrons: hamiltonian.local_energy(wavefunction, electrons),
        walkers,
        chunk,
    )
    finite = jnp.isfinite(found.kinetic) & jnp.isfinite(found.potential)
    count = jnp.maximum(jnp.sum(finite), 1)

    def mean(values: Float[Array, " walkers"]) -> Float[Array, ""]:
        return jnp.sum(jnp.where(finite, values, 0)) / count.astype(values.dtype)

    return LocalEnergy(mean(found.kinetic.real), mean(found.potential))


@eqx.filter_jit
def _measured(
    sample: AbstractSample,
    walkers: Walkers,
    key: Key,
    reference: LocalEnergy,
    chunk: int | None,
) -> Inexact[Array, "walkers moments"]:
    keys = jax.random.split(key, walkers.shape[0])
    return chunked_vmap(
        lambda pair: sample(pair[0], pair[1], reference), (walkers, keys), chunk
    )


def sampled(
    sample: AbstractSample,
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    chains: Chains,
    path: str | os.PathLike | None,
) -> Samples:
    """Means of a sample over chains of |psi|^2.

    Walkers that never had a finite local energy are left out, with a warning.

    **Raises:** as `accumulate` does, and `FloatingPointError` if more than half of the
    walkers have no finite local energy in the first 10 steps, or in all.
    """
    check_crystals(wavefunction, hamiltonian)
    chain, draws = jax.random.split(chains.key)
    estimator = _Energies(sample, wavefunction, hamiltonian, draws, chains.chunk)
    chains = dataclasses.replace(chains, key=chain)
    found = accumulate("Evaluating", estimator, wavefunction, chains, path)
    counts: Int[np.ndarray, " walkers"] = found.sums["counts"]
    kept = counts > 0
    if not np.all(kept):
        _logger.warning(
            "Evaluating: %d of %d walkers never had a finite local energy in %d steps "
            "and are left out. The estimates are those of the other walkers: they are "
            "biased if these walkers were in places that the others do not reach.",
            np.sum(~kept),
            len(kept),
            chains.steps,
        )
    valid = int(counts.sum())
    return Samples(
        found.sums["moments"][kept] / counts[kept, None],
        jax.tree.map(np.float64, found.reference),
        valid,
        chains.steps * len(counts) - valid,
        found.mixing,
    )


def excess(energy: LocalEnergy, reference: LocalEnergy) -> LocalEnergy:
    """Energies over a fixed reference: what fluctuates, without what does not."""
    return LocalEnergy(
        energy.kinetic - reference.kinetic.astype(energy.kinetic.dtype),
        energy.potential - reference.potential,
    )


def stack(*values: Inexact[Array, ""]) -> Inexact[Array, " moments"]:
    """Numbers in one array, complex where one of them is."""
    dtype = next((v.dtype for v in values if jnp.iscomplexobj(v)), values[0].dtype)
    return jnp.stack([v.astype(dtype) for v in values])


def per_cell(
    kinetic: np.ndarray, potential: np.ndarray, variance: np.ndarray, cells: int
) -> list[np.ndarray]:
    """Energy, variance, kinetic, potential and imaginary part per primitive cell."""
    energy = (kinetic + potential) / cells
    parts = [np.real(kinetic) / cells, np.real(potential) / cells]
    return [np.real(energy), variance / cells**2, *parts, np.imag(energy)]


def evaluation(
    parts: list[Any], symmetry: Estimate | None, samples: Samples
) -> Evaluation:
    """From estimates in the order of `per_cell`, the variance `None` where it was not
    measured, and the samples that they come from."""
    energy, variance, kinetic, potential, imaginary = parts
    return Evaluation(
        energy=energy,
        variance=variance,
        kinetic=kinetic,
        potential=potential,
        imaginary=imaginary,
        symmetry=symmetry,
        samples=samples.valid,
        invalid_samples=samples.invalid,
        mixing=samples.mixing,
    )
