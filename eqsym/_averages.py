"""Averages over random parts of a group, and of orbitals instead of wave functions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from ._ansatz import AbstractWavefunction, SolidNet
from ._crystal import Crystal
from ._group import SpaceGroup
from ._momentum import check_orbitals, keeps_momentum, lacks_translations
from ._symmetrize import AbstractRandomSymmetrizer, AbstractSymmetrizer, Orbit
from ._types import Electrons, Integer, Key, LogPsi, whole_number


class SubsetAverage(AbstractSymmetrizer):
    r"""The average over some operations of a group, $k^{-1} \sum_m f(g_m^{-1} x)$: a
    draw of [`eqsym.RandomSubset`][]. No projector, unless the operations are a group.
    """

    group: SpaceGroup
    operations: Int[Array, " images"]

    @property
    def characters(self) -> None:
        """None: the sum has no symmetry."""

    def orbit(self, electrons: Electrons) -> Orbit:
        count = self.operations.shape[0]
        weights = jnp.full((count,), 1 / count, electrons.dtype)
        return Orbit(weights, self.group.apply_inverse(electrons, self.operations))


class RandomSubset(AbstractRandomSymmetrizer):
    """Averages over `size` random operations: group averaging with subsampled
    operations of Huang et al. (2025), arXiv 2502.05318. The expectation over the draws
    is the average over the group."""

    group: SpaceGroup
    size: int = eqx.field(static=True)
    replace: bool = eqx.field(static=True)

    def __init__(self, group: SpaceGroup, size: Integer, *, replace: bool = False):
        """**Arguments:**

        - `group`: of the operations.
        - `size`: number of operations in a draw.
        - `replace`: whether a draw may hold an operation more than once.

        **Raises:** `ValueError` for no operations, and for more than the group has
        where none may repeat.
        """
        self.group = group
        self.size = whole_number("size", size, 1)
        self.replace = replace

    def __check_init__(self):
        check_subset("size", self.size, self.replace, self.group)

    @property
    def characters(self) -> Float[np.ndarray, " ops"]:
        """Those of the trivial representation: the mean over draws is invariant."""
        return np.ones(self.group.order)

    def draw(self, key: Key) -> SubsetAverage:
        """**Arguments:**

        - `key`: seeds the draw.

        **Returns:**

        The average over the operations drawn.
        """
        operations = draw_operations(key, self.group, self.size, self.replace)
        return SubsetAverage(self.group, operations)


class SymmetrizedOrbitals(AbstractWavefunction):
    r"""A network whose orbitals are averaged over images of the configuration before
    the determinants are taken, $\sum_m w_m \phi^d_j(r_i; x_m)$ in place of
    $\phi^d_j(r_i; x)$.

    With [`eqsym.GroupAverage`][] it is as symmetric as the average of the wave function
    and a nonlinear function of it: no projection of the network, and not to be used
    after training. Huang et al. (2025), arXiv 2502.05318, appendix.
    """

    wavefunction: SolidNet
    symmetrizer: AbstractSymmetrizer
    average_phases: bool = eqx.field(static=True)

    def __init__(
        self,
        wavefunction: SolidNet,
        symmetrizer: AbstractSymmetrizer,
        *,
        average_phases: bool = True,
    ):
        r"""**Arguments:**

        - `wavefunction`: the network.
        - `symmetrizer`: gives weights and images, for the crystal of the network.
        - `average_phases`: whether the Bloch phases $e^{i k_j \cdot r_i}$ are those of
            the images, or, as published too, of the electrons themselves and not
            averaged. At non-zero k only the former makes the orbitals symmetric.

        **Raises:** `ValueError` for a group of another crystal, and where averaged
        orbitals would be zero or not have its symmetry: where operations multiply up to
        translations that are not 1 on each occupied orbital, as some do in
        nonsymmorphic crystals at k-points other than 0.
        """
        self.wavefunction = wavefunction
        self.symmetrizer = symmetrizer
        self.average_phases = average_phases

    def __check_init__(self):
        if not isinstance(self.wavefunction, SolidNet):
            raise ValueError(
                "`wavefunction` must be a `SolidNet`, whose orbitals can be averaged, "
                f"got `{type(self.wavefunction).__name__}`."
            )
        group = self.symmetrizer.group
        group.check_crystal(self.wavefunction.crystal)
        characters = self.symmetrizer.characters
        if self.average_phases and characters is not None:
            kpoints = np.concatenate(self.wavefunction.occupation.kpoints)
            check_orbitals(group, characters, np.unique(kpoints, axis=0))

    @property
    def crystal(self) -> Crystal:
        """The crystal of the network."""
        return self.wavefunction.crystal

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"] | None:
        """That of the network, unless averaged phases mix the momenta of orbitals, or
        the group is one modulo the supercell without all translations inside."""
        group = self.symmetrizer.group
        if self.symmetrizer.characters is None or lacks_translations(group):
            return None
        kpoints = np.concatenate(self.wavefunction.occupation.kpoints)
        if self.average_phases and not all(keeps_momentum(group, k) for k in kpoints):
            return None
        return self.wavefunction.crystal_momentum

    def __call__(self, electrons: Electrons) -> LogPsi:
        orbit = self.symmetrizer.orbit(electrons)
        places = None if self.average_phases else electrons
        terms = jax.vmap(
            lambda image: self.wavefunction.orbitals(image, phases_at=places)
        )(orbit.images)
        up, down = (_weighted_sum(orbit.weights, rows) for rows in terms)
        return self.wavefunction.from_orbitals(up, down)


def _weighted_sum(
    weights: Inexact[Array, " images"],
    rows: Inexact[Array, "images determinants electrons orbitals"],
) -> Inexact[Array, "determinants electrons orbitals"]:
    dtype = np.promote_types(weights.dtype, rows.dtype)
    return jnp.tensordot(
        weights.astype(dtype),
        rows.astype(dtype),
        1,
        precision=jax.lax.Precision.HIGHEST,
    )


def check_subset(name: str, size: int, replace: bool, group: SpaceGroup) -> None:
    """Raises `ValueError` where `size` operations cannot be drawn."""
    if not replace and size > group.order:
        raise ValueError(
            f"`{name}` must be at most the {group.order} operations of the group if "
            f"none may repeat, got {size}. Set `replace=True` to allow repetitions."
        )


def draw_operations(
    key: Key, group: SpaceGroup, size: int, replace: bool
) -> Int[Array, " size"]:
    """Numbers of random operations."""
    return jax.random.choice(key, group.order, (size,), replace=replace)


def draw_with_identity(key: Key, group: SpaceGroup, size: int) -> Int[Array, " size"]:
    """Numbers of operations, each once: the identity, then random others, or all."""
    others = jnp.asarray(np.delete(np.arange(group.order), group.identity))
    if size < group.order:
        others = jax.random.choice(key, others, (size - 1,), replace=False)
    return jnp.concatenate([jnp.full((1,), group.identity, others.dtype), others])


def pair_weights(points: int, order: int) -> tuple[float, float]:
    """Weights of a pair of a point with itself, and of a pair of different points, with
    which the sum over all pairs of some random points of an orbit is the mean over all
    pairs of the orbit, of which one in `order` is a point with itself."""
    same = 1 / (points * order)
    if points == 1:
        return same, 0.0
    return same, (1 - 1 / order) / (points * (points - 1))
