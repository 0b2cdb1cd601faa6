"""Averages over random parts of a group, and of orbitals instead of wave functions."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._core import checked, Electrons, Integer, Key, whole_number
from .._group import SpaceGroup
from .orbits import AbstractRandomSymmetrizer, AbstractSymmetrizer, Orbit


class SubsetAverage(AbstractSymmetrizer):
    r"""The average over some operations of a group, $k^{-1} \sum_m f(g_m^{-1} x)$: a
    draw of [`eqsym.RandomSubset`][]. It is a projector only if they are a group.
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

    @checked
    def __init__(self, group: SpaceGroup, size: Integer, *, replace: bool = False):
        """**Arguments:**

        - `group`: of the operations.
        - `size`: number of operations in a draw.
        - `replace`: whether a draw may hold an operation more than once.

        **Raises:** `ValueError` for no operations, and for more than the group has
        if none may repeat.
        """
        self.group = group
        self.size = whole_number("size", size, 1)
        self.replace = replace

    def __check_init__(self):
        check_subset("size", self.size, self.replace, self.group)

    @property
    def characters(self) -> Float[np.ndarray, " ops"]:
        """The characters of the trivial representation: the mean over draws is
        invariant."""
        return np.ones(self.group.order)

    @checked
    def draw(self, key: Key) -> SubsetAverage:
        """**Arguments:**

        - `key`: seeds the draw.

        **Returns:**

        The average over the operations drawn.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        operations = draw_operations(key, self.group, self.size, self.replace)
        return SubsetAverage(self.group, operations)


def check_subset(name: str, size: int, replace: bool, group: SpaceGroup) -> None:
    """Raises `ValueError` if `size` operations cannot be drawn."""
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
