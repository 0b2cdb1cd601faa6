"""Strategies: ways to use symmetry in training."""

import abc
import functools
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from .._core import (
    AbstractModule,
    check_chunk,
    check_kind,
    checked,
    checked_but,
    chunked_vmap,
    Electrons,
    Integer,
    Key,
    Walkers,
    whole_number,
)
from .._group import SpaceGroup
from .._symmetrizer import (
    AbstractRandomSymmetrizer,
    AbstractSymmetrizer,
    check_projection,
    check_subset,
    draw_operations,
    Symmetrized,
)
from .._wavefunction import AbstractWavefunction, amplitude


State = TypeVar("State")


class Coupling(eqx.Module):
    r"""Trains an energy in which the amplitude at one image of a walker meets the local
    energy at another one, in place of a mean over single configurations.

    With the matrices C of all walkers,
    $E_P = \sum_{ij} C_{ij} E_L(y_j) / \sum_{ij} C_{ij}$, and half its derivative by the
    parameters is $\mathrm{Re} \sum_{ij} \overline{O(y_i)}\, C_{ij} (E_L(y_j) - E_P)
    / \sum_{ij} C_{ij}$ with the scores $O = \partial_\theta \log f$. The objective is
    `share` times the energy of f plus `1 - share` times $E_P$.

    - `matrices`: one Hermitian matrix for each walker.
    - `share`: from 0 to 1.
    """

    matrices: Inexact[Array, "walkers images images"]
    share: float


class Batch(AbstractModule):
    r"""The configurations over which one training step averages energies and gradients.

    - `walkers`: configurations in Bohr, (walkers, electrons, 3); if they are images of
        walkers, the images of the first walker come first, and so on.
    - `weights`: their importance weights, or `None` if all weigh the same.
    - `dropped_terms`: images with non-zero weight that a bound on their number left
        out, over all walkers.
    - `coupling`: of images of the same walker, if the objective is not a mean over
        single configurations; [`eqsym.ProjectedTraining`][] has one. A Module with two
        fields: `matrices`, a Hermitian matrix C for each walker, (walkers, images,
        images), and `share`, from 0 to 1. The objective is `share` times the energy of
        the function plus `1 - share` times
        $\sum_{ij} C_{ij} E_L(y_j) / \sum_{ij} C_{ij}$.
    """

    walkers: Walkers
    weights: Float[Array, " walkers"] | None = None
    dropped_terms: Int[Array, ""] = eqx.field(
        default_factory=lambda: jnp.zeros((), int)
    )
    coupling: Coupling | None = None


class Cost(NamedTuple):
    """The price of one training step for each walker, in evaluations of the bare wave
    function.

    - `amplitudes`: in Metropolis moves and for importance weights.
    - `local_energies`: evaluations with gradient and Laplacian by the electrons.
    - `gradients`: by the parameters.
    """

    amplitudes: int
    local_energies: int
    gradients: int


class AbstractStrategy(AbstractModule, Generic[State]):
    """How a training step uses symmetry: the third component of [`eqsym.VMC`][] next to
    sampler and optimizer.

    The trained parameters are always the ones of the bare wave function f. A strategy
    says which function of f is sampled and differentiated, and turns walkers into the
    configurations at which energies are evaluated. Random choices are made once per
    step and are part of the state: all Metropolis moves, the energies and the gradient
    see the same ones.
    """

    @abc.abstractmethod
    def init(self, wavefunction: AbstractWavefunction, *, key: Key) -> State:
        """**Arguments:**

        - `wavefunction`: the bare wave function f.
        - `key`: seeds the draws.

        **Returns:**

        The state, with a first draw.

        **Raises:** `ValueError` if the strategy does not fit the wave function.
        """

    @abc.abstractmethod
    def step(self, state: State) -> State:
        """The next draw."""

    @abc.abstractmethod
    def view(
        self, wavefunction: AbstractWavefunction, state: State
    ) -> AbstractWavefunction:
        """The function of f that is sampled and trained in this step."""

    @abc.abstractmethod
    def batch(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, state: State
    ) -> Batch:
        """The configurations for energies and gradients, made of walkers of `view`."""

    @abc.abstractmethod
    def cost(self, moves: int) -> Cost:
        """**Arguments:**

        - `moves`: Metropolis moves per step.

        **Returns:**

        The price of one step, so that strategies can be compared at equal price.
        """


