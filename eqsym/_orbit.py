"""Local energies and projections of a wave function on the orbit of a walker."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from ._ansatz import AbstractWavefunction
from ._chains import excess
from ._group import SpaceGroup
from ._hamiltonian import AbstractHamiltonian, LocalEnergy
from ._math import full_precision, normalised
from ._types import Electrons, Key


class OrbitSample(NamedTuple):
    r"""What the orbit of one walker of $|f|^2$ says about f and its projections
    $P_\rho f$, from K local energies and k amplitudes: means of these over walkers are
    integrals over $|f|^2$.

    - `shares`: of $|P_\rho f|^2$ for every projection.
    - `projected`, `plain`: sums over the images of `projected[rho] * kinetic` are
        $\langle P_\rho f | T f \rangle$, those of `plain * kinetic` are
        $\langle f | T f \rangle$; likewise with `potential`.
    - `kinetic`, `potential`: of $(T - T_0) f$ and $(V - V_0) f$ at the images, with the
        reference energies $T_0$, $V_0$.
    - `weights`: sums over the images of `weights * abs(a * f) ** 2` are
        $\langle a f | a f \rangle$.
    - `pairs`: sums over pairs of images, `conj(a * f) @ pairs @ (a * f)`, are
        $\langle P a f | P a f \rangle$ for the average P; `None` for a single image.
    """

    shares: Inexact[Array, " projections"]
    projected: Inexact[Array, "projections images"]
    plain: Inexact[Array, " images"]
    kinetic: Inexact[Array, " images"]
    potential: Inexact[Array, " images"]
    weights: Float[Array, " images"]
    pairs: Float[Array, "images images"] | None


OrbitSampler: TypeAlias = Callable[[Electrons, Key, LocalEnergy], OrbitSample]


class _Choice(NamedTuple):
    """Points of the orbit whose local energy is evaluated; the inverses of the
    probabilities that a point, and a pair of points, is among them."""

    images: Int[Array, " images"]
    weights: Float[Array, " images"]
    pairs: Float[Array, "images images"] | None


def orbit_sampler(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    group: SpaceGroup,
    characters: Inexact[np.ndarray, "projections ops"],
    *,
    images: int,
    amplitudes: int | None,
) -> OrbitSampler:
    r"""Makes what `post_hoc` and `sectors` have in common: the choice of points of an
    orbit, their amplitudes and local energies, and the weights of these.

    **Arguments:**

    - `wavefunction`, `hamiltonian`, `group`: f, H, G.
    - `characters`: $d_\rho \chi_\rho$ of every projection.
    - `images`: K, local energies for each walker.
    - `amplitudes`: k, amplitudes for each walker; all for `None`, at least `images`.

    **Returns:**

    The function that makes an `OrbitSample` of a walker.

    **Raises:** `ValueError` for less than one image and less than two amplitudes.
    """
    order = group.order
    if images < 1:
        raise ValueError(f"`images` must be at least 1, got {images}.")
    if amplitudes is not None and amplitudes < 2:
        raise ValueError(
            "`amplitudes` must be at least 2, because projections come from products "
            f"of two amplitudes, got {amplitudes}."
        )
    points = order if amplitudes is None else min(max(amplitudes, images), order)
    images = min(images, points)
    table = group.multiplication_table
    identity = int(np.flatnonzero(np.all(table == np.arange(order), axis=1))[0])
    others = np.delete(np.arange(order), identity)
    # As z_m = g_m^-1 x, the operation g takes it to the image of g_m g: the amplitude
    # at z_n enters the projection at z_m with the character of g_m^-1 g_n.
    quotients = table[group.inverses]
    factors = _pair_weights(points, order)

    def draw(
        key: Key,
    ) -> tuple[Int[Array, " points"], Inexact[Array, "projections points points"]]:
        """Operations, the identity first, and their matrices of projection."""
        if points == order:
            operations = np.concatenate([[identity], others])
            pairs = quotients[np.ix_(operations, operations)]
            every = factors * characters.conj()[:, pairs]
            return jnp.asarray(operations), jnp.asarray(every)
        rest = jax.random.choice(key, others, (points - 1,), replace=False)
        operations = jnp.concatenate([jnp.full((1,), identity, rest.dtype), rest])
        pairs = jnp.asarray(quotients)[operations[:, None], operations[None, :]]
        some = jnp.asarray(characters.conj())[:, pairs]
        return operations, some * jnp.asarray(factors, some.dtype)[None]

    @full_precision()
    def sample(electrons: Electrons, key: Key, reference: LocalEnergy) -> OrbitSample:
        operations, matrices = draw(jax.random.fold_in(key, 0))
        orbit = group.apply_inverse(electrons, operations)
        f = normalised(jax.vmap(wavefunction)(orbit))
        chosen = _choose(jnp.abs(f) ** 2 / points, images, jax.random.fold_in(key, 1))
        energies = jax.vmap(
            lambda image: hamiltonian.local_energy(wavefunction, orbit[image])
        )(chosen.images)
        above = excess(energies, reference)
        if np.iscomplexobj(characters) or jnp.iscomplexobj(above.kinetic):
            f = f.astype(np.result_type(f.dtype, np.complex64))
        projected = jnp.conj(jnp.einsum("rmn,n->rm", matrices.astype(f.dtype), f))
        if points == order:
            # Projections: their squares are more precise, and never negative.
            shares = points * jnp.sum(jnp.abs(projected) ** 2, axis=1).astype(f.dtype)
        else:
            shares = projected @ f
        weights, kets = chosen.weights.astype(f.dtype), f[chosen.images]
        pairs = chosen.pairs
        if pairs is not None:
            where = chosen.images
            some = jnp.asarray(factors, pairs.dtype)[where[:, None], where[None, :]]
            pairs = some * pairs
        return OrbitSample(
            shares=shares,
            projected=projected[:, chosen.images] * weights[None],
            plain=jnp.conj(kets) * weights / points,
            kinetic=kets * above.kinetic.astype(f.dtype),
            potential=kets * above.potential.astype(f.dtype),
            weights=chosen.weights / points,
            pairs=pairs,
        )

    return sample


def _pair_weights(points: int, order: int) -> Float[np.ndarray, "points points"]:
    """Makes a sum over pairs from random points of an orbit the mean over all pairs of
    the orbit, of which one in `order` is a point with itself."""
    same = np.eye(points) / (points * order)
    if points == 1:
        return same
    rest = (1 - 1 / order) / (points * (points - 1))
    return same + rest * (1 - np.eye(points))


def _choose(walker: Float[Array, " points"], images: int, key: Key) -> _Choice:
    """Draws images without replacement: one time out of two the walker, which is the
    first point, and random others, else random points. The weights forget which of the
    points was the walker; its probabilities are `walker`.
    """
    points, dtype = walker.shape[0], walker.dtype
    if images == points:
        ones = jnp.ones((points,), dtype)
        return _Choice(jnp.arange(points), ones, jnp.ones((points, points), dtype))
    toss, order = jax.random.split(key)
    others = jax.random.permutation(order, points - 1) + 1
    with_walker = jnp.concatenate([jnp.zeros((1,), others.dtype), others[: images - 1]])
    share = 0.5 + 0.5 * images / points
    chosen = jnp.where(jax.random.bernoulli(toss, share), with_walker, others[:images])
    # Of a point that is the walker, and of one that is not.
    own, other = share, (images - share) / (points - 1)
    walker = walker[chosen]
    weights = 1 / (own * walker + other * (1 - walker))
    if images == 1:
        return _Choice(chosen, weights, None)
    one = share * (images - 1) / (points - 1)
    none = (images - 1) * (images - 2 * share) / ((points - 1) * (points - 2))
    either = walker[:, None] + walker[None, :]
    together = one * either + none * (1 - either)
    pairs = jnp.where(np.eye(images, dtype=bool), jnp.diag(weights), 1 / together)
    return _Choice(chosen, weights, pairs)
