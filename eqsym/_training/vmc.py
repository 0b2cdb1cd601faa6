"""Variational Monte Carlo: a training step of sampler, Hamiltonian and optimizer."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._core import (
    check_chunk,
    chunked_vmap,
    combine,
    Integer,
    Key,
    partition,
    spread,
    WALKERS,
    Walkers,
)
from .._hamiltonian import AbstractHamiltonian, check_crystals, LocalEnergy
from .._wavefunction import AbstractWavefunction, check_wavefunction
from .optimizer import AbstractOptimizer, AbstractOptimizerState
from .sampler import AbstractSampler, AbstractSamplerState
from .scores import check_factors, Scores
from .strategy import AbstractStrategy, Coupling, NoSymmetry, Schedule


class VMCState(eqx.Module):
    """Everything that changes during training, and all that a checkpoint holds.

    - `wavefunction`: as trained so far.
    - `sampler`: state of the sampler, with the walkers and their key.
    - `optimizer`: state of the optimizer.
    - `strategies`: states of the strategies of the schedule.
    - `step`: steps taken.
    - `scale`: factor of the updates, 1 but in a run that diverged and went back.
    """

    wavefunction: AbstractWavefunction
    sampler: AbstractSamplerState
    optimizer: AbstractOptimizerState
    strategies: tuple[Any, ...]
    step: Int[Array, ""]
    scale: Float[Array, ""]


class Statistics(eqx.Module):
    """What one training step saw. Energies in Hartree per primitive cell, NaN where
    no walker had a finite one and a finite weight, or, but for the variance, where
    coupled images have no positive weight.

    - `energy`: mean local energy, real part. Where the strategy couples images, as
        [`eqsym.Project`][] does: the objective, a mean of two energies.
    - `variance`: variance of the local energy per primitive cell, in Hartree squared.
    - `imaginary`: imaginary part of what `energy` is the real part of.
    - `kinetic`, `potential`: the two parts of `energy`.
    - `acceptance`: accepted share of the moves, without exchanges and hops.
    - `exchanged`: accepted share of the exchanges of a spin-up and a spin-down
        electron, 0 if there were none.
    - `hopped`: accepted share of the hops of an electron between nuclei, 0 if there
        were none.
    - `clipped`: share of walkers whose local energy was clipped in the gradient.
    - `effective`: effective share of the walkers, $(\\sum w)^2 / (n \\sum w^2)$ with
        their importance weights w; 1 without.
    - `invalid`: number of walkers, or of their images where the strategy trains on
        those, with a local energy or an importance weight that is not finite. They are
        left out of all means and of the gradient.
    - `dropped`: images with non-zero weight that a bound on their number left out, over
        all walkers.
    - `replaced`: number of walkers that the sampler replaced, because their amplitude
        was not finite.
    - `retries`: how often the optimizer had to solve its equations again, with more
        damping: the Gram matrix was singular to rounding.
    - `rejected`: 1 where the parameters were not finite after their update, no walker
        had a finite energy and weight, or coupled images have no positive weight:
        parameters and optimizer stay as they were.
    """

    energy: Float[Array, ""]
    variance: Float[Array, ""]
    imaginary: Float[Array, ""]
    kinetic: Float[Array, ""]
    potential: Float[Array, ""]
    acceptance: Float[Array, ""]
    exchanged: Float[Array, ""]
    hopped: Float[Array, ""]
    clipped: Float[Array, ""]
    effective: Float[Array, ""]
    invalid: Int[Array, ""]
    dropped: Int[Array, ""]
    replaced: Int[Array, ""]
    retries: Int[Array, ""]
    rejected: Int[Array, ""]


class VMC(eqx.Module):
    r"""Variational Monte Carlo as `init` and `step`.

    One step moves the walkers, evaluates their local energies $E_L$ and hands the
    residual $E_L - \langle E_L \rangle$ to the optimizer, clipped to `clip` mean
    absolute deviations from the median, real and imaginary parts apart. Clipping
    affects the gradient, never the energies reported. Coupled images have the residual
    of [`eqsym.Coupling`][]. All methods are pure: jit `step` with `eqx.filter_jit` and
    call it in a loop, or let [`eqsym.run`][] do so.

    A strategy says what is done about symmetry in training. Energies are those of the
    function it trains, the parameters always those of the bare wave function.
    """

    hamiltonian: AbstractHamiltonian
    sampler: AbstractSampler
    optimizer: AbstractOptimizer
    schedule: Schedule
    clip: float
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        hamiltonian: AbstractHamiltonian,
        sampler: AbstractSampler,
        optimizer: AbstractOptimizer,
        *,
        strategy: AbstractStrategy | Schedule | None = None,
        clip: float = 5.0,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `hamiltonian`: gives the local energies.
        - `sampler`: moves the walkers.
        - `optimizer`: updates the parameters.
        - `strategy`: what is done about symmetry, [`eqsym.NoSymmetry`][] by default; or
            a schedule of strategies.
        - `clip`: in mean absolute deviations from the median.
        - `chunk`: walkers whose local energies are evaluated at a time, all by default.

        **Raises:** `ValueError` for `clip` or `chunk` that are not positive.
        """
        self.hamiltonian = hamiltonian
        self.sampler = sampler
        self.optimizer = optimizer
        if isinstance(strategy, Schedule):
            self.schedule = strategy
        else:
            self.schedule = Schedule([(0, strategy or NoSymmetry())])
        self.clip = clip
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        if not self.clip > 0:
            raise ValueError(f"`clip` must be positive, got {self.clip}.")

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
        without parameters, of another crystal than the Hamiltonian's, or that a
        strategy does not fit; and, unless it is traced, for one that does not keep what
        wave functions promise, see [`eqsym.check_wavefunction`][].
        """
        check_crystals(wavefunction, self.hamiltonian)
        parameters = partition(wavefunction)[0]
        if not jax.tree.leaves(parameters):
            raise ValueError(
                "`wavefunction` must have trainable parameters (floating-point arrays "
                f"outside of fixed data), got none in a {type(wavefunction).__name__}."
            )
        draws, chain = jax.random.split(key)
        strategies = tuple(
            strategy.init(wavefunction, key=jax.random.fold_in(draws, i))
            for i, strategy in enumerate(self.schedule.strategies)
        )
        view = self.schedule.strategies[0].view(wavefunction, strategies[0])
        state = VMCState(
            wavefunction,
            self.sampler.init(view, walkers, key=chain),
            self.optimizer.init(parameters),
            strategies,
            jnp.zeros((), int),
            jnp.ones(()),
        )
        if not any(isinstance(x, Tracer) for x in jax.tree.leaves(state)):
            tried = jax.random.fold_in(draws, len(strategies))
            check_wavefunction(wavefunction, key=tried, walkers=walkers)
            check_factors(wavefunction, walkers[:2])
        return state

    def step(self, state: VMCState) -> tuple[VMCState, Statistics]:
        """One training step.

        **Arguments:**

        - `state`: of `init` or of the step before.

        **Returns:**

        `(state, statistics)`: the next state, and what was seen on the way to it.
        """
        return self._at_stage(self._step, state)

    def equilibrate(self, state: VMCState) -> VMCState:
        """Moves the walkers and leaves everything else: a step of the sampler.

        **Arguments:**

        - `state`: of `init` or of the step before.

        **Returns:**

        The state with the walkers moved.
        """

        def move(stage: int, state: VMCState) -> VMCState:
            view = self.schedule.strategies[stage].view(
                state.wavefunction, state.strategies[stage]
            )
            sampler = self.sampler.step(view, state.sampler)
            return eqx.tree_at(lambda s: s.sampler, state, sampler)

        return self._at_stage(move, state)

    def _at_stage(self, function: Callable[[int, VMCState], Any], state: VMCState):
        """`function(stage, state)` with the stage of the schedule that is in use."""
        stages = range(len(self.schedule.strategies))
        if len(stages) == 1:
            return function(0, state)
        arrays, rest = eqx.partition(state, eqx.is_array)
        structure = eqx.filter_eval_shape(lambda: function(0, state))
        _, static = eqx.partition(
            structure, lambda x: isinstance(x, jax.ShapeDtypeStruct)
        )

        def branch(stage: int):
            def at(arrays):
                found = function(stage, eqx.combine(arrays, rest))
                return eqx.filter(found, eqx.is_array)

            return at

        branches = [branch(stage) for stage in stages]
        found = jax.lax.switch(self.schedule.stage(state.step), branches, arrays)
        return eqx.combine(found, static)

    def _step(self, stage: int, state: VMCState) -> tuple[VMCState, Statistics]:
        strategy, wavefunction = self.schedule.strategies[stage], state.wavefunction
        drawn = strategy.step(state.strategies[stage])
        view = strategy.view(wavefunction, drawn)
        sampler = self.sampler.step(view, state.sampler)
        batch = strategy.batch(wavefunction, sampler.walkers, drawn)
        energies = chunked_vmap(
            lambda electrons: self.hamiltonian.local_energy(view, electrons),
            batch.walkers,
            self.chunk,
        )
        shares = _shares(energies.total, batch.weights)
        coupling = _normalised(batch.coupling, shares)
        residual, clipped = _residual(energies.total, shares, self.clip, coupling)
        # Where the energy is not finite, derivatives may not be either: another walker
        # takes the place, and counts for nothing.
        present = batch.walkers[jnp.argmax(shares)]
        # Of the bare wave function, scores know how to take its layers apart.
        scores = Scores(
            wavefunction,
            jnp.where(shares[:, None, None] > 0, batch.walkers, present[None]),
            shares,
            None if view is wavefunction else lambda f: strategy.view(f, drawn),
        )
        update, optimizer = self.optimizer.step(scores, residual, state.optimizer)
        update = jax.tree.map(lambda x: state.scale.astype(x.dtype) * x, update)
        retries = optimizer.retries
        parameters, rest = partition(wavefunction)
        moved = eqx.apply_updates(parameters, update)
        good = jnp.any(shares > 0) & _all_finite((moved, optimizer))
        parameters, optimizer = _select(
            good, (moved, optimizer), (parameters, state.optimizer)
        )
        updated = combine(parameters, rest)
        statistics = _statistics(
            energies,
            shares,
            coupling,
            self.hamiltonian.crystal.cells,
            sampler=sampler,
            clipped=clipped,
            invalid=jnp.sum(~_valid(energies.total, batch.weights)),
            dropped=batch.dropped,
            retries=retries,
            rejected=(~good).astype(int),
        )
        strategies = tuple(
            drawn if i == stage else other for i, other in enumerate(state.strategies)
        )
        following = VMCState(
            updated, sampler, optimizer, strategies, state.step + 1, state.scale
        )
        return _spread(following), statistics


def _spread(state: VMCState) -> VMCState:
    """Where [`eqsym.run`][] puts it: walkers over devices, the rest on each of them."""
    walkers = spread(state.sampler.walkers, WALKERS)
    arrays, rest = eqx.partition(state, eqx.is_array)
    state = eqx.combine(jax.tree.map(spread, arrays), rest)
    return eqx.tree_at(lambda s: s.sampler.walkers, state, walkers)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _select(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(
        lambda a, b: jnp.where(condition, a, b) if eqx.is_array(a) else a, new, old
    )


def _valid(
    energies: Inexact[Array, " walkers"], weights: Float[Array, " walkers"] | None
) -> Bool[Array, " walkers"]:
    finite = jnp.isfinite(energies)
    return finite if weights is None else finite & jnp.isfinite(weights)


def _shares(
    energies: Inexact[Array, " walkers"], weights: Float[Array, " walkers"] | None
) -> Float[Array, " walkers"]:
    """Shares of the walkers, 0 without a finite energy; they add up to 1."""
    valid = _valid(energies, weights)
    shares = valid.astype(energies.real.dtype)
    if weights is not None:
        shares = jnp.where(valid, weights.astype(shares.dtype), 0.0)
    total = jnp.sum(shares)
    return shares / jnp.where(total > 0, total, 1.0)


def _normalised(
    coupling: Coupling | None, shares: Float[Array, " walkers"]
) -> Coupling | None:
    """With matrices that add up to 1, 0 for walkers without a share. Not finite where
    the weight of the projection, as sampled, is not positive: then no update is."""
    if coupling is None:
        return None
    matrices = coupling.matrices
    present = (shares > 0).reshape(matrices.shape[:2])
    both = present[:, :, None] & present[:, None]
    matrices = jnp.where(both, matrices, jnp.zeros_like(matrices))
    total = jnp.sum(matrices.real)
    scale = 1 / jnp.where(total > 0, total, jnp.nan)
    return Coupling(matrices * scale.astype(matrices.dtype), coupling.share)


def _residual(
    energies: Inexact[Array, " walkers"],
    shares: Float[Array, " walkers"],
    clip: float,
    coupling: Coupling | None = None,
) -> tuple[Inexact[Array, " walkers"], Float[Array, ""]]:
    """Clipped and centred energies times the square root of the walkers' shares, and
    the share that was clipped. Walkers without a finite energy get 0. `coupling` is
    normalised."""
    limited, clipped = _limited(energies, shares, clip)
    root = jnp.sqrt(shares).astype(limited.dtype)
    centred = jnp.where(shares > 0, limited - _mean(limited, shares), 0.0) * root
    if coupling is None:
        return centred, clipped
    matrices, share = coupling.matrices.astype(limited.dtype), coupling.share
    blocks = limited.reshape(matrices.shape[0], 1, matrices.shape[2])
    mean = jnp.sum(matrices * blocks)
    coupled = jnp.sum(matrices * (blocks - mean), axis=2).reshape(-1)
    coupled /= jnp.where(shares > 0, root, 1.0)
    return share * centred + (1 - share) * coupled, clipped


def _limited(
    energies: Inexact[Array, " walkers"],
    shares: Float[Array, " walkers"],
    clip: float,
) -> tuple[Inexact[Array, " walkers"], Float[Array, ""]]:
    """Energies over their median, clipped, 0 where they are not finite, and the share
    that was clipped."""
    if jnp.iscomplexobj(energies):
        real, clipped = _limited(energies.real, shares, clip)
        imaginary, _ = _limited(energies.imag, shares, clip)
        return jax.lax.complex(real, imaginary), clipped
    valid = jnp.isfinite(energies)
    centre = jnp.nanmedian(jnp.where(valid, energies, jnp.nan))
    deviation = jnp.where(valid, energies - centre, 0.0)
    bound = clip * _mean(jnp.abs(deviation), shares)
    outside = (jnp.abs(deviation) > bound).astype(shares.dtype)
    return jnp.clip(deviation, -bound, bound), _mean(outside, shares)


def _mean(values: Array, shares: Inexact[Array, " walkers"]) -> Array:
    present = jnp.where(shares != 0, values, jnp.zeros_like(values))
    dtype = np.promote_types(values.dtype, shares.dtype)
    return jnp.sum(shares.astype(dtype) * present.astype(dtype))


def _statistics(
    energies: LocalEnergy,
    shares: Float[Array, " walkers"],
    coupling: Coupling | None,
    cells: int,
    *,
    sampler: AbstractSamplerState,
    clipped: Float[Array, ""],
    invalid: Int[Array, ""],
    dropped: Int[Array, ""],
    retries: Int[Array, ""],
    rejected: Int[Array, ""],
) -> Statistics:
    total = energies.total / cells
    centre = _mean(total, shares).real.astype(total.dtype)
    # What each energy adds to the objective.
    parts = shares
    if coupling is not None:
        coupled = jnp.sum(coupling.matrices, axis=1).reshape(-1)
        plain = coupling.share * shares
        parts = plain.astype(coupled.dtype) + (1 - coupling.share) * coupled
    energy = _mean(total, parts)
    square = jnp.sum(shares**2) * len(shares)

    def mean(value: Float[Array, ""]) -> Float[Array, ""]:
        """Over nobody it is no number."""
        return jnp.where(square > 0, value, jnp.nan)

    return Statistics(
        energy=mean(energy.real),
        variance=mean(_mean(jnp.abs(total - centre) ** 2, shares)),
        imaginary=mean(energy.imag),
        kinetic=mean(_mean(energies.kinetic / cells, parts).real),
        potential=mean(_mean(energies.potential / cells, parts).real),
        acceptance=sampler.acceptance,
        exchanged=sampler.exchanged,
        hopped=sampler.hopped,
        clipped=clipped,
        effective=jnp.where(square > 0, 1 / jnp.maximum(square, 1.0), 0.0),
        invalid=invalid,
        dropped=dropped,
        replaced=sampler.replaced,
        retries=retries,
        rejected=rejected,
    )
