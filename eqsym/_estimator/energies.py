"""Energies and symmetry measures from chains, for `evaluate`, `post_hoc` and
`sectors`."""

import abc
import dataclasses
import logging
import os
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int, PyTree

from .._core import chunked_vmap, Electrons, full_precision, Key, Walkers
from .._hamiltonian import AbstractHamiltonian, check_crystals, LocalEnergy
from .._wavefunction import AbstractWavefunction
from .chain_mixing import Mixing
from .chains import Chains
from .estimate import origin_of
from .results import Evaluation
from .sampling import AbstractEstimator, accumulate, Sample


_logger = logging.getLogger("eqsym")


class Samples(NamedTuple):
    """Means of the moments over the chain of every walker that ever had a finite local
    energy, (walkers, ...); the reference energies, from the first samples; how many
    samples were finite, and how many not; whether the chains have mixed; by what
    estimates from them are told from others."""

    means: Any
    reference: LocalEnergy
    valid: int
    invalid: int
    mixing: Mixing
    origin: frozenset[str]


class AbstractSample(eqx.Module):
    """The moments of one configuration: estimates are functions of their means."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the numbers in `compared`: "energy", "potential", "symmetry"."""

    @abc.abstractmethod
    def __call__(self, electrons: Electrons, key: Key, reference: LocalEnergy) -> Any:
        """A named tuple of moments, with energies in excess of the reference."""

    @abc.abstractmethod
    def compared(self, moments: Any) -> list[Inexact[np.ndarray, " walkers"]]:
        """Numbers by which the chains are compared, from the moments of all walkers:
        energies of f in excess of the reference, and a measure of its symmetry."""


class _Energies(AbstractEstimator):
    sampled: AbstractSample
    wavefunction: AbstractWavefunction
    hamiltonian: AbstractHamiltonian
    draws: Key
    chunk: int | None

    @property
    def names(self) -> tuple[str, ...]:
        return self.sampled.names

    def zero(self, walkers: Walkers) -> LocalEnergy:
        return LocalEnergy(*jnp.zeros((3,), walkers.dtype))

    def reference(self, found: Any) -> LocalEnergy:
        """The mean energies of the first samples."""
        valid = _finite(found)
        moments = jax.tree.map(lambda values: _kept(values, valid), found)
        columns = dict(zip(self.names, self.sampled.compared(moments), strict=True))
        # Energies of walkers that are not valid are zero.
        count = max(int(np.sum(valid)), 1)
        energy, potential = (
            np.sum(np.real(columns.get(name, 0.0))) / count
            for name in ("energy", "potential")
        )
        return LocalEnergy(*jnp.asarray([energy - potential, potential]))

    def measure(self, walkers: Walkers, step: int, reference: LocalEnergy) -> Any:
        key = jax.random.fold_in(self.draws, step)
        return _measured(self.sampled, walkers, key, reference, self.chunk)

    def sample(self, found: Any, reference: LocalEnergy) -> Sample:
        valid = _finite(found)
        moments = jax.tree.map(lambda values: _kept(values, valid), found)
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

    def missing(self, sums: dict[str, Any]) -> str | None:
        without, count = int(np.sum(sums["counts"] == 0)), len(sums["counts"])
        if count - without >= max(2, count / 2):
            return None
        return f"The local energy of {without} of {count} walkers was not finite"


@eqx.filter_jit
@full_precision()
def _measured(
    sample: AbstractSample,
    walkers: Walkers,
    key: Key,
    reference: LocalEnergy,
    chunk: int | None,
) -> PyTree[Inexact[Array, "walkers ..."]]:
    keys = jax.random.split(key, walkers.shape[0])
    return chunked_vmap(
        lambda pair: sample(pair[0], pair[1], reference), (walkers, keys), chunk
    )


