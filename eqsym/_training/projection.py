"""Variation after projection: training for the energy of the projected function."""

import functools
from numbers import Real

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from .._core import (
    check_chunk,
    check_kind,
    checked_but,
    chunked_vmap,
    Electrons,
    Integer,
    Key,
    Walkers,
    whole_number,
)
from .._symmetrizer import (
    AbstractProjection,
    as_weights,
    check_projection,
    check_projector,
    draw_with_identity,
    pair_weights,
)
from .._wavefunction import AbstractWavefunction, amplitude
from .strategy import AbstractDraws, Batch, Cost, Coupling, DrawnKey


class ProjectedTraining(AbstractDraws):
    r"""Variation after projection: trains f so that its projection $P f$ has a low
    energy, at about the price of training f itself.

    Walkers x of $|f|^2$ are accompanied by random points of their orbits. Let
    $y_1, .., y_k$ be x and its images by k - 1 other operations, drawn uniformly, and
    $p = k^{-1} \sum_i |f(y_i)|^2$. As H commutes with P, $P^2 = P$, and all sets of k
    points of an orbit occur with probabilities proportional to p,

    $$\frac{\langle Pf | H | Pf \rangle}{\langle f | f \rangle} = E\left[\frac1{k^2}
    \sum_{ij} C_{ij} E_L(y_j)\right], \quad C_{ij} = \kappa_{ij}\, n_{ij}\,
    \frac{\overline{f(y_i)} f(y_j)}{p}$$

    with the *bare* local energies. For $P = \sum_g a_g U_g$ it is
    $\kappa_{ij} = |G|\, a(g_i^{-1} g_j)$, 1 for the average over the group, and n
    corrects for the pairs i = j, of which the group has a smaller part than the sample:
    $n_{ii} = k / |G|$, else $n_{ij} = (1 - 1/|G|) / (1 - 1/k)$. Without E the mean is
    the weight $|Pf|^2 / |f|^2$. So k amplitudes of f take the place of the |G|
    amplitudes, local energies and gradients of [`eqsym.SymmetrizedTraining`][]. With
    fewer `local_energies` than `orbit_points`, the points that get a local energy and a
    gradient are drawn from the k points, half uniformly, half by $|f|^2$, and
    reweighted.

    The energy of $P f$ says nothing about the rest of f, which is sampled as well: with
    `share=0` that part drifts, and takes over. So the objective is `share` times the
    energy of f plus `1 - share` times the energy of $P f$, both from the same points,
    with the weights $|f(y_i)|^2 / p$ for the energy of f. [`eqsym.Statistics`][] report
    this objective. The metric of [`eqsym.Spring`][] is the one of $|f|^2$ for any
    share.
    Afterwards, [`eqsym.post_hoc`][] and [`eqsym.sectors`][] give the energy of $P f$.

    The state has the fields `draw`, the key for this step, and `key`, for the steps to
    come.
    """

    projection: AbstractProjection
    share: float
    local_energies: int = eqx.field(static=True)
    orbit_points: int = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)

    @checked_but("share")
    def __init__(
        self,
        projection: AbstractProjection,
        *,
        share: float = 0.5,
        local_energies: Integer = 2,
        orbit_points: Integer | None = None,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `projection`: the projector P.
        - `share`: of the energy of f in the objective, from 0 to 1.
        - `local_energies`: points of each orbit whose local energies and gradients are
            evaluated, at least 2. The walker is one of them if they are all the
            `orbit_points`.
        - `orbit_points`: points k of each orbit whose amplitudes are evaluated, as many
            as `local_energies` by default, and all with the order of the group.
        - `chunk`: walkers whose amplitudes are evaluated at a time, all by default.

        **Raises:** `ValueError` for a share or numbers outside their ranges, and if
        `projection` is not a projector.
        """
        self.projection = projection
        self.share = share
        points = local_energies if orbit_points is None else orbit_points
        self.local_energies = whole_number("local_energies", local_energies)
        self.orbit_points = whole_number("orbit_points", points)
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        check_projector("projection", self.projection)
        order = self.projection.group.order
        check_kind("share", self.share, Real, "a number from 0 to 1")
        if not 0 <= self.share <= 1:
            raise ValueError(f"`share` must be from 0 to 1, got {self.share}.")
        if self.local_energies < 2:
            raise ValueError(
                "`local_energies` must be at least 2, because amplitudes meet local "
                f"energies of other points, got {self.local_energies}."
            )
        if not self.local_energies <= self.orbit_points <= order:
            raise ValueError(
                f"`orbit_points` must be at least the {self.local_energies} "
                f"`local_energies` and at most the {order} operations of the group, "
                f"got {self.orbit_points}."
            )

    def init(self, wavefunction: AbstractWavefunction, *, key: Key) -> DrawnKey:
        group = self.projection.group
        group.check_crystal(wavefunction.crystal)
        check_projection(wavefunction, group, self.projection.characters)
        return DrawnKey(*jax.random.split(key))

    def batch(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, state: DrawnKey
    ) -> Batch:
        def orbit(args: tuple[Electrons, Key]):
            electrons, key = args
            subset, draw = jax.random.split(key)
            group = self.projection.group
            operations = draw_with_identity(subset, group, self.orbit_points)
            points = group.apply_inverse(electrons, operations)
            psi = jax.vmap(functools.partial(amplitude, wavefunction))(points)
            # Over the root of p, each at most the root of k.
            count = jnp.asarray(self.orbit_points, psi.log.dtype)
            density = jax.nn.logsumexp(2 * psi.log) - jnp.log(count)
            f = psi.sign * jnp.exp(psi.log - 0.5 * density).astype(psi.sign.dtype)
            chosen, weights = self._draw(jnp.abs(f) ** 2, draw)
            matrix = self._couple(f[chosen], weights, operations[chosen])
            return points[chosen], weights * jnp.abs(f[chosen]) ** 2, matrix

        keys = jax.random.split(state.draw, len(walkers))
        points, weights, matrices = chunked_vmap(orbit, (walkers, keys), self.chunk)
        points = points.reshape(-1, *walkers.shape[1:])
        coupling = Coupling(matrices, self.share) if self.share < 1 else None
        return Batch(points, weights.reshape(-1), coupling=coupling)

    def cost(self, moves: int) -> Cost:
        return Cost(
            moves + 1 + self.orbit_points, self.local_energies, self.local_energies
        )

    def _draw(
        self, densities: Float[Array, " orbit"], key: Key
    ) -> tuple[Int[Array, " drawn"], Float[Array, " drawn"]]:
        """Indices of points, and weights with which the mean over them is the mean over
        the orbit points."""
        count = self.orbit_points
        if self.local_energies == count:
            return jnp.arange(count), jnp.ones_like(densities)
        # The densities have the mean 1.
        weights = 2 / (1 + densities)
        probabilities = 1 / (count * weights)
        chosen = jax.random.choice(key, count, (self.local_energies,), p=probabilities)
        return chosen, weights[chosen]

    def _couple(
        self,
        f: Inexact[Array, " drawn"],
        weights: Float[Array, " drawn"],
        operations: Int[Array, " drawn"],
    ) -> Inexact[Array, "drawn drawn"]:
        """The matrix C of one walker. Its mean over pairs of points, walkers and draws
        is the weight of the projection."""
        group, k, n = self.projection.group, self.orbit_points, self.local_energies
        rows, columns = operations[:, None], operations[None]
        quotients = jnp.asarray(group.multiplication_table[group.inverses])
        factors = as_weights(self.projection.coefficients, weights.dtype)
        kernel = group.order * factors[quotients[rows, columns]]
        same, other = (k**2 * weight for weight in pair_weights(k, group.order))
        pairs = jnp.where(rows == columns, same, other)
        if n < k:
            # Draws are paired with other draws, also of the same point.
            pairs *= n / (n - 1) * (1 - np.eye(n))
        is_real = not jnp.iscomplexobj(f)
        dtype = np.promote_types(kernel.dtype, f.dtype)
        f = (weights.astype(f.dtype) * f).astype(dtype)
        products = jnp.conj(f)[:, None] * f[None]
        matrix = kernel.astype(dtype) * pairs.astype(dtype) * products
        # The scores of a real function see no imaginary part.
        return matrix.real if is_real else matrix