def check_strategy(name: str, value: Any) -> None:
    """**Raises:** `ValueError` that says what to type instead, unless it is a
    strategy."""
    check_kind(
        name,
        value,
        AbstractStrategy,
        "a strategy, such as `eqs.PlainTraining()`",
        {
            SpaceGroup: (
                "To train the average over a group, type "
                "`eqs.SymmetrizedTraining(eqs.GroupAverage(group))`; to average after "
                "training, which we recommend, leave it out here."
            ),
            AbstractRandomSymmetrizer: (
                "Wrap it in `eqs.SymmetrizedTraining`, or a projection in "
                "`eqs.ProjectedTraining`."
            ),
        },
    )


class NoState(eqx.Module):
    """State of a strategy that draws nothing."""


class PlainTraining(AbstractStrategy[NoState]):
    """Trains the bare wave function as it is. Has no state."""

    def init(self, wavefunction: AbstractWavefunction, *, key: Key) -> NoState:
        del wavefunction, key
        return NoState()

    def step(self, state: NoState) -> NoState:
        return state

    def view(
        self, wavefunction: AbstractWavefunction, state: NoState
    ) -> AbstractWavefunction:
        del state
        return wavefunction

    def batch(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, state: NoState
    ) -> Batch:
        del wavefunction, state
        return Batch(walkers)

    def cost(self, moves: int) -> Cost:
        return Cost(moves + 1, 1, 1)


class DrawnSymmetrizer(eqx.Module):
    """The symmetrizer of this step, and the key for the steps to come."""

    symmetrizer: AbstractSymmetrizer
    key: Key


