"""Pretraining: a fit of the orbitals of a network to a mean field."""

import logging
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Inexact, Int

from .._core import (
    AbstractModule,
    checked,
    combine,
    Electrons,
    Integer,
    interruptible,
    Key,
    partition,
    Walkers,
    whole_number,
)
from .._mean_field import MeanField
from .._wavefunction import AbstractWavefunction, HartreeFock, orbital_network
from .sampler import Metropolis, MetropolisState, REPLACED


_logger = logging.getLogger("eqsym")


class PretrainingState(AbstractModule):
    """Everything that changes during pretraining.

    - `wavefunction`: as fitted so far.
    - `sampler`: state of the sampler, with walkers of the Hartree-Fock determinant.
    - `optimizer`: state of the optimizer.
    - `step`: steps taken.
    - `replaced`: walkers that were replaced in all steps, because their amplitude was
        not finite.
    """

    wavefunction: AbstractWavefunction
    sampler: MetropolisState
    optimizer: optax.OptState
    step: Int[Array, ""]
    replaced: Int[Array, ""]


class Pretraining(AbstractModule):
    r"""Starts training near a mean field: fits the orbitals of a network, such as
    [`eqsym.SolidNet`][], to the orbitals of the mean field.

    Minimizes the mean of $|\phi^d_j(r_i) - \varphi_j(r_i)|^2$ over walkers of the
    Hartree-Fock determinant, for all determinants d. With a full determinant the blocks
    that pair electrons of one spin with orbitals of the other are fitted to 0. Pfau et
    al., Phys. Rev. Research 2, 033429 (2020).

    Call it, or compile `step` with `eqx.filter_jit` and call that in a loop. Given to
    [`eqsym.run`][] it is saved and resumed like training. The state has the fields
    `wavefunction`, `sampler`, `optimizer`, `step` (steps taken) and `replaced` (walkers
    that were replaced in all steps, because their amplitude was not finite).
    """

    mean_field: MeanField
    steps: int
    optimizer: optax.GradientTransformation
    sampler: Metropolis

    @checked
    def __init__(
        self,
        mean_field: MeanField,
        steps: Integer = 300,
        *,
        optimizer: optax.GradientTransformation | None = None,
        sampler: Metropolis | None = None,
    ):
        """**Arguments:**

        - `mean_field`: has the orbitals to fit to.
        - `steps`: number of steps.
        - `optimizer`: any optax transformation, by default Adam with rate 3e-3.
        - `sampler`: moves the walkers between steps, by default 5 moves.

        **Raises:** `ValueError` for a negative number of steps.
        """
        self.mean_field = mean_field
        self.steps = whole_number("steps", steps, 0)
        self.optimizer = optax.adam(3e-3) if optimizer is None else optimizer
        self.sampler = Metropolis(5) if sampler is None else sampler

    @checked
    def init(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> PretrainingState:
        """**Arguments:**

        - `wavefunction`: the network to start from, or one with a factor such as
            [`eqsym.Jastrow`][], which stays as it is.
        - `walkers`: first configurations in Bohr, (walkers, electrons, 3).
        - `key`: seeds the sampler.

        **Returns:**

        The state before the first step.

        **Raises:** `ValueError` for a wave function without orbitals of its own, for a
        mean field of another crystal, and for one with complex orbitals if the network
        is real-valued.
        """
        network = orbital_network("`Pretraining` fits", wavefunction)
        different = self.mean_field.crystal.difference(wavefunction.crystal)
        if different is not None:
            raise ValueError(
                "`wavefunction` must belong to the crystal of the mean field, but has "
                f"another one: between them {different}."
            )
        target = HartreeFock(self.mean_field)
        if network.real and not target.real:
            raise ValueError(
                "`wavefunction` is real-valued and the orbitals of the mean field are "
                "complex. Construct the network with `real=False`."
            )
        return PretrainingState(
            wavefunction,
            self.sampler.init(target, walkers, key=key),
            self.optimizer.init(partition(wavefunction)[0]),
            jnp.zeros((), int),
            jnp.zeros((), int),
        )

    @checked
    def step(
        self, state: PretrainingState
    ) -> tuple[PretrainingState, Float[Array, ""]]:
        """One step.

        **Arguments:**

        - `state`: of `init` or of the step before.

        **Returns:**

        `(state, loss)`: the next state, and the loss before it; NaN if the parameters
        of the next state are not finite.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        sampler = self.sampler.step(HartreeFock(self.mean_field), state.sampler)
        parameters, rest = partition(state.wavefunction)
        loss, gradient = jax.value_and_grad(_loss)(
            parameters, rest, self.mean_field, sampler.walkers
        )
        # optax relies on promotions that users may have forbidden.
        with jax.numpy_dtype_promotion("standard"):
            updates, optimizer = self.optimizer.update(
                gradient, state.optimizer, parameters
            )
        parameters = optax.apply_updates(parameters, updates)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(parameters)]
        following = PretrainingState(
            combine(parameters, rest),
            sampler,
            optimizer,
            state.step + 1,
            state.replaced + sampler.replaced_walkers,
        )
        return following, jnp.where(jnp.all(jnp.stack(finite)), loss, jnp.nan)

    @checked
    def __call__(
        self,
        wavefunction: AbstractWavefunction,
        walkers: Walkers,
        *,
        key: Key,
        callback: Callable[[int, float], Any] = lambda step, loss: None,
    ) -> tuple[AbstractWavefunction, Walkers]:
        """Takes all steps.

        **Arguments:**

        - `wavefunction`, `walkers`, `key`: as for `init`.
        - `callback`: called with the number of steps done and the loss.

        **Returns:**

        `(wavefunction, walkers)`: the fitted network, and walkers of the Hartree-Fock
        determinant.

        **Raises:** as `init`, and `FloatingPointError` if the loss is not finite.
        """
        state = self.init(wavefunction, walkers, key=key)
        step = eqx.filter_jit(self.step)
        with interruptible() as interrupts:
            for i in range(1, self.steps + 1):
                state, loss = step(state)
                check_loss(i, loss)
                callback(i, float(loss))
                interrupts.check()
        report_replaced("Pretraining", state.replaced)
        return state.wavefunction, state.sampler.walkers


def check_loss(step: int, loss: Float[Array, ""]) -> None:
    """**Raises:** `FloatingPointError` if a loss is not finite."""
    if not np.isfinite(loss):
        raise FloatingPointError(
            f"Pretraining diverged: the loss of step {step} is {loss}. Try an "
            "`optimizer` with a smaller learning rate."
        )


def report_replaced(phase: str, replaced: Int[Array, ""]) -> None:
    """Logs how many walkers were replaced, if any."""
    if replaced > 0:
        _logger.warning("%s: %s", phase, REPLACED.format(int(replaced)))


def _loss(parameters, rest, mean_field: MeanField, walkers: Walkers):
    network = orbital_network("`Pretraining` fits", combine(parameters, rest))

    def one(electrons: Electrons) -> Float[Array, ""]:
        found = network.orbitals(electrons)
        up, down = mean_field.orbitals(electrons, real=network.real)
        if network.full_determinant:
            across = jnp.zeros((up.shape[0], down.shape[1]), up.dtype)
            up, down = (
                jnp.concatenate([up, across], axis=1),
                jnp.concatenate([across.T, down], axis=1),
            )
        squares = [
            _mean_square(rows, target)
            for rows, target in zip(found, (up, down), strict=True)
            if target.size
        ]
        return jnp.sum(jnp.stack(squares))

    return jnp.mean(jax.vmap(one)(walkers))


def _mean_square(
    rows: Inexact[Array, "determinants electrons orbitals"],
    target: Inexact[Array, "electrons orbitals"],
) -> Float[Array, ""]:
    difference = rows - target[None].astype(rows.dtype)
    return jnp.mean(difference.real**2 + difference.imag**2)
