"""The training step of variational Monte Carlo, its state and its statistics."""

from numbers import Real
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Inexact, Int

from .._core import (
    AbstractModule,
    check_chunk,
    check_kind,
    checked,
    checked_but,
    chunked_vmap,
    combine,
    full_precision,
    Integer,
    Key,
    partition,
    random_key,
    spread,
    WALKERS,
    Walkers,
)
from .._crystal import Crystal
from .._hamiltonian import (
    AbstractHamiltonian,
    check_crystals,
    check_wavefunction,
    Hamiltonian,
    HessianLaplacian,
    LocalEnergy,
)
from .._storage import is_known
from .._wavefunction import AbstractWavefunction, check_derived
from .methods import pure
from .optimizer import AbstractOptimizer, AbstractOptimizerState
from .sampler import AbstractSampler, AbstractSamplerState
from .scores import check_factors, Scores
from .strategy import AbstractStrategy, check_strategy, Coupling, PlainTraining


class VMCState(AbstractModule):
    """Everything that changes during training, and everything that a checkpoint holds.

    - `wavefunction`: as trained so far.
    - `sampler`: state of the sampler, with the walkers and their key.
    - `optimizer`: state of the optimizer.
    - `strategy`: state of the strategy, with what it drew for the last step.
    - `step`: steps taken.
    - `scale`: factor of the updates: 1, or less in a run that diverged and went back.
    """

    wavefunction: AbstractWavefunction
    sampler: AbstractSamplerState
    optimizer: AbstractOptimizerState
    strategy: Any
    step: Int[Array, ""]
    scale: Float[Array, ""]


class Statistics(AbstractModule):
    """Shows how training goes: numbers of one step, one column of `history.csv` each.

    Energies are in Hartree per primitive cell. They are NaN if no walker had a finite
    energy and a finite weight; all but the variance also if the weight of a projection
    in training, as sampled, is not positive.

    - `energy`: mean local energy, real part. In [`eqsym.ProjectedTraining`][] the
        objective, a mean of two energies.
    - `variance`: variance of the local energy per primitive cell, in Hartree squared.
    - `imaginary_energy`: imaginary part of the mean whose real part is `energy`.
    - `kinetic`, `potential`: the two parts of `energy`.
    - `acceptance`: accepted share of the moves, without exchanges and hops.
    - `exchange_acceptance`: accepted share of the exchanges of a spin-up and a
        spin-down electron, 0 if there were none.
    - `hop_acceptance`: accepted share of the hops of an electron between nuclei, 0 if
        there were none.
    - `clipped_share`: share of the walkers whose local energy was clipped in the
        gradient.
    - `effective_share`: $(\\sum w)^2 / (n \\sum w^2)$ with the importance weights w of
        the n walkers: the share of walkers that would tell as much if all weighed the
        same. 1 without weights.
    - `invalid_energies`: number of walkers with a local energy or an importance weight
        that is not finite; of images, if the strategy trains on images. They are left
        out of all means and of the gradient.
    - `dropped_terms`: images with non-zero weight that a bound on their number left
        out, over all walkers.
    - `replaced_walkers`: number of walkers that the sampler replaced because their
        amplitude was not finite.
    - `solver_retries`: how often the optimizer had to solve its equations again with
        more damping, because the Gram matrix was singular to rounding.
    - `rejected_update`: 1 if parameters and optimizer stayed as they were, because the
        new parameters were not finite, no walker had a finite energy and weight, or the
        weight of the projection was not positive. Else 0.
    """

    energy: Float[Array, ""]
    variance: Float[Array, ""]
    imaginary_energy: Float[Array, ""]
    kinetic: Float[Array, ""]
    potential: Float[Array, ""]
    acceptance: Float[Array, ""]
    exchange_acceptance: Float[Array, ""]
    hop_acceptance: Float[Array, ""]
    clipped_share: Float[Array, ""]
    effective_share: Float[Array, ""]
    invalid_energies: Int[Array, ""]
    dropped_terms: Int[Array, ""]
    replaced_walkers: Int[Array, ""]
    solver_retries: Int[Array, ""]
    rejected_update: Int[Array, ""]


