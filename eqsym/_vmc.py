"""Variational Monte Carlo: a training step of sampler, Hamiltonian and optimizer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from ._ansatz import AbstractWavefunction
from ._hamiltonian import AbstractHamiltonian, LocalEnergy
from ._math import chunked_vmap
from ._optimizer import AbstractOptimizer
from ._sampler import AbstractSampler, AbstractSamplerState
from ._scores import Scores
from ._types import combine, Key, partition, Walkers


class VMCState(eqx.Module):
    """Everything that changes during training, and all that a checkpoint holds.

    - `wavefunction`: as trained so far.
    - `sampler`: state of the sampler, with the walkers and their key.
    - `optimizer`: state of the optimizer.
    - `step`: steps taken.
    """

    wavefunction: AbstractWavefunction
    sampler: AbstractSamplerState
    optimizer: Any
    step: Int[Array, ""]


class Statistics(eqx.Module):
    """What one training step saw. Energies in Hartree per primitive cell.

    - `energy`: mean local energy, real part.
    - `variance`: variance of the local energy per primitive cell, in Hartree squared.
    - `imaginary`: imaginary part of the mean local energy.
    - `kinetic`, `potential`: means of the two parts.
    - `acceptance`: accepted share of the moves.
    - `clipped`: share of walkers whose local energy was clipped in the gradient.
    - `invalid`: number of walkers with a local energy that is not finite. They are left
        out of all means and of the gradient.
    """

    energy: Float[Array, ""]
    variance: Float[Array, ""]
    imaginary: Float[Array, ""]
    kinetic: Float[Array, ""]
    potential: Float[Array, ""]
    acceptance: Float[Array, ""]
    clipped: Float[Array, ""]
    invalid: Int[Array, ""]


class VMC(eqx.Module):
    r"""Variational Monte Carlo as `init` and `step`.

    One step moves the walkers, evaluates their local energies $E_L$ and hands the
    residual $E_L - \langle E_L \rangle$ to the optimizer, clipped to `clip` mean
    absolute deviations from the median, real and imaginary parts apart. Clipping
    affects the gradient, never the energies reported. Both methods are pure: jit `step`
    with `eqx.filter_jit` and call it in a loop, or let [`eqsym.run`][] do so.
    """

    hamiltonian: AbstractHamiltonian
    sampler: AbstractSampler
    optimizer: AbstractOptimizer
    clip: float
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        hamiltonian: AbstractHamiltonian,
        sampler: AbstractSampler,
        optimizer: AbstractOptimizer,
        *,
        clip: float = 5.0,
        chunk: int | None = None,
    ):
        """**Arguments:**

        - `hamiltonian`: gives the local energies.
        - `sampler`: moves the walkers.
        - `optimizer`: updates the parameters.
        - `clip`: in mean absolute deviations from the median.
        - `chunk`: walkers whose local energies are evaluated at a time, all by default.

        **Raises:** `ValueError` for `clip` or `chunk` that are not positive.
        """
        self.hamiltonian = hamiltonian
        self.sampler = sampler
        self.optimizer = optimizer
        self.clip = clip
        self.chunk = chunk

    def __check_init__(self):
        if not self.clip > 0:
            raise ValueError(f"`clip` must be positive, got {self.clip}.")
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"`chunk` must be at least 1 walker, got {self.chunk}.")

    def init(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> VMCState:
        """**Arguments:**

        - `wavefunction`: to start from.
        - `walkers`: first configurations in Bohr, (walkers, electrons, 3).
        - `key`: seeds the sampler.

        **Returns:**

        The state before the first step.

        **Raises:** `ValueError` for walkers of the wrong shape, and for a wave function
        without parameters or of another crystal than the Hamiltonian's.
        """
        if wavefunction.crystal != self.hamiltonian.crystal:
            raise ValueError(
                "`wavefunction` and `hamiltonian` must have the same crystal, got "
                f"{wavefunction.crystal} and {self.hamiltonian.crystal}."
            )
        parameters = partition(wavefunction)[0]
        if not jax.tree.leaves(parameters):
            raise ValueError(
                "`wavefunction` must have trainable parameters (floating-point arrays "
                f"outside of fixed data), got none in a {type(wavefunction).__name__}."
            )
        return VMCState(
            wavefunction,
            self.sampler.init(wavefunction, walkers, key=key),
            self.optimizer.init(parameters),
            jnp.zeros((), int),
        )

    def step(self, state: VMCState) -> tuple[VMCState, Statistics]:
        """One training step.

        **Arguments:**

        - `state`: of `init` or of the step before.

        **Returns:**

        `(state, statistics)`: the next state, and what was seen on the way to it.
        """
        wavefunction = state.wavefunction
        sampler = self.sampler.step(wavefunction, state.sampler)
        energies = chunked_vmap(
            lambda electrons: self.hamiltonian.local_energy(wavefunction, electrons),
            sampler.walkers,
            self.chunk,
        )
        residual, clipped = _residual(energies.total, self.clip)
        update, optimizer = self.optimizer.step(
            Scores(wavefunction, sampler.walkers), residual, state.optimizer
        )
        parameters, rest = partition(wavefunction)
        updated = combine(eqx.apply_updates(parameters, update), rest)
        statistics = _statistics(
            energies, sampler.acceptance, clipped, self.hamiltonian.crystal.cells
        )
        return VMCState(updated, sampler, optimizer, state.step + 1), statistics


def _residual(
    energies: Inexact[Array, " walkers"], clip: float
) -> tuple[Inexact[Array, " walkers"], Float[Array, ""]]:
    """Clipped and centred energies over the square root of their number, and the share
    that was clipped. Walkers without a finite energy get 0."""
    if jnp.iscomplexobj(energies):
        real, clipped = _residual(energies.real, clip)
        imaginary, _ = _residual(energies.imag, clip)
        return jax.lax.complex(real, imaginary), clipped
    valid = jnp.isfinite(energies)
    centre = jnp.nanmedian(jnp.where(valid, energies, jnp.nan))
    deviation = jnp.where(valid, energies - centre, 0.0)
    bound = clip * _mean(jnp.abs(deviation), valid)
    limited = jnp.clip(deviation, -bound, bound)
    centred = jnp.where(valid, limited - _mean(limited, valid), 0.0)
    return centred * len(centred) ** -0.5, _mean(jnp.abs(deviation) > bound, valid)


def _mean(values: Array, valid: Array) -> Float[Array, ""]:
    total = jnp.sum(jnp.where(valid, values, jnp.zeros_like(values)))
    return total / jnp.maximum(jnp.sum(valid), 1).astype(total.dtype)


def _statistics(
    energies: LocalEnergy,
    acceptance: Float[Array, ""],
    clipped: Float[Array, ""],
    cells: int,
) -> Statistics:
    total = energies.total / cells
    valid = jnp.isfinite(total)
    mean = _mean(total.real, valid)
    return Statistics(
        energy=mean,
        variance=_mean(jnp.abs(total - mean.astype(total.dtype)) ** 2, valid),
        imaginary=_mean(total.imag, valid),
        kinetic=_mean(energies.kinetic.real / cells, valid),
        potential=_mean(energies.potential / cells, valid),
        acceptance=acceptance,
        clipped=clipped,
        invalid=jnp.sum(~valid),
    )
