"""Symmetrized wave functions: weighted sums over the images of a configuration."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact, Int

from ._ansatz.base import AbstractWavefunction
from ._crystal import Crystal
from ._group import SpaceGroup
from ._math import log_sum
from ._types import AbstractFixed, Electrons, Key, LogPsi


class Orbit(eqx.Module):
    """Images of one configuration, in Bohr, and their weights; see
    [`eqsym.AbstractSymmetrizer`][]. `dropped` counts images with non-zero weight that
    are missing because a bound on their number was too small."""

    weights: Inexact[Array, " images"]
    images: Float[Array, "images electrons 3"]
    dropped: Int[Array, ""] = eqx.field(default_factory=lambda: jnp.zeros((), int))


class AbstractRandomSymmetrizer(AbstractFixed):
    """A distribution of symmetrizers, to train with another one in every step."""

    group: eqx.AbstractVar[SpaceGroup]

    @abc.abstractmethod
    def draw(self, key: Key) -> "AbstractSymmetrizer":
        """**Arguments:**

        - `key`: seeds the draw.

        **Returns:**

        The symmetrizer drawn.
        """


class AbstractSymmetrizer(AbstractRandomSymmetrizer):
    r"""A linear map of functions of the electrons that sums over images:
    $(P f)(x) = \sum_m w_m(x) f(x_m(x))$.

    All ways to symmetrize a wave function have this form (Huang et al. (2025), arXiv
    2502.05318): they differ in the weights and images. A symmetrizer treats all
    electrons alike, so that $P f$ is as antisymmetric as f. What it holds is data and
    never trained.
    """

    group: eqx.AbstractVar[SpaceGroup]

    @abc.abstractmethod
    def orbit(self, electrons: Electrons) -> Orbit:
        """Weights and images for one configuration; `jax.vmap` it over walkers.

        **Arguments:**

        - `electrons`: positions in Bohr, (electrons, 3).

        **Returns:**

        The weights $w_m$ and images $x_m$, as many for every configuration. They may
        depend on the electrons smoothly: wave functions are differentiated through
        them.
        """

    def draw(self, key: Key) -> "AbstractSymmetrizer":
        """Itself: nothing is random about it."""
        del key
        return self


class GroupAverage(AbstractSymmetrizer):
    r"""The average over a group, $(P f)(x) = |G|^{-1} \sum_g f(g^{-1} x)$: the
    projection onto functions that all operations leave as they are.

    Group averaging of Huang et al. (2025), arXiv 2502.05318, with the images of all
    operations. For the products of operations that are closed only up to a primitive
    translation t it takes $f(x + t) = f(x)$; see [`eqsym.SpaceGroup`][].
    """

    group: SpaceGroup

    def orbit(self, electrons: Electrons) -> Orbit:
        order = self.group.order
        weights = jnp.full((order,), 1 / order, electrons.dtype)
        return Orbit(weights, self.group.apply_inverse(electrons))


class Symmetrized(AbstractWavefunction):
    r"""The wave function $P f$ for a wave function f and a symmetrizer P, not
    normalised. A wave function as any other: it may be symmetrized again.
    """

    wavefunction: AbstractWavefunction
    symmetrizer: AbstractSymmetrizer
    chunk: int | None = eqx.field(default=None, static=True)

    def __init__(
        self,
        wavefunction: AbstractWavefunction,
        symmetrizer: AbstractSymmetrizer,
        chunk: int | None = None,
    ):
        """**Arguments:**

        - `wavefunction`: the wave function f.
        - `symmetrizer`: the symmetrizer P, for the crystal of f.
        - `chunk`: how many images to evaluate at a time, by default all. With fewer,
            amplitudes and their forward Laplacian can take less memory, one part of the
            images after the other; derivatives in reverse mode still store what all
            images need. The parts are compiled one by one, so have few of them.

        **Raises:** `ValueError` where the group of `symmetrizer` is one of another
        crystal, or `chunk` is not positive.
        """
        self.wavefunction = wavefunction
        self.symmetrizer = symmetrizer
        self.chunk = chunk

    def __check_init__(self):
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(
                f"`chunk` must be a positive number of images, got {self.chunk}. Leave "
                "it out to evaluate all images at once."
            )
        try:
            self.symmetrizer.group.check_crystal(self.wavefunction.crystal)
        except ValueError as error:
            raise ValueError(
                f"`symmetrizer` does not fit `wavefunction`. {error}"
            ) from None

    @property
    def crystal(self) -> Crystal:
        """The crystal of the wave function."""
        return self.wavefunction.crystal

    def __call__(self, electrons: Electrons) -> LogPsi:
        orbit = self.symmetrizer.orbit(electrons)
        if self.chunk is None or self.chunk >= len(orbit.weights):
            return log_sum(*_terms(self.wavefunction, orbit))
        return log_sum(*_in_chunks(self.wavefunction, orbit, self.chunk))


def symmetry_ratio(
    wavefunction: AbstractWavefunction,
    symmetrizer: AbstractSymmetrizer,
    electrons: Electrons,
    *,
    chunk: int | None = None,
) -> Inexact[Array, ""]:
    r"""$r(x) = (P f)(x) / f(x)$ at one configuration.

    Over $x \sim |f|^2$ and for a projector P, the mean of r is the weight
    $|P f|^2 / |f|^2$ of the symmetric part of f, and its variance, which is 0 for a
    symmetric f, is the symmetry measure of Huang et al. (2025), arXiv 2502.05318.

    **Arguments:**

    - `wavefunction`: the wave function f.
    - `symmetrizer`: the symmetrizer P.
    - `electrons`: positions in Bohr.
    - `chunk`: as for [`eqsym.Symmetrized`][].

    **Returns:**

    The ratio; real where both amplitudes are. Not finite where f vanishes.

    **Raises:** `ValueError` as [`eqsym.Symmetrized`][] does.
    """
    symmetrized = Symmetrized(wavefunction, symmetrizer, chunk)(electrons)
    bare = wavefunction(electrons)
    phase = symmetrized.sign * jnp.conj(bare.sign).astype(symmetrized.sign.dtype)
    return phase * jnp.exp(symmetrized.log - bare.log).astype(phase.dtype)


def _terms(
    wavefunction: AbstractWavefunction, orbit: Orbit
) -> tuple[LogPsi, Inexact[Array, " images"]]:
    """Amplitudes of the images, and the weights in the dtype of their signs."""
    terms = jax.vmap(wavefunction)(orbit.images)
    if jnp.issubdtype(orbit.weights.dtype, jnp.complexfloating):
        return LogPsi(terms.sign.astype(orbit.weights.dtype), terms.log), orbit.weights
    return terms, orbit.weights.astype(terms.sign.dtype)


def _in_chunks(
    wavefunction: AbstractWavefunction, orbit: Orbit, chunk: int
) -> tuple[LogPsi, Inexact[Array, " images"]]:
    """As `_terms`, `chunk` images at a time.

    A loop while tracing, over fixed slices, and not `jax.lax.map`: the forward
    Laplacian of folx does not go through loops over what depends on the electrons.
    """
    parts = []
    for start in range(0, len(orbit.weights), chunk):
        some = slice(start, start + chunk)
        part = Orbit(orbit.weights[some], orbit.images[some])
        parts.append(_terms(wavefunction, part))
    return jax.tree.map(lambda *some: jnp.concatenate(some), *parts)
