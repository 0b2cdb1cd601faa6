"""Samplers: Markov chains over electron configurations."""

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._core import (
    AbstractModule,
    checked,
    full_precision,
    Integer,
    Key,
    precise_matmul,
    Walkers,
    whole_number,
)
from .._crystal import Crystal, from_nearest
from .._wavefunction import AbstractWavefunction, check_walkers


# The message about walkers that a step replaced, with their number.
REPLACED = "{} walkers without a finite amplitude were replaced by others."
# In Bohr; without accepted moves the width would otherwise shrink to nothing.
_NARROWEST = 1e-4
# Kinds of moves, in the order in which they are counted.
_NORMAL, _EXCHANGE, _HOP = _KINDS = range(3)


class AbstractSamplerState(AbstractModule):
    """State that every sampler keeps between steps, from which a run takes walkers and
    columns of its history.

    - `walkers`: configurations in Bohr, (walkers, electrons, 3).
    - `acceptance`: accepted share of the moves of the last step, without exchanges and
        hops.
    - `exchange_acceptance`: accepted share of the exchanges of a spin-up and a
        spin-down electron; 0 if the sampler makes none.
    - `hop_acceptance`: accepted share of the hops of an electron between nuclei; 0 if
        the sampler makes none.
    - `replaced_walkers`: walkers that the last step replaced.
    """

    walkers: eqx.AbstractVar[Walkers]
    acceptance: eqx.AbstractVar[Float[Array, ""]]
    exchange_acceptance: eqx.AbstractVar[Float[Array, ""]]
    hop_acceptance: eqx.AbstractVar[Float[Array, ""]]
    replaced_walkers: eqx.AbstractVar[Int[Array, ""]]


State = TypeVar("State", bound=AbstractSamplerState)


