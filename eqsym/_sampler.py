"""Markov chains over electron configurations."""

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ._ansatz import AbstractWavefunction
from ._crystal import Crystal
from ._math import full_precision
from ._types import Integer, Key, Walkers, whole_number


# What is said of walkers that a step replaced, with their number.
REPLACED = "{} walkers without a finite amplitude were replaced by others."
# In Bohr; where no move is accepted the width would otherwise shrink to nothing.
_NARROWEST = 1e-4


class AbstractSamplerState(eqx.Module):
    """What every sampler remembers between steps: the walkers, the accepted share of
    the moves of the last step, and how many walkers were replaced in it."""

    walkers: eqx.AbstractVar[Walkers]
    acceptance: eqx.AbstractVar[Float[Array, ""]]
    replaced: eqx.AbstractVar[Int[Array, ""]]


State = TypeVar("State", bound=AbstractSamplerState)


class AbstractSampler(eqx.Module, Generic[State]):
    r"""Draws walkers from $|\psi|^2$."""

    @abc.abstractmethod
    def init(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> State:
        """**Arguments:**

        - `wavefunction`: the wave function to sample.
        - `walkers`: first configurations in Bohr, (walkers, electrons, 3); for example
            of [`eqsym.initial_walkers`][].
        - `key`: seeds the chain; afterwards it is part of the state.

        **Returns:**

        The state at the start of the chain.

        **Raises:** `ValueError` for walkers of the wrong shape.
        """

    @abc.abstractmethod
    def step(self, wavefunction: AbstractWavefunction, state: State) -> State:
        """**Arguments:**

        - `wavefunction`: the wave function to sample; it may have changed since.
        - `state`: of `init` or of the step before.

        **Returns:**

        The state further down the chain.
        """


class MetropolisState(AbstractSamplerState):
    """State of [`eqsym.Metropolis`][].

    - `walkers`: configurations in Bohr, wrapped into the supercell.
    - `acceptance`: accepted share of the moves of the last step.
    - `width`: standard deviation of the moves in Bohr.
    - `replaced`: walkers that the last step replaced.
    - `key`: for the moves to come.
    """

    walkers: Walkers
    acceptance: Float[Array, ""]
    width: Float[Array, ""]
    replaced: Int[Array, ""]
    key: Key


class Metropolis(AbstractSampler[MetropolisState]):
    """Metropolis moves of all electrons at once, normal with a width that adapts.

    After every step the width is multiplied by `exp(acceptance - target)`, but stays
    between 1e-4 Bohr and the cell. The acceptance is an average over all walkers and
    moves, so that a single walker hardly feels what it did to the width.

    A walker on a node, or where the amplitude is NaN or infinite, takes the first move
    to a finite one. Where no move of a step led to one, the walker is replaced by a
    copy of the next walker that has a finite amplitude, and counted.
    """

    moves: int = eqx.field(static=True)
    width: float
    target: float

    def __init__(self, moves: Integer = 20, *, width: float = 0.3, target: float = 0.5):
        """**Arguments:**

        - `moves`: moves in one step.
        - `width`: first standard deviation of the moves, per coordinate, in Bohr.
        - `target`: the acceptance that the width adapts to.

        **Raises:** `ValueError` for fewer than one move, a width that is not positive
        or a target that is not between 0 and 1.
        """
        self.moves = whole_number("moves", moves, 1)
        self.width = width
        self.target = target

    def __check_init__(self):
        if not self.width > 0:
            raise ValueError(f"`width` must be positive (Bohr), got {self.width}.")
        if not 0 < self.target < 1:
            raise ValueError(f"`target` must be between 0 and 1, got {self.target}.")

    def init(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> MetropolisState:
        check_walkers(wavefunction.crystal, walkers)
        dtype = walkers.dtype
        return MetropolisState(
            _wrap(wavefunction.crystal, walkers),
            jnp.zeros((), dtype),
            jnp.asarray(self.width, dtype),
            jnp.zeros((), int),
            key,
        )

    @full_precision()
    def step(
        self, wavefunction: AbstractWavefunction, state: MetropolisState
    ) -> MetropolisState:
        dtype = state.walkers.dtype
        amplitudes = jax.vmap(lambda electrons: wavefunction(electrons).log)
        key, subkey = jax.random.split(state.key)

        def move(carry, key):
            walkers, log, accepted = carry
            normal, uniform = jax.random.split(key)
            proposal = walkers + state.width * jax.random.normal(
                normal, walkers.shape, dtype
            )
            new = amplitudes(proposal)
            ratio = 2 * (new - log)
            threshold = jnp.log(jax.random.uniform(uniform, ratio.shape, dtype))
            # NaN and infinite amplitudes are never moved to, always moved away from.
            accept = ((ratio > threshold) | ~(log < jnp.inf)) & (new < jnp.inf)
            walkers = jnp.where(accept[:, None, None], proposal, walkers)
            log = jnp.where(accept, new, log)
            return (walkers, log, accepted + accept.astype(dtype)), None

        log = amplitudes(state.walkers)
        # Counted walker by walker and averaged at the end: walkers on different devices
        # need not meet before that.
        start = (state.walkers, log, jnp.zeros_like(log))
        keys = jax.random.split(subkey, self.moves)
        (walkers, log, accepted), _ = jax.lax.scan(move, start, keys)
        walkers, replaced = _replaced(walkers, log)
        acceptance = jnp.mean(accepted) / self.moves
        width = state.width * jnp.exp(acceptance - self.target)
        # Wider than the cell is uniform already.
        largest = float(np.max(wavefunction.crystal.supercell.heights))
        return MetropolisState(
            _wrap(wavefunction.crystal, walkers),
            acceptance,
            jnp.clip(width, _NARROWEST, largest),
            replaced,
            key,
        )


def _replaced(
    walkers: Walkers, log: Float[Array, " walkers"]
) -> tuple[Walkers, Int[Array, ""]]:
    """Walkers with copies in the place of those without a finite amplitude, and how
    many; all as they are where none has one."""
    finite = jnp.isfinite(log)

    def copies(walkers):
        places = jnp.arange(len(log))
        # The next one with an amplitude, around the end.
        twice = jnp.concatenate([finite, finite])
        ahead = jnp.where(twice, jnp.arange(len(twice)), len(twice))
        following = jax.lax.cummin(ahead, reverse=True)[: len(log)] % len(log)
        return walkers[jnp.where(finite, places, following)]

    bad = jnp.sum(~finite)
    some = (bad > 0) & jnp.any(finite)
    # Walkers on different devices meet only where there is a reason to.
    walkers = jax.lax.cond(some, copies, lambda walkers: walkers, walkers)
    return walkers, jnp.where(some, bad, 0)


def _wrap(crystal: Crystal, walkers: Walkers) -> Walkers:
    """Into the supercell: changes psi by a phase, which sampling does not see, and
    keeps float32 coordinates precise."""
    lattice = crystal.supercell
    vectors = jnp.asarray(lattice.vectors, walkers.dtype)
    inverse = jnp.asarray(np.linalg.inv(lattice.vectors), walkers.dtype)
    return walkers - jnp.floor(walkers @ inverse) @ vectors


def check_walkers(crystal: Crystal, walkers: Walkers) -> None:
    """Raises `ValueError` where walkers do not fit the electrons of a crystal."""
    n = sum(crystal.electrons)
    if walkers.ndim != 3 or walkers.shape[0] < 1 or walkers.shape[1:] != (n, 3):
        raise ValueError(
            f"`walkers` must have shape (walkers, {n}, 3) with at least one walker, "
            f"for {crystal.electrons[0]} spin-up and {crystal.electrons[1]} spin-down "
            f"electrons, got {tuple(walkers.shape)}."
        )


def initial_walkers(
    crystal: Crystal, count: Integer, *, key: Key, spread: float = 1.0
) -> Walkers:
    """First configurations: every nucleus gets its electrons, spins alternating, in
    normal clouds.

    **Arguments:**

    - `crystal`: whose electrons to place.
    - `count`: number of walkers.
    - `key`: seeds the positions, and for every walker which electron goes where.
    - `spread`: standard deviation of the clouds in Bohr.

    **Returns:**

    Positions in Bohr, (walkers, electrons, 3), in the default floating-point type.

    **Raises:** `ValueError` for fewer than one walker.
    """
    count = whole_number("count", count, 1, of="walker")
    sites = _sites(crystal)
    shuffle, cloud = jax.random.split(key)
    centres = jnp.asarray(crystal.supercell_positions)[sites]
    n_up = crystal.electrons[0]

    def permuted(key):
        up, down = jax.random.split(key)
        return jnp.concatenate(
            [
                jax.random.permutation(up, centres[:n_up]),
                jax.random.permutation(down, centres[n_up:]),
            ]
        )

    placed = jax.vmap(permuted)(jax.random.split(shuffle, count))
    return placed + spread * jax.random.normal(cloud, placed.shape)


def _sites(crystal: Crystal) -> np.ndarray:
    """The nucleus of every electron, spin-up electrons first."""
    charges = crystal.supercell_charges
    n_up, n_down = crystal.electrons
    # Missing electrons are taken from one nucleus after another, surplus ones given.
    counts = charges.copy()
    step = 1 if sum(crystal.electrons) > counts.sum() else -1
    nucleus = 0
    while counts.sum() != sum(crystal.electrons):
        if counts[nucleus % len(counts)] + step >= 0:
            counts[nucleus % len(counts)] += step
        nucleus += 1
    electrons = np.repeat(np.arange(len(counts)), counts)
    up, down = list(electrons[0::2]), list(electrons[1::2])
    while len(up) > n_up:
        down.append(up.pop())
    while len(down) > n_down:
        up.append(down.pop())
    return np.array(up + down, dtype=int)