class VMC(AbstractModule):
    r"""Trains a wave function by variational Monte Carlo, as `init` and `step`.

    One step moves the walkers, evaluates their local energies $E_L$ and hands the
    residual $E_L - \langle E_L \rangle$ to the optimizer, clipped to `clip` mean
    absolute deviations from the median, real and imaginary parts apart. Clipping
    affects the gradient, never the energies reported. All methods are pure: jit `step`
    with `eqx.filter_jit` and call it in a loop, or let [`eqsym.run`][] do so. `jax.jit`
    works too, if the wave function holds nothing but arrays and static data.

    The strategy says how symmetry is used in training. Energies are expectation values
    of the function that it trains; the parameters are always the ones of the bare wave
    function. To change the strategy in a loop of your own, go on with another `VMC`:

    ```python
    vmc = eqs.VMC(hamiltonian, sampler, optimizer, strategy=another)
    state = vmc.adopt(state, key=key)
    ```
    """

    hamiltonian: AbstractHamiltonian
    sampler: AbstractSampler
    optimizer: AbstractOptimizer
    strategy: AbstractStrategy
    clip: float
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        hamiltonian: AbstractHamiltonian,
        sampler: AbstractSampler,
        optimizer: AbstractOptimizer,
        *,
        strategy: AbstractStrategy | None = None,
        clip: float = 5.0,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `hamiltonian`: gives the local energies.
        - `sampler`: moves the walkers.
        - `optimizer`: updates the parameters.
        - `strategy`: how symmetry is used, [`eqsym.PlainTraining`][] by default.
        - `clip`: in mean absolute deviations from the median.
        - `chunk`: walkers whose local energies are evaluated at a time, all by default.

        **Raises:** `ValueError` for arguments of the wrong kind, with what to type
        instead, and for `clip` or `chunk` that are not positive.
        """
        self.hamiltonian = hamiltonian
        self.sampler = sampler
        self.optimizer = optimizer
        self.strategy = PlainTraining() if strategy is None else strategy
        self.clip = clip
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        exchanged = "Sampler and optimizer are exchanged: the sampler comes first."
        check_kind(
            "hamiltonian",
            self.hamiltonian,
            AbstractHamiltonian,
            "a Hamiltonian, such as `eqs.Hamiltonian(crystal)`",
            {
                Crystal: "Make one of it: `eqs.Hamiltonian(crystal)`.",
                AbstractWavefunction: "The wave function comes later, in `eqs.run`.",
            },
        )
        check_kind(
            "sampler",
            self.sampler,
            AbstractSampler,
            "a sampler, such as `eqs.Metropolis()`",
            {AbstractOptimizer: exchanged},
        )
        check_kind(
            "optimizer",
            self.optimizer,
            AbstractOptimizer,
            "an optimizer, such as `eqs.Spring()`",
            {
                optax.GradientTransformation: (
                    "Wrap it in `eqs.Optax`, as in `eqs.Optax(optax.adam(1e-3))`."
                ),
                AbstractSampler: exchanged,
            },
        )
        check_strategy("strategy", self.strategy)
        check_kind("clip", self.clip, Real, "a positive number")
        if not self.clip > 0:
            raise ValueError(f"`clip` must be positive, got {self.clip}.")

    @checked
    def check(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> None:
        """Refuses a wave function that cannot be trained; `init` calls this.

        **Arguments:**

        - `wavefunction`, `walkers`: as for `init`.
        - `key`: seeds the configurations that are tried.

        **Raises:** `ValueError` for walkers of the wrong shape, and for a wave function
        without parameters, of another crystal than the Hamiltonian's, that does not
        keep what wave functions promise, see [`eqsym.check_wavefunction`][], or that
        the strategy does not fit.
        """
        check_crystals(wavefunction, self.hamiltonian)
        if not jax.tree.leaves(partition(wavefunction)[0]):
            raise ValueError(
                "`wavefunction` must have trainable parameters (floating-point arrays "
                f"outside of fixed data), got none in a {type(wavefunction).__name__}."
            )
        self.strategy.init(wavefunction, key=key)
        # Derivatives of this library's functions are tried by its tests.
        own, h = not is_known(wavefunction), self.hamiltonian
        kinetic = h.kinetic if isinstance(h, Hamiltonian) else HessianLaplacian()
        check_wavefunction(
            wavefunction, key=key, walkers=walkers, derivatives=own, kinetic=kinetic
        )
        check_factors(wavefunction, walkers[:2])

    @checked_but("wavefunction")
    def init(
        self,
        wavefunction: AbstractWavefunction,
        walkers: Walkers,
        *,
        key: Key,
        check: bool = True,
    ) -> VMCState:
        """**Arguments:**

        - `wavefunction`: to start from.
        - `walkers`: first configurations in Bohr, (walkers, electrons, 3).
        - `key`: seeds sampler and strategy.
        - `check`: whether to call `check` first. Under `jax.jit` it is never called.

        **Returns:**

        The state before the first step.

        **Raises:** `ValueError` as `check` does.
        """
        check_derived(wavefunction)
        draws, chain = jax.random.split(random_key(key))
        drawn, tried = (jax.random.fold_in(draws, i) for i in range(2))
        parameters = partition(wavefunction)[0]
        traced = any(
            isinstance(x, Tracer) for x in jax.tree.leaves((parameters, walkers, key))
        )
        if check and not traced:
            self.check(wavefunction, walkers, key=tried)
        strategy = self.strategy.init(wavefunction, key=drawn)
        view = self.strategy.view(wavefunction, strategy)
        return VMCState(
            wavefunction,
            self.sampler.init(view, walkers, key=chain),
            self.optimizer.init(parameters),
            strategy,
            jnp.zeros((), int),
            jnp.ones(()),
        )

    @checked
    def adopt(self, state: VMCState, *, key: Key) -> VMCState:
        """Takes over the state of a `VMC` with another strategy: wave function,
        walkers, sampler and optimizer go on as they are, in the same step.

        **Arguments:**

        - `state`: of the other `VMC`, whose sampler and optimizer have the same states.
        - `key`: seeds the draws of the strategy.

        **Returns:**

        The state before the next step.

        **Raises:** `ValueError` if the strategy does not fit the wave function.
        """
        return VMCState(
            state.wavefunction,
            state.sampler,
            state.optimizer,
            self.strategy.init(state.wavefunction, key=random_key(key)),
            state.step,
            state.scale,
        )

    @pure
    @checked
    @full_precision()
    def equilibrate(self, state: VMCState) -> VMCState:
        """Moves the walkers and leaves everything else: a step of the sampler.

        **Arguments:**

        - `state`: of `init` or of the step before.

        **Returns:**

        The state with the walkers moved.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        view = self.strategy.view(state.wavefunction, state.strategy)
        sampler = self.sampler.step(view, state.sampler)
        return eqx.tree_at(lambda s: s.sampler, state, sampler)

    @pure
    @checked
    @full_precision()
    def step(self, state: VMCState) -> tuple[VMCState, Statistics]:
        """One training step.

        **Arguments:**

        - `state`: of `init` or of the step before.

        **Returns:**

        `(state, statistics)`: the next state, and how the step went.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        strategy, wavefunction = self.strategy, state.wavefunction
        drawn = strategy.step(state.strategy)
        view = strategy.view(wavefunction, drawn)
        sampler = self.sampler.step(view, state.sampler)
        batch = strategy.batch(wavefunction, sampler.walkers, drawn)
        energies = chunked_vmap(
            lambda electrons: self.hamiltonian.local_energy(view, electrons),
            batch.walkers,
            self.chunk,
        )
        shares = _shares(energies.total, batch.weights)
        coupling = _normalized(batch.coupling, shares)
        residual, clipped = _residual(energies.total, shares, self.clip, coupling)
        # If the energy is not finite, derivatives may not be either: another walker
        # takes the place, and counts for nothing.
        present = batch.walkers[jnp.argmax(shares)]
        # Scores can take the layers of the bare wave function apart, not of a view.
        scores = Scores(
            wavefunction,
            jnp.where(shares[:, None, None] > 0, batch.walkers, present[None]),
            shares,
            None if view is wavefunction else lambda f: strategy.view(f, drawn),
        )
        update, optimizer = self.optimizer.step(scores, residual, state.optimizer)
        update = jax.tree.map(lambda x: state.scale.astype(x.dtype) * x, update)
        retries = optimizer.solver_retries
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
            clipped_share=clipped,
            invalid_energies=jnp.sum(~_valid(energies.total, batch.weights)),
            dropped_terms=batch.dropped_terms,
            solver_retries=retries,
            rejected_update=(~good).astype(int),
        )
        following = VMCState(
            updated, sampler, optimizer, drawn, state.step + 1, state.scale
        )
        return _spread(following), statistics


def _spread(state: VMCState) -> VMCState:
    """On devices as in [`eqsym.run`][]: walkers spread, the rest on all of them."""
    walkers = spread(state.sampler.walkers, WALKERS)
    arrays, rest = eqx.partition(state, eqx.is_array)
    state = eqx.combine(jax.tree.map(spread, arrays), rest)
    return eqx.tree_at(lambda s: s.sampler.walkers, state, walkers)


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    # Together: one reduction is compiled, and not one for each of dozens of arrays.
    together = [
        jnp.concatenate([leaf.reshape(-1) for leaf in leaves if leaf.dtype == dtype])
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves)
    ]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(flat)) for flat in together]))


def _select(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    # Not by `jnp.where`: XLA would compile all that leads to the condition again for
    # each array.
    new, rest = eqx.partition(new, eqx.is_array)
    old = eqx.filter(old, eqx.is_array)
    found = jax.lax.cond(condition, lambda a, b: a, lambda a, b: b, new, old)
    return eqx.combine(found, rest)


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


def _normalized(
    coupling: Coupling | None, shares: Float[Array, " walkers"]
) -> Coupling | None:
    """With matrices that add up to 1, 0 for walkers without a share. Not finite if the
    weight of the projection, as sampled, is not positive: then no update is."""
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
    """Clipped and centered energies times the square root of the walkers' shares, and
    the share that was clipped. Walkers without a finite energy get 0. `coupling` is
    normalized."""
    limited, clipped = _limited(energies, shares, clip)
    root = jnp.sqrt(shares).astype(limited.dtype)
    centered = jnp.where(shares > 0, limited - _mean(limited, shares), 0.0) * root
    if coupling is None:
        return centered, clipped
    matrices, share = coupling.matrices.astype(limited.dtype), coupling.share
    blocks = limited.reshape(matrices.shape[0], 1, matrices.shape[2])
    mean = jnp.sum(matrices * blocks)
    coupled = jnp.sum(matrices * (blocks - mean), axis=2).reshape(-1)
    coupled /= jnp.where(shares > 0, root, 1.0)
    return share * centered + (1 - share) * coupled, clipped


def _limited(
    energies: Inexact[Array, " walkers"],
    shares: Float[Array, " walkers"],
    clip: float,
) -> tuple[Inexact[Array, " walkers"], Float[Array, ""]]:
    """Energies above their median, clipped, 0 for the ones that are not finite, and
    the share that was clipped."""
    if jnp.iscomplexobj(energies):
        real, clipped = _limited(energies.real, shares, clip)
        imaginary, _ = _limited(energies.imag, shares, clip)
        return jax.lax.complex(real, imaginary), clipped
    valid = jnp.isfinite(energies)
    center = jnp.nanmedian(jnp.where(valid, energies, jnp.nan))
    deviation = jnp.where(valid, energies - center, 0.0)
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
    clipped_share: Float[Array, ""],
    invalid_energies: Int[Array, ""],
    dropped_terms: Int[Array, ""],
    solver_retries: Int[Array, ""],
    rejected_update: Int[Array, ""],
) -> Statistics:
    total = energies.total / cells
    center = _mean(total, shares).real.astype(total.dtype)
    # Factors of the energies in the objective.
    parts = shares
    if coupling is not None:
        coupled = jnp.sum(coupling.matrices, axis=1).reshape(-1)
        plain = coupling.share * shares
        parts = plain.astype(coupled.dtype) + (1 - coupling.share) * coupled
    energy = _mean(total, parts)
    square = jnp.sum(shares**2) * len(shares)

    def mean(value: Float[Array, ""]) -> Float[Array, ""]:
        """Without walkers there is no mean."""
        return jnp.where(square > 0, value, jnp.nan)

    return Statistics(
        energy=mean(energy.real),
        variance=mean(_mean(jnp.abs(total - center) ** 2, shares)),
        imaginary_energy=mean(energy.imag),
        kinetic=mean(_mean(energies.kinetic / cells, parts).real),
        potential=mean(_mean(energies.potential / cells, parts).real),
        acceptance=sampler.acceptance,
        exchange_acceptance=sampler.exchange_acceptance,
        hop_acceptance=sampler.hop_acceptance,
        clipped_share=clipped_share,
        effective_share=jnp.where(square > 0, 1 / jnp.maximum(square, 1.0), 0.0),
        invalid_energies=invalid_energies,
        dropped_terms=dropped_terms,
        replaced_walkers=sampler.replaced_walkers,
        solver_retries=solver_retries,
        rejected_update=rejected_update,
    )