class AbstractSampler(AbstractModule, Generic[State]):
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

    Accepted shares are from the last step with a move of that kind, and 0 before it.

    - `walkers`: configurations in Bohr, wrapped into the supercell.
    - `acceptance`: accepted share of the normal moves.
    - `exchange_acceptance`: accepted share of the exchanges.
    - `hop_acceptance`: accepted share of the hops.
    - `width`: standard deviation of the normal moves in Bohr.
    - `replaced_walkers`: walkers that the last step replaced.
    - `key`: for the moves to come.
    """

    walkers: Walkers
    acceptance: Float[Array, ""]
    exchange_acceptance: Float[Array, ""]
    hop_acceptance: Float[Array, ""]
    width: Float[Array, ""]
    replaced_walkers: Int[Array, ""]
    key: Key


class Metropolis(AbstractSampler[MetropolisState]):
    r"""Metropolis moves of all electrons at once, normal with a width that adapts; and
    now and then an exchange of spins or a hop to another nucleus.

    Atoms far apart are islands: no normal move takes an electron from one to another,
    and walkers would keep for ever the spins and charges of the atoms that they start
    with. Two kinds of moves mix them. An exchange swaps the positions of a spin-up and
    a spin-down electron, both chosen uniformly. A hop takes one electron, chosen
    uniformly, from the nucleus I that is nearest to it to another nucleus J of the
    supercell, chosen uniformly, and to the same place beside it: by $R_J - R_I$. It is
    refused if the nearest nucleus then is not J, so that the way back is as likely.
    The kind of every move is drawn for each walker, whatever its configuration is, and
    all kinds are accepted with probability $\min(1, |\psi'/\psi|^2)$ (Metropolis et
    al., J. Chem. Phys. 21, 1087, 1953). So walkers of $|\psi|^2$ stay walkers of it,
    and a move costs one amplitude. If all electrons have one spin there is nothing to
    exchange, and with a single nucleus in the supercell there is nowhere to hop: then
    normal moves get the share.

    After every step the width is multiplied by `exp(acceptance - target)`, but stays
    between 1e-4 Bohr and the cell. The acceptance is an average over the normal moves
    of all walkers, so that the past of a single walker hardly changes its width.

    A walker on a node, or with an amplitude that is NaN or infinite, takes the first
    move to a finite one. If no move of a step led to one, the walker is replaced by a
    copy of the next walker that has a finite amplitude, and counted.

    The state has the fields of [`eqsym.AbstractSamplerState`][], with walkers wrapped
    into the supercell, and `width`, of the next normal moves in Bohr, and `key`, for
    the moves to come.
    """

    moves: int = eqx.field(static=True)
    width: float
    target: float
    exchange: float
    hop: float

    @checked
    def __init__(
        self,
        moves: Integer = 20,
        *,
        width: float = 0.3,
        target: float = 0.5,
        exchange: float = 0.1,
        hop: float = 0.1,
    ):
        """**Arguments:**

        - `moves`: moves in one step, of all kinds.
        - `width`: first standard deviation of the normal moves, per coordinate, in
            Bohr.
        - `target`: the acceptance of normal moves that the width adapts to.
        - `exchange`: share of the moves that are exchanges, on average.
        - `hop`: share of the moves that are hops, on average.

        **Raises:** `ValueError` for fewer than one move, a width that is not positive,
        a target that is not between 0 and 1, and shares that are negative or leave
        nothing for normal moves.
        """
        self.moves = whole_number("moves", moves, 1)
        self.width = width
        self.target = target
        self.exchange = exchange
        self.hop = hop

    def __check_init__(self):
        if not 0 < self.width < np.inf:
            raise ValueError(
                f"`width` must be a positive length in Bohr, got {self.width}."
            )
        if not 0 < self.target < 1:
            raise ValueError(f"`target` must be between 0 and 1, got {self.target}.")
        for name, share in (("exchange", self.exchange), ("hop", self.hop)):
            if not 0 <= share < 1:
                raise ValueError(
                    f"`{name}` must be a share of the moves, at least 0 and less than "
                    f"1, got {share}."
                )
        if not self.exchange + self.hop < 1:
            raise ValueError(
                "`exchange` and `hop` together must be less than 1, so that normal "
                f"moves are left, got {self.exchange} and {self.hop}."
            )

    def init(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> MetropolisState:
        check_walkers(wavefunction.crystal, walkers)
        dtype = walkers.dtype
        return MetropolisState(
            _wrap(wavefunction.crystal, walkers),
            jnp.zeros((), dtype),
            jnp.zeros((), dtype),
            jnp.zeros((), dtype),
            jnp.asarray(self.width, dtype),
            jnp.zeros((), int),
            key,
        )

    @full_precision()
    def step(
        self, wavefunction: AbstractWavefunction, state: MetropolisState
    ) -> MetropolisState:
        dtype, crystal = state.walkers.dtype, wavefunction.crystal
        amplitudes = jax.vmap(lambda electrons: wavefunction(electrons).log)
        key, subkey = jax.random.split(state.key)

        def move(carry, each):
            walkers, log, counts = carry
            first, key = each
            proposal, kind, possible, uniform = self._proposed(
                crystal, walkers, state.width, key
            )
            proposal = jnp.where(first, walkers, proposal)
            new = amplitudes(proposal)
            ratio = 2 * (new - log)
            # NaN and infinite amplitudes are never moved to, always moved away from.
            accept = (ratio > jnp.log(uniform)) | ~(log < jnp.inf)
            accept &= (new < jnp.inf) & possible
            walkers = jnp.where(accept[:, None, None], proposal, walkers)
            log = jnp.where(first | accept, new, log)
            made = (kind[:, None] == jnp.arange(len(_KINDS))[None]) & ~first
            counted = jnp.stack([made, made & accept[:, None]], axis=1)
            return (walkers, log, counts + counted.astype(int)), None

        # Before the moves one that stays, for the amplitudes at the start: the wave
        # function is compiled once.
        log = jax.eval_shape(amplitudes, state.walkers)
        log = jnp.full(log.shape, jnp.inf, log.dtype)
        # Counted walker by walker and summed at the end: walkers on different devices
        # need not meet before that.
        none = jnp.zeros((len(log), 2, len(_KINDS)), int)
        keys = jax.random.split(subkey, self.moves)
        each = jnp.arange(self.moves + 1) == 0, jnp.concatenate([keys[:1], keys])
        (walkers, log, counts), _ = jax.lax.scan(move, (state.walkers, log, none), each)
        walkers, replaced = _replaced(walkers, log)
        made, accepted = jnp.sum(counts, axis=0)
        shares = accepted.astype(dtype) / jnp.maximum(made, 1).astype(dtype)
        before = [state.acceptance, state.exchange_acceptance, state.hop_acceptance]
        shares = jnp.where(made > 0, shares, jnp.stack(before))
        change = jnp.where(made[_NORMAL] > 0, shares[_NORMAL] - self.target, 0)
        # Wider than the cell is uniform already.
        largest = float(np.max(crystal.supercell.heights))
        return MetropolisState(
            _wrap(crystal, walkers),
            shares[_NORMAL],
            shares[_EXCHANGE],
            shares[_HOP],
            jnp.clip(state.width * jnp.exp(change), _NARROWEST, largest),
            replaced,
            key,
        )

    def _proposed(
        self, crystal: Crystal, walkers: Walkers, width: Float[Array, ""], key: Key
    ) -> tuple[
        Walkers,
        Int[Array, " walkers"],
        Bool[Array, " walkers"],
        Float[Array, " walkers"],
    ]:
        """Where walkers would move, the kinds of these moves, and which of them can be
        accepted at all; and numbers between 0 and 1 that decide about the others."""
        dtype, shape = walkers.dtype, walkers.shape[:1]
        draw, decide = jax.random.split(key)
        normal, choice, swap, jump = jax.random.split(draw, 4)
        proposal = walkers + width * jax.random.normal(normal, walkers.shape, dtype)
        # Draws of one kind together: the generator is compiled once for all of them.
        uniform, decision = jax.vmap(lambda key: jax.random.uniform(key, shape, dtype))(
            jnp.stack([choice, decide])
        )
        (n_up, n_down), nuclei = crystal.electrons, len(crystal.supercell_positions)
        keys = jax.vmap(jax.random.split)(jnp.stack([swap, jump])).reshape(-1)
        least = jnp.array([0, 0, 0, 1])
        beyond = jnp.array([max(n_up, 1), max(n_down, 1), n_up + n_down, nuclei])
        up, down, electron, turn = jax.vmap(
            lambda key, least, beyond: jax.random.randint(key, shape, least, beyond)
        )(keys, least, jnp.maximum(beyond, least + 1))
        kind, possible = jnp.full(shape, _NORMAL), jnp.ones(shape, bool)
        if n_up and n_down:
            chosen = uniform < self.exchange
            exchanged = _exchanged(walkers, up, n_up + down)
            proposal = jnp.where(chosen[:, None, None], exchanged, proposal)
            kind = jnp.where(chosen, _EXCHANGE, kind)
        if nuclei > 1:
            chosen = uniform >= 1 - self.hop
            hopped, arrived = _hopped(crystal, walkers, electron, turn)
            proposal = jnp.where(chosen[:, None, None], hopped, proposal)
            kind = jnp.where(chosen, _HOP, kind)
            possible = ~chosen | arrived
        return proposal, kind, possible, decision


def _exchanged(
    walkers: Walkers, up: Int[Array, " walkers"], down: Int[Array, " walkers"]
) -> Walkers:
    """With the positions of a spin-up and a spin-down electron swapped."""
    first, one = _chosen(walkers, up)
    second, other = _chosen(walkers, down)
    swapped = jnp.where(first, other[:, None], walkers)
    return jnp.where(second, one[:, None], swapped)


def _hopped(
    crystal: Crystal,
    walkers: Walkers,
    electron: Int[Array, " walkers"],
    turn: Int[Array, " walkers"],
) -> tuple[Walkers, Bool[Array, " walkers"]]:
    """With one electron moved from its nucleus to the one that comes so many places
    later, and whether that one is then the nearest."""
    positions = jnp.asarray(crystal.supercell_positions, walkers.dtype)
    mask, place = _chosen(walkers, electron)
    origin = _nearest_nucleus(crystal, place)
    target = (origin + turn) % len(positions)
    landed = place + positions[target] - positions[origin]
    arrived = _nearest_nucleus(crystal, landed) == target
    return jnp.where(mask, landed[:, None], walkers), arrived


def _chosen(
    walkers: Walkers, electron: Int[Array, " walkers"]
) -> tuple[Bool[Array, "walkers electrons 1"], Float[Array, "walkers 3"]]:
    """Marks one electron of each walker, and gives its position. Without indexing, so
    that walkers on different devices need not meet."""
    mask = (electron[:, None] == jnp.arange(walkers.shape[1])[None])[:, :, None]
    return mask, jnp.sum(jnp.where(mask, walkers, 0), axis=1)


def _nearest_nucleus(
    crystal: Crystal, places: Float[Array, "walkers 3"]
) -> Int[Array, " walkers"]:
    """The nucleus of the supercell that is nearest to each point."""
    positions = jnp.asarray(crystal.supercell_positions, places.dtype)
    apart = places[:, None] - positions[None]
    apart = jax.vmap(lambda points: from_nearest(crystal.supercell, points))(apart)
    return jnp.argmin(jnp.sum(apart**2, axis=-1), axis=1)


def _replaced(
    walkers: Walkers, log: Float[Array, " walkers"]
) -> tuple[Walkers, Int[Array, ""]]:
    """Walkers with copies in the place of walkers without a finite amplitude, and how
    many; all as they are if none has one."""
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
    # Walkers on different devices meet only if there is a reason to.
    walkers = jax.lax.cond(some, copies, lambda walkers: walkers, walkers)
    return walkers, jnp.where(some, bad, 0)


def _wrap(crystal: Crystal, walkers: Walkers) -> Walkers:
    """Into the supercell: changes psi by a phase, which sampling does not see, and
    keeps float32 coordinates precise."""
    lattice = crystal.supercell
    vectors = jnp.asarray(lattice.vectors, walkers.dtype)
    inverse = jnp.asarray(np.linalg.inv(lattice.vectors), walkers.dtype)
    cells = jnp.floor(precise_matmul(walkers, inverse))
    return walkers - precise_matmul(cells, vectors)
