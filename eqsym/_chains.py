"""The loop over samples that all estimators share, and what they make of them."""

import abc
import contextlib
import logging
from collections.abc import Generator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Int

from ._ansatz import AbstractWavefunction
from ._estimate import Estimate, Evaluation
from ._hamiltonian import AbstractHamiltonian, check_crystals, LocalEnergy
from ._interrupts import interruptible
from ._math import check_chunk, chunked_vmap
from ._processes import on_host
from ._progress import progress_bar
from ._sampler import AbstractSampler, AbstractSamplerState, Metropolis, REPLACED
from ._sharding import mesh_of, on_mesh
from ._types import Electrons, Integer, Key, Walkers, whole_number


_logger = logging.getLogger("eqsym")


class Chains(NamedTuple):
    """How to sample: arguments of [`eqsym.evaluate`][], which all estimators share."""

    walkers: Walkers
    key: Key
    steps: int
    burn_in: int
    sampler: AbstractSampler | None
    chunk: int | None
    progress: bool | None

    @classmethod
    def of(
        cls,
        walkers: Walkers,
        key: Key,
        steps: Integer,
        burn_in: Integer,
        sampler: AbstractSampler | None,
        chunk: Integer | None,
        progress: bool | None,
    ) -> "Chains":
        """**Raises:** `ValueError` for less than one step, negative `burn_in`, or a
        `chunk` that is not positive."""
        steps = whole_number("steps", steps, 1)
        burn_in = whole_number("burn_in", burn_in, 0)
        return cls(walkers, key, steps, burn_in, sampler, check_chunk(chunk), progress)


class Samples(NamedTuple):
    """Means over the chain of every walker, (walkers, moments); the reference energies,
    those of the first samples; samples of every walker that were finite."""

    moments: Complex[np.ndarray, "walkers moments"]
    reference: LocalEnergy
    counts: Int[np.ndarray, " walkers"]


class AbstractSample(eqx.Module):
    """What an estimator is a function of the means of."""

    @abc.abstractmethod
    def __call__(
        self, electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> Inexact[Array, " moments"]:
        """Numbers of one configuration, with energies over those of the reference."""


def steps_of(
    name: str, wavefunction: AbstractWavefunction, chains: Chains
) -> Generator[Walkers]:
    """Walkers of |psi|^2 at every step after the burn-in, with a progress bar.

    **Raises:** `ValueError` for less than two walkers, or walkers of the wrong shape.
    """
    sampler = Metropolis() if chains.sampler is None else chains.sampler
    state = sampler.init(wavefunction, chains.walkers, key=chains.key)
    if len(chains.walkers) < 2:
        raise ValueError(
            "An error bar needs at least 2 walkers (independent chains), got "
            f"{len(chains.walkers)}."
        )
    return _steps(name, sampler, wavefunction, state, chains)


def _steps(
    name: str,
    sampler: AbstractSampler,
    wavefunction: AbstractWavefunction,
    state: AbstractSamplerState,
    chains: Chains,
) -> Generator[Walkers]:
    count = chains.burn_in + chains.steps
    # In burn-in, and later.
    replaced = [jnp.zeros((), int)] * 2
    compiled = "moves and estimators"
    with (
        interruptible() as interrupts,
        progress_bar(name, count, chains.progress, compiled=compiled) as bar,
    ):
        for i in range(count):
            state = _advanced(sampler, wavefunction, state)
            replaced[i >= chains.burn_in] += state.replaced
            if i >= chains.burn_in:
                yield state.walkers
                bar.set_postfix_str("", refresh=False)
            bar.update()
            interrupts.check()
    for number, where, meaning in zip(
        replaced,
        ("burn-in", "sampling"),
        ("", " These are not independent, and error bars too small."),
        strict=True,
    ):
        if number > 0:
            _logger.warning(
                "%s, %s: %s%s Look for an amplitude that is not finite.",
                name,
                where,
                REPLACED.format(number),
                meaning,
            )


# Compiled once for all calls of one kind: what they are called with are arguments.
@eqx.filter_jit
def _advanced(
    sampler: AbstractSampler,
    wavefunction: AbstractWavefunction,
    state: AbstractSamplerState,
) -> AbstractSamplerState:
    return sampler.step(wavefunction, state)


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
) -> Samples:
    """Means of a sample over chains of |psi|^2.

    They are added up as they come: memory does not grow with the number of samples."""
    check_crystals(wavefunction, hamiltonian)
    chain, draws = jax.random.split(chains.key)
    chains = chains._replace(key=chain)
    counts = np.zeros(len(chains.walkers), int)
    total, reference = np.zeros((), np.complex128), None
    steps = steps_of("Evaluating", wavefunction, chains)
    # Closed with this loop, also if it raises: Ctrl-C means what it meant before.
    with on_mesh(mesh_of(chains.walkers)), contextlib.closing(steps):
        for i, walkers in enumerate(steps):
            if reference is None:
                reference = _typical(wavefunction, hamiltonian, walkers, chains.chunk)
            key = jax.random.fold_in(draws, i)
            found = _measured(sample, walkers, key, reference, chains.chunk)
            values = on_host(found)
            valid = np.all(np.isfinite(values), axis=1)
            counts += valid
            total = total + np.where(valid[:, None], values, 0)
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