class SymmetrizedTraining(AbstractStrategy[DrawnSymmetrizer]):
    """Trains a wave function that is symmetrized in every evaluation: by group
    averaging ("GA"), smoothed canonicalization ("SC") or projection onto an irrep.

    A random symmetrizer is drawn anew in every step. When the moves of a step begin,
    walkers are then distributed as the function of the step before. The state has the
    fields `symmetrizer`, of this step, and `key`, for the steps to come.
    """

    symmetrizer: AbstractRandomSymmetrizer
    form: Callable[[Any, AbstractSymmetrizer], AbstractWavefunction]

    @checked
    def __init__(
        self,
        symmetrizer: AbstractRandomSymmetrizer,
        form: Callable[[Any, AbstractSymmetrizer], AbstractWavefunction] = Symmetrized,
    ):
        """**Arguments:**

        - `symmetrizer`: symmetrizes, or is what a symmetrizer is drawn from.
        - `form`: makes a wave function of the bare one and a symmetrizer:
            [`eqsym.Symmetrized`][] by default, also as
            `functools.partial(eqsym.Symmetrized, operation_chunk=4)`, or
            [`eqsym.SymmetrizedOrbitals`][].

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        self.symmetrizer = symmetrizer
        self.form = form

    def init(self, wavefunction: AbstractWavefunction, *, key: Key) -> DrawnSymmetrizer:
        group = self.symmetrizer.group
        group.check_crystal(wavefunction.crystal)
        check_projection(wavefunction, group, self.symmetrizer.characters)
        key, subkey = jax.random.split(key)
        state = DrawnSymmetrizer(self.symmetrizer.draw(subkey), key)
        self.view(wavefunction, state)
        return state

    def step(self, state: DrawnSymmetrizer) -> DrawnSymmetrizer:
        key, subkey = jax.random.split(state.key)
        return DrawnSymmetrizer(self.symmetrizer.draw(subkey), key)

    def view(
        self, wavefunction: AbstractWavefunction, state: DrawnSymmetrizer
    ) -> AbstractWavefunction:
        return self.form(wavefunction, state.symmetrizer)

    def batch(
        self,
        wavefunction: AbstractWavefunction,
        walkers: Walkers,
        state: DrawnSymmetrizer,
    ) -> Batch:
        del wavefunction
        dropped = jax.vmap(lambda x: state.symmetrizer.orbit(x).dropped_terms)(walkers)
        return Batch(walkers, dropped_terms=jnp.sum(dropped))

    def cost(self, moves: int) -> Cost:
        drawn = self.symmetrizer.draw(jax.random.key(0))
        electrons = sum(self.symmetrizer.group.crystal.electrons)
        orbit = eqx.filter_eval_shape(drawn.orbit, jnp.zeros((electrons, 3)))
        images = orbit.weights.shape[0]
        return Cost((moves + 1) * images, images, images)


class DrawnKey(eqx.Module):
    """The key for the draws of this step, and the key for the steps to come."""

    draw: Key
    key: Key


class AbstractDraws(AbstractStrategy[DrawnKey]):
    """Trains the bare wave function and draws anew at every step."""

    def step(self, state: DrawnKey) -> DrawnKey:
        return DrawnKey(*jax.random.split(state.key))

    def view(
        self, wavefunction: AbstractWavefunction, state: DrawnKey
    ) -> AbstractWavefunction:
        del state
        return wavefunction


class AugmentedTraining(AbstractDraws):
    r"""Data augmentation ("DA"): trains the bare wave function f at random images of
    the walkers.

    Walkers are sampled from f, but energies and gradients are averaged over `copies`
    images $y = g x$ of each walker with random operations g. Images are distributed as
    $p(y) = |G|^{-1} \sum_h |f(hy)|^2$ and not as $|f|^2$: with the importance weights
    $|f(y)|^2 / p(y)$, at most |G|, energies are expectation values of f, at the price
    of |G| amplitudes per walker. Without weights, as published (Huang et al. (2025),
    arXiv 2502.05318), they are not expectation values of any wave function.

    The state has the fields `draw`, the key for this step, and `key`, for the steps to
    come.
    """

    group: SpaceGroup
    copies: int = eqx.field(static=True)
    replace: bool = eqx.field(static=True)
    weighted: bool = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)

    @checked_but("group")
    def __init__(
        self,
        group: SpaceGroup,
        copies: Integer = 1,
        *,
        replace: bool = False,
        weighted: bool = True,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `group`: of the operations.
        - `copies`: images per walker; the walkers themselves are left out.
        - `replace`: whether a walker may get the same image more than once.
        - `weighted`: whether images get their importance weights.
        - `chunk`: walkers whose |G| amplitudes are evaluated at a time, all by default.

        **Raises:** `ValueError` for no copies, for more copies than operations if none
        may repeat, and for a `chunk` that is not positive.
        """
        self.group = group
        self.copies = whole_number("copies", copies, 1)
        self.replace = replace
        self.weighted = weighted
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        check_kind(
            "group",
            self.group,
            SpaceGroup,
            "a group, such as `eqs.SpaceGroup.of(crystal)`",
            {AbstractRandomSymmetrizer: "Images are drawn from the group itself."},
        )
        check_subset("copies", self.copies, self.replace, self.group)

    def init(self, wavefunction: AbstractWavefunction, *, key: Key) -> DrawnKey:
        self.group.check_crystal(wavefunction.crystal)
        return DrawnKey(*jax.random.split(key))

    def batch(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, state: DrawnKey
    ) -> Batch:
        keys = jax.random.split(state.draw, len(walkers))
        chosen = jax.vmap(
            lambda key: draw_operations(key, self.group, self.copies, self.replace)
        )(keys)
        images = jax.vmap(self.group.apply)(walkers, chosen)
        images = images.reshape(-1, *walkers.shape[1:])
        if not self.weighted:
            return Batch(images)

        def weights(
            args: tuple[Electrons, Int[Array, " copies"]],
        ) -> Float[Array, " copies"]:
            electrons, chosen = args
            psi = jax.vmap(functools.partial(amplitude, wavefunction))
            log = 2 * psi(self.group.apply(electrons)).log
            mean = jax.nn.logsumexp(log) - jnp.log(jnp.asarray(len(log), log.dtype))
            return jnp.exp(log[chosen] - mean)

        found = chunked_vmap(weights, (walkers, chosen), self.chunk)
        return Batch(images, found.reshape(-1))

    def cost(self, moves: int) -> Cost:
        orbit = self.group.order if self.weighted else 0
        return Cost(moves + 1 + orbit, self.copies, self.copies)
