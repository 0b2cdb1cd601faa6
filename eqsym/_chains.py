"""The loop over samples that all estimators share, and what they make of them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Inexact, Int

from ._ansatz import AbstractWavefunction
from ._estimate import Estimate, Evaluation
from ._hamiltonian import AbstractHamiltonian, LocalEnergy
from ._math import chunked_vmap
from ._progress import progress_bar
from ._sampler import AbstractSampler, Metropolis
from ._types import Electrons, Key, Walkers


class Chains(NamedTuple):
    """How to sample: arguments of [`eqsym.evaluate`][], which all estimators share."""

    walkers: Walkers
    key: Key
    steps: int
    burn_in: int
    sampler: AbstractSampler | None
    chunk: int | None
    progress: bool | None


class Samples(NamedTuple):
    """Means over the chain of every walker, (walkers, moments); the reference energies,
    those of the walkers after the burn-in; samples of every walker that were finite."""

    moments: Complex[np.ndarray, "walkers moments"]
    reference: LocalEnergy
    counts: Int[np.ndarray, " walkers"]


def sampled(
    sample: Callable[[Electrons, Key, LocalEnergy], Inexact[Array, " moments"]],
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    chains: Chains,
) -> Samples:
    """Means of `sample(electrons, key, reference)` over chains of |psi|^2.

    They are added up as they come: memory does not grow with the number of samples."""
    walkers, key, steps, burn_in, sampler, chunk, progress = chains
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    if wavefunction.crystal != hamiltonian.crystal:
        raise ValueError(
            "`wavefunction` and `hamiltonian` must have the same crystal, got "
            f"{wavefunction.crystal} and {hamiltonian.crystal}."
        )
    sampler = Metropolis() if sampler is None else sampler
    chain, draws = jax.random.split(key)
    state = sampler.init(wavefunction, walkers, key=chain)
    advance = eqx.filter_jit(sampler.step)

    @eqx.filter_jit
    def typical(walkers):
        found = chunked_vmap(
            lambda electrons: hamiltonian.local_energy(wavefunction, electrons),
            walkers,
            chunk,
        )
        return LocalEnergy(jnp.mean(found.kinetic.real), jnp.mean(found.potential))

    @eqx.filter_jit
    def measure(walkers, key, reference):
        keys = jax.random.split(key, walkers.shape[0])
        return chunked_vmap(
            lambda pair: sample(pair[0], pair[1], reference), (walkers, keys), chunk
        )

    counts = np.zeros(len(walkers), int)
    total = np.zeros((), np.complex128)
    with progress_bar("Evaluating", burn_in + steps, progress) as bar:
        bar.set_postfix_str("compiling")
        for _ in range(burn_in):
            state = advance(wavefunction, state)
            bar.update()
        reference = typical(state.walkers)
        for i in range(steps):
            state = advance(wavefunction, state)
            values = np.asarray(
                measure(state.walkers, jax.random.fold_in(draws, i), reference)
            )
            valid = np.all(np.isfinite(values), axis=1)
            counts += valid
            total = total + np.where(valid[:, None], values, 0)
            bar.set_postfix_str("", refresh=False)
            bar.update()
    if not np.all(counts):
        raise FloatingPointError(
            f"The local energy of {int(np.sum(counts == 0))} of {len(counts)} walkers "
            "was not finite at any step of the evaluation."
        )
    reference = jax.tree.map(np.float64, reference)
    return Samples(total / counts[:, None], reference, counts)


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
    parts: list[Any],
    symmetry: Estimate | None,
    counts: Int[np.ndarray, " walkers"],
    steps: int,
) -> Evaluation:
    """From estimates in the order of `per_cell`, the variance `None` where it was not
    measured, and the samples of each walker that were finite out of `steps`."""
    energy, variance, kinetic, potential, imaginary = parts
    return Evaluation(
        energy=energy,
        variance=variance,
        kinetic=kinetic,
        potential=potential,
        imaginary=imaginary,
        symmetry=symmetry,
        samples=int(counts.sum()),
        invalid=steps * len(counts) - int(counts.sum()),
    )
