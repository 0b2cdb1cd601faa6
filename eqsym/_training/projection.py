"""Variation after projection."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from .._core import (
    check_chunk,
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


class Project(AbstractDraws):
    r"""Variation after projection: trains f such that its projection $P f$ has a low
    energy, at about the price of training f.

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
    amplitudes, local energies and gradients of [`eqsym.Symmetrize`][]. With fewer
    `images` than `amplitudes`, those whose local energies and gradients are needed are
    drawn from the k points, half uniformly, half by $|f|^2$, and reweighted.

    The energy of $P f$ says nothing about the rest of f, which is sampled as well:
    alone (`share=0`), that part drifts, and takes over. So the objective is `share`
    times the energy of f plus `1 - share` times that of $P f$, both from the same
    images, f's with the weights $|f(y_i)|^2 / p$. [`eqsym.Statistics`][] report this
    objective. The metric of [`eqsym.Spring`][] is that of $|f|^2$ for any share.
    Afterwards, [`eqsym.post_hoc`][] and [`eqsym.sectors`][] give the energy of $P f$.
    """

    projection: AbstractProjection
    share: float
    images: int = eqx.field(static=True)
    amplitudes: int = eqx.field(static=True)
    chunk: int | None = eqx.field(static=True)

    def __init__(
        self,
        projection: AbstractProjection,
        *,
        share: float = 0.5,
        images: Integer = 2,
        amplitudes: Integer | None = None,
        chunk: Integer | None = None,
    ):
        """**Arguments:**

        - `projection`: the projector P.
        - `share`: of the energy of f in the objective, from 0 to 1.
        - `images`: of each walker, itself included where these are all `amplitudes`,
            whose local energies and gradients are evaluated; at least 2.
        - `amplitudes`: points k of an orbit whose amplitudes are evaluated, `images` by
            default. With the order of the group these are all.
        - `chunk`: walkers whose amplitudes are evaluated at a time, all by default.

        **Raises:** `ValueError` for a share or numbers outside of their ranges, and for
        what is no projector.
        """
        self.projection = projection
        self.share = share
        points = images if amplitudes is None else amplitudes
        self.images = whole_number("images", images)
        self.amplitudes = whole_number("amplitudes", points)
        self.chunk = check_chunk(chunk)

    def __check_init__(self):
        check_projector("projection", self.projection)
        order = self.projection.group.order
        if not 0 <= self.share <= 1:
            raise ValueError(f"`share` must be from 0 to 1, got {self.share}.")
        if self.images < 2:
            raise ValueError(
                "`images` must be at least 2, because amplitudes meet local energies "
                f"of other images, got {self.images}."
            )
        if not self.images <= self.amplitudes <= order:
            raise ValueError(
                f"`amplitudes` must be at least the {self.images} `images` and at most "
                f"the {order} operations of the group, got {self.amplitudes}."
            )

    def init(self, wavefunction: AbstractWavefunction, *, key: Key) -> DrawnKey:
        group = self.projection.group
        group.check_crystal(wavefunction.crystal)
        check_projection(wavefunction, group, self.projection.characters)
        return DrawnKey(*jax.random.split(key))

    def batch(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, state: DrawnKey
    ) -> Batch:
        def images(args: tuple[Electrons, Key]):
            electrons, key = args
            subset, draw = jax.random.split(key)
            group = self.projection.group
            operations = draw_with_identity(subset, group, self.amplitudes)
            points = group.apply_inverse(electrons, operations)
            psi = jax.vmap(functools.partial(amplitude, wavefunction))(points)
            # Over the root of p, each at most the root of k.
            count = jnp.asarray(self.amplitudes, psi.log.dtype)
            density = jax.nn.logsumexp(2 * psi.log) - jnp.log(count)
            f = psi.sign * jnp.exp(psi.log - 0.5 * density).astype(psi.sign.dtype)
            chosen, weights = self._draw(jnp.abs(f) ** 2, draw)
            matrix = self._couple(f[chosen], weights, operations[chosen])
            return points[chosen], weights * jnp.abs(f[chosen]) ** 2, matrix

        keys = jax.random.split(state.draw, len(walkers))
        points, weights, matrices = chunked_vmap(images, (walkers, keys), self.chunk)
        points = points.reshape(-1, *walkers.shape[1:])
        coupling = Coupling(matrices, self.share) if self.share < 1 else None
        return Batch(points, weights.reshape(-1), coupling=coupling)

    def cost(self, moves: int) -> Cost:
        return Cost(moves + 1 + self.amplitudes, self.images, self.images)

    def _draw(
        self, densities: Float[Array, " amplitudes"], key: Key
    ) -> tuple[Int[Array, " images"], Float[Array, " images"]]:
        """Which images, and weights that make the mean over them that over all."""
        count = self.amplitudes
        if self.images == count:
            return jnp.arange(count), jnp.ones_like(densities)
        # The densities have the mean 1.
        weights = 2 / (1 + densities)
        probabilities = 1 / (count * weights)
        chosen = jax.random.choice(key, count, (self.images,), p=probabilities)
        return chosen, weights[chosen]

    def _couple(
        self,
        f: Inexact[Array, " images"],
        weights: Float[Array, " images"],
        operations: Int[Array, " images"],
    ) -> Inexact[Array, "images images"]:
        """The matrix C of one walker, whose mean over pairs of images is the weight of
        the projection in the mean over walkers and draws."""
        group, k, n = self.projection.group, self.amplitudes, self.images
        rows, columns = operations[:, None], operations[None]
        quotients = jnp.asarray(group.multiplication_table[group.inverses])
        factors = as_weights(self.projection.coefficients, weights.dtype)
        kernel = group.order * factors[quotients[rows, columns]]
        same, other = (k**2 * weight for weight in pair_weights(k, group.order))
        pairs = jnp.where(rows == columns, same, other)
        if n < k:
            # Draws are paired with other draws, also of the same image.
            pairs *= n / (n - 1) * (1 - np.eye(n))
        is_real = not jnp.iscomplexobj(f)
        dtype = np.promote_types(kernel.dtype, f.dtype)
        f = (weights.astype(f.dtype) * f).astype(dtype)
        products = jnp.conj(f)[:, None] * f[None]
        matrix = kernel.astype(dtype) * pairs.astype(dtype) * products
        # The scores of a real function see no imaginary part.
        return matrix.real if is_real else matrix
