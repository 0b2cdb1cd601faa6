"""The training step of variational Monte Carlo, its state and its statistics."""

from numbers import Real
from types import FunctionType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int

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
)
from .._storage import is_known
from .._wavefunction import AbstractWavefunction, check_derived
from .kfac import check_layers
from .methods import pure
from .optimizer import AbstractOptimizer, AbstractOptimizerState
from .sampler import AbstractSampler, AbstractSamplerState
from .scores import Scores
from .statistics import (
    normalized,
    residual_of,
    shares_of,
    Statistics,
    statistics_of,
    valid_walkers,
)
from .strategy import AbstractStrategy, check_strategy, PlainTraining
from .taps import check_factors


class VMCState(AbstractModule):
    """Everything that changes during training, and everything that a checkpoint holds.

    - `wavefunction`: as trained so far.
    - `sampler`: state of the sampler, with the walkers and their key.
    - `optimizer`: state of the optimizer.
    - `strategy`: state of the strategy, with what it drew for the last step.
    - `step`: steps taken.
    - `scale`: factor of the updates: 1, or less in a run that diverged and went back.
    - `key`: seeds local energies that are random.
    """

    wavefunction: AbstractWavefunction
    sampler: AbstractSamplerState
    optimizer: AbstractOptimizerState
    strategy: Any
    step: Int[Array, ""]
    scale: Float[Array, ""]
    key: Key


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
                FunctionType: (
                    "Call it and wrap it, as in `eqs.Optax(optax.adam(1e-3))`."
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
        strategy or optimizer do not fit.
        """
        check_crystals(wavefunction, self.hamiltonian)
        if not jax.tree.leaves(partition(wavefunction)[0]):
            raise ValueError(
                "`wavefunction` must have trainable parameters (floating-point arrays "
                f"outside of fixed data), got none in a {type(wavefunction).__name__}."
            )
        first_draw(self, wavefunction, key=key)
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
        - `key`: seeds sampler, strategy, and local energies that are random.
        - `check`: whether to call `check` first. Under `jax.jit` it is never called.

        **Returns:**

        The state before the first step.

        **Raises:** `ValueError` as `check` does.
        """
        check_derived(wavefunction)
        draws, chain = jax.random.split(random_key(key))
        drawn, tried, energies = (jax.random.fold_in(draws, i) for i in range(3))
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
            energies,
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

        **Raises:** `ValueError` if the strategy does not fit the wave function, or the
        optimizer what the strategy makes of it.
        """
        return VMCState(
            state.wavefunction,
            state.sampler,
            state.optimizer,
            first_draw(self, state.wavefunction, key=random_key(key)),
            state.step,
            state.scale,
            state.key,
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
        key = jax.random.fold_in(state.key, state.step)
        keys = jax.random.split(key, len(batch.walkers))
        energies = chunked_vmap(
            lambda pair: self.hamiltonian.local_energy(view, pair[0], key=pair[1]),
            (batch.walkers, keys),
            self.chunk,
        )
        shares = shares_of(energies.total, batch.weights)
        coupling = normalized(batch.coupling, shares)
        residual, clipped = residual_of(energies.total, shares, self.clip, coupling)
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
        statistics = statistics_of(
            energies,
            shares,
            coupling,
            self.hamiltonian.crystal.cells,
            sampler=sampler,
            clipped_share=clipped,
            invalid_energies=jnp.sum(~valid_walkers(energies.total, batch.weights)),
            dropped_terms=batch.dropped_terms,
            solver_retries=retries,
            rejected_update=(~good).astype(int),
        )
        following = VMCState(
            updated,
            sampler,
            optimizer,
            drawn,
            state.step + 1,
            state.scale,
            state.key,
        )
        return _spread(following), statistics


def first_draw(vmc: VMC, wavefunction: AbstractWavefunction, *, key: Key) -> Any:
    """The state of the strategy before its first step.

    **Raises:** `ValueError` if the strategy does not fit the wave function, or the
    optimizer what the strategy makes of it.
    """
    drawn = vmc.strategy.init(wavefunction, key=key)
    view = vmc.strategy.view(wavefunction, drawn)
    check_layers(vmc.optimizer, wavefunction, is_bare=view is wavefunction)
    return drawn


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