def sampled(
    name: str,
    sample: AbstractSample,
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    chains: Chains,
    path: str | os.PathLike | None,
) -> Samples:
    """Means of a sample over chains of |psi|^2.

    Walkers and samples without a finite local energy are left out, with a warning that
    begins with `name`, of the function that was called.

    **Raises:** as `accumulate` does, and `FloatingPointError` if more than half of the
    walkers have no finite local energy in the first 10 steps, or in all.
    """
    check_crystals(wavefunction, hamiltonian)
    chain, draws = jax.random.split(chains.key)
    origin = origin_of(chains.key)
    estimator = _Energies(sample, wavefunction, hamiltonian, draws, chains.chunk)
    chains = dataclasses.replace(chains, key=chain)
    found = accumulate(name, estimator, wavefunction, chains, path)
    counts: Int[np.ndarray, " walkers"] = found.sums["counts"]
    kept = counts > 0
    if not np.all(kept):
        _logger.warning(
            "%s: %d of %d walkers never had a finite local energy in %d steps "
            "and are left out. The estimates come from the other walkers: they are "
            "biased if these walkers were in places that the others do not reach.",
            name,
            np.sum(~kept),
            len(kept),
            chains.steps,
        )
    valid = int(counts.sum())
    missing = chains.steps * int(np.sum(kept)) - valid
    if missing:
        _logger.warning(
            "%s: %d of %d samples (%.2g %%) had no finite local energy and are "
            "left out. The estimates are biased, which their error bars do not show, "
            "unless energies fail at random places.",
            name,
            missing,
            missing + valid,
            100 * missing / (missing + valid),
        )
    return Samples(
        jax.tree.map(
            lambda x: x[kept] / _along(counts[kept], x), found.sums["moments"]
        ),
        jax.tree.map(np.float64, found.reference),
        valid,
        chains.steps * len(counts) - valid,
        found.mixing,
        origin,
    )


def _finite(
    moments: PyTree[Inexact[np.ndarray, "walkers ..."]],
) -> Bool[np.ndarray, " walkers"]:
    """Whether all moments of a walker are."""
    leaves = jax.tree.leaves(moments)
    flat = [np.isfinite(leaf).reshape(len(leaf), -1) for leaf in leaves]
    return np.all(np.concatenate(flat, axis=1), axis=1)


def _kept(
    values: Inexact[np.ndarray, "walkers ..."], valid: Bool[np.ndarray, " walkers"]
) -> Inexact[np.ndarray, "walkers ..."]:
    """In double precision, with zeros for the others."""
    dtype = np.result_type(values.dtype, np.float64)
    return np.where(_along(valid, values), values, 0).astype(dtype)


def _along(one: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A number for each walker, to go with an array for each."""
    return one.reshape(-1, *[1] * (values.ndim - 1))


class Parts(NamedTuple):
    """The parts of energies, or of what is proportional to them."""

    kinetic: Any
    potential: Any
    pseudopotential: Any

    @property
    def total(self) -> Any:
        dtype = self.kinetic.dtype
        coulomb = self.kinetic + self.potential.astype(dtype)
        return coulomb + self.pseudopotential.astype(dtype)


def excess(energy: LocalEnergy, reference: LocalEnergy) -> Parts:
    """Energies in excess of a fixed reference, so that sums keep their precision."""
    parts = jax.tree.map(lambda x, zero: x - zero.astype(x.dtype), energy, reference)
    return Parts(parts.kinetic, parts.potential, parts.pseudopotential)


class Quantities(NamedTuple):
    """The numbers of an evaluation, per primitive cell, as in [`eqsym.Evaluation`][]:
    of many sets of means, and then their estimates."""

    energy: Any
    variance: Any
    kinetic: Any
    potential: Any
    pseudopotential: Any
    imaginary: Any
    symmetry: Any


def per_cell(
    above: Parts,
    square: Inexact[np.ndarray, " sets"] | None,
    symmetry: Float[np.ndarray, " sets"] | None,
    *,
    reference: LocalEnergy,
    cells: int,
) -> Quantities:
    """From means of energies in excess of a reference, and of the square of their sum,
    all of the supercell."""
    variance = None
    if square is not None:
        variance = (np.real(square) - np.abs(above.total) ** 2) / cells**2
    zeros = reference.kinetic, reference.potential, reference.pseudopotential
    means = Parts(*(x + np.float64(zero) for x, zero in zip(above, zeros, strict=True)))
    energy = means.total / cells
    cores = np.real(means.pseudopotential) / cells
    return Quantities(
        energy=np.real(energy),
        variance=variance,
        kinetic=np.real(means.kinetic) / cells,
        potential=np.real(means.potential) / cells,
        pseudopotential=cores if np.any(cores != 0) else None,
        imaginary=np.imag(energy),
        symmetry=symmetry,
    )


def evaluation(found: Quantities, samples: Samples) -> Evaluation:
    """Estimates, and the samples that they come from."""
    return Evaluation(
        **found._asdict(),
        samples=samples.valid,
        invalid_samples=samples.invalid,
        mixing=samples.mixing,
    )
