"""Quadratures on the sphere."""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core import AbstractFixed, checked, Integer, Key, whole_number


# By the number of points, the degree up to which harmonics are integrated exactly.
_DEGREES = {6: 3, 12: 5, 26: 7, 32: 9, 50: 11}
_SIGNS = list(itertools.product((1.0, -1.0), repeat=3))


class SphericalQuadrature(AbstractFixed):
    r"""How the angular integrals of a pseudopotential are done,

    $$\frac1{4\pi} \int f\, d\Omega \approx \sum_q w_q f(\omega_q),$$

    for [`eqsym.Hamiltonian`][]. If the points are turned at random, around each
    nucleus and electron anew, the mean is the integral whatever their number: more
    points make it less noisy. Points that are fixed have an error that does not
    average out, but the local energy is a function of the electrons alone.

    The sets are those of Mitas, Shirley and Ceperley, J. Chem. Phys. 95, 3467 (1991):
    octahedron, icosahedron, and others with the symmetry of one of them.
    """

    points: int = eqx.field(static=True)
    random: bool = eqx.field(static=True)
    cutoff: float = eqx.field(static=True)
    amplitudes: int | None = eqx.field(static=True)

    @checked
    def __init__(
        self,
        points: Integer = 12,
        *,
        random: bool = True,
        cutoff: float = 1e-5,
        amplitudes: Integer | None = None,
    ):
        """**Arguments:**

        - `points`: 6, 12, 26, 32 or 50, which are exact for spherical harmonics up to
            the degree 3, 5, 7, 9 or 11.
        - `random`: whether points are turned at random. Then local energies need a key.
        - `cutoff`: energy in Hartree. Where all nonlocal terms of a nucleus are smaller
            than this, with their factors 2l + 1, they are taken for zero.
        - `amplitudes`: of the wave function with one electron moved, at most so many
            for each configuration. If all points of all pairs of an electron and a
            nucleus within that reach are more, they are drawn, those with a small
            potential less often, and weighted: the mean stays right. By default the
            number of points, and two for each electron. All with fixed points.

        **Raises:** `ValueError` for another number of points, a `cutoff` that is not
        positive, `amplitudes` less than 1, or `amplitudes` with fixed points.
        """
        self.points = whole_number("points", points, 1)
        if self.points not in _DEGREES:
            raise ValueError(
                f"`points` must be one of {', '.join(map(str, _DEGREES))}, got "
                f"{points}."
            )
        self.random = random
        if not (np.isfinite(cutoff) and cutoff > 0):
            raise ValueError(
                f"`cutoff` must be a positive energy in Hartree, got {cutoff}."
            )
        self.cutoff = float(cutoff)
        if amplitudes is not None and not random:
            raise ValueError(
                "`amplitudes` must be None with fixed points: those that are drawn are "
                "random too."
            )
        if amplitudes is not None:
            amplitudes = whole_number("amplitudes", amplitudes, 1)
        self.amplitudes = amplitudes

    @property
    def degree(self) -> int:
        """Of the spherical harmonics up to which it is exact."""
        return _DEGREES[self.points]

    @property
    def directions(self) -> Float[np.ndarray, "points 3"]:
        """Unit vectors, not turned."""
        return _rule(self.points)[0]

    @property
    def weights(self) -> Float[np.ndarray, " points"]:
        """They add up to 1."""
        return _rule(self.points)[1]


def random_rotation(key: Key, dtype: Any) -> Float[Array, "3 3"]:
    """Uniform among all, from a quaternion: K. Shoemake, Graphics Gems III (1992)."""
    q = jax.random.normal(key, (4,), dtype)
    a, b, c, d = q / jnp.sqrt(jnp.sum(q * q))
    return jnp.stack(
        [
            jnp.stack(
                [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)]
            ),
            jnp.stack(
                [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)]
            ),
            jnp.stack(
                [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)]
            ),
        ]
    )


def _rule(
    points: int,
) -> tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, " points"]]:
    golden = (1 + np.sqrt(5)) / 2
    axes = _signed([(1, 0, 0), (0, 1, 0), (0, 0, 1)])
    edges = _signed([(1, 1, 0), (1, 0, 1), (0, 1, 1)])
    corners = _signed([(1, 1, 1)])
    icosahedron = _signed([(0, 1, golden), (golden, 0, 1), (1, golden, 0)])
    dodecahedron = _signed(
        [
            (1, 1, 1),
            (0, golden, 1 / golden),
            (1 / golden, 0, golden),
            (golden, 1 / golden, 0),
        ]
    )
    threes = _signed([(1, 1, 3), (1, 3, 1), (3, 1, 1)])
    orbits = {
        6: [(axes, 1 / 6)],
        12: [(icosahedron, 1 / 12)],
        26: [(axes, 1 / 21), (edges, 4 / 105), (corners, 27 / 840)],
        32: [(icosahedron, 5 / 168), (dodecahedron, 27 / 840)],
        50: [
            (axes, 4 / 315),
            (edges, 64 / 2835),
            (corners, 27 / 1280),
            (threes, 14641 / 725760),
        ],
    }[points]
    directions = np.concatenate([directions for directions, _ in orbits])
    weights = np.concatenate([np.full(len(d), weight) for d, weight in orbits])
    return directions, weights


def _signed(rows: list[tuple]) -> Float[np.ndarray, "points 3"]:
    """Unit vectors along these with all signs, each once."""
    signed = np.concatenate(
        [row * np.array(signs) for row in np.array(rows) for signs in _SIGNS]
    ).reshape(-1, 3)
    vectors = np.unique(signed + 0.0, axis=0)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
