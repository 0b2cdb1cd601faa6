"""Local energies and projections of a wave function on the orbit of a walker."""

import abc
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from .._core import Electrons, Integer, Key, normalized, whole_number
from .._group import SpaceGroup
from .._hamiltonian import AbstractHamiltonian, LocalEnergy
from .._symmetrizer import draw_with_identity, pair_weights
from .._wavefunction import AbstractWavefunction
from .energies import AbstractSample, excess, Parts


class OrbitSample(NamedTuple):
    r"""Terms of f and its projections $P_\rho f$ from the orbit of one walker of
    $|f|^2$, with k amplitudes and K local energies, at the images: means over walkers
    are integrals.

    - `shares`: $|P_\rho f|^2 / |f|^2$ for every projection.
    - `projected`, `plain`: `projected[rho] @ above.kinetic` is
        $\langle P_\rho f | T f \rangle$, `plain @ above.kinetic` is
        $\langle f | T f \rangle$; likewise with the other parts.
    - `above`: $(T - T_0) f$, $(V - V_0) f$, .. at the images, with the reference
        energies $T_0$, $V_0$, ...
    - `weights`: sums over the images of `weights * abs(a * f) ** 2` are
        $\langle a f | a f \rangle$.
    - `pairs`: sums over pairs of images, `conj(a * f) @ pairs @ (a * f)`, are
        $\langle P a f | P a f \rangle$ for the average P; `None` for a single image.
    """

    shares: Inexact[Array, " projections"]
    projected: Inexact[Array, "projections images"]
    plain: Inexact[Array, " images"]
    above: Parts
    weights: Float[Array, " images"]
    pairs: Float[Array, "images images"] | None


class _Choice(NamedTuple):
    """Points of the orbit whose local energy is evaluated; the inverses of the
    probabilities that a point, and a pair of points, is among them."""

    images: Int[Array, " images"]
    weights: Float[Array, " images"]
    pairs: Float[Array, "images images"] | None


class OrbitSampler(eqx.Module):
    """For `post_hoc` and `sectors`: chooses points of an orbit, and evaluates their
    amplitudes and local energies, with weights."""

    wavefunction: AbstractWavefunction
    hamiltonian: AbstractHamiltonian
    group: SpaceGroup
    characters: Inexact[Array, "projections ops"]
    orbit_points: int = eqx.field(static=True)
    local_energies: int = eqx.field(static=True)

    def __init__(
        self,
        wavefunction: AbstractWavefunction,
        hamiltonian: AbstractHamiltonian,
        group: SpaceGroup,
        characters: Inexact[np.ndarray, "projections ops"],
        *,
        orbit_points: Integer | None,
        local_energies: Integer,
    ):
        r"""**Arguments:**

        - `wavefunction`, `hamiltonian`, `group`: f, H, G.
        - `characters`: $d_\rho \chi_\rho$ of every projection.
        - `orbit_points`: k, amplitudes for each walker, at least K; all for `None`.
        - `local_energies`: K, of these points, for each walker.

        **Raises:** `ValueError` for fewer than two points or one local energy.
        """
        local_energies = whole_number("local_energies", local_energies, 1)
        if orbit_points is not None:
            orbit_points = whole_number("orbit_points", orbit_points)
        if orbit_points is not None and orbit_points < 2:
            raise ValueError(
                "`orbit_points` must be at least 2, because projections come from "
                f"products of two amplitudes, got {orbit_points}."
            )
        order = group.order
        self.wavefunction = wavefunction
        self.hamiltonian = hamiltonian
        self.group = group
        self.characters = jnp.asarray(characters)
        wanted = order if orbit_points is None else max(orbit_points, local_energies)
        self.orbit_points = min(wanted, order)
        self.local_energies = min(local_energies, self.orbit_points)

    def __call__(
        self, electrons: Electrons, key: Key, reference: LocalEnergy
    ) -> OrbitSample:
        draw, choice, turn = (jax.random.fold_in(key, i) for i in range(3))
        points, order = self.orbit_points, self.group.order
        operations = draw_with_identity(draw, self.group, points)
        same, other = pair_weights(points, order)
        factors = jnp.where(np.eye(points, dtype=bool), same, other)
        orbit = self.group.apply_inverse(electrons, operations)
        f = normalized(jax.vmap(self.wavefunction)(orbit))
        chosen = _choose(jnp.abs(f) ** 2 / points, self.local_energies, choice)
        energies = jax.vmap(
            lambda image, key: self.hamiltonian.local_energy(
                self.wavefunction, orbit[image], key=key
            )
        )(chosen.images, jax.random.split(turn, len(chosen.images)))
        above = excess(energies, reference)
        if jnp.iscomplexobj(self.characters) or jnp.iscomplexobj(above.kinetic):
            f = f.astype(np.result_type(f.dtype, np.complex64))
        kernel = self._kernel(operations).astype(f.dtype)
        matrices = factors.astype(f.dtype)[None] * kernel
        projected = jnp.conj(jnp.einsum("rmn,n->rm", matrices, f))
        if points == order:
            # Projections: their squares are more precise, and never negative.
            shares = points * jnp.sum(jnp.abs(projected) ** 2, axis=1).astype(f.dtype)
        else:
            shares = projected @ f
        weights, kets = chosen.weights.astype(f.dtype), f[chosen.images]
        pairs = chosen.pairs
        if pairs is not None:
            rows, columns = chosen.images[:, None], chosen.images[None, :]
            pairs = factors[rows, columns].astype(pairs.dtype) * pairs
        return OrbitSample(
            shares=shares,
            projected=projected[:, chosen.images] * weights[None],
            plain=jnp.conj(kets) * weights / points,
            above=jax.tree.map(lambda x: kets * x.astype(f.dtype), above),
            weights=chosen.weights / points,
            pairs=pairs,
        )

    def _kernel(
        self, operations: Int[Array, " points"]
    ) -> Inexact[Array, "projections points points"]:
        """As $z_m = g_m^{-1} x$, the operation g takes it to the image of $g_m g$: the
        amplitude at $z_n$ enters the projection at $z_m$ with the character of
        $g_m^{-1} g_n$."""
        quotients = jnp.asarray(self.group.multiplication_table[self.group.inverses])
        pairs = quotients[operations[:, None], operations[None, :]]
        return jnp.conj(self.characters)[:, pairs]


class AbstractOrbitEstimate(AbstractSample):
    """Moments from a sample of the orbit of a walker."""

    orbit: eqx.AbstractVar[OrbitSampler]

    def __call__(self, electrons: Electrons, key: Key, reference: LocalEnergy) -> Any:
        return self.moments(self.orbit(electrons, key, reference))

    @abc.abstractmethod
    def moments(self, orbit: OrbitSample) -> Any:
        """A named tuple of the moments of one walker."""


def _choose(walker: Float[Array, " points"], local_energies: int, key: Key) -> _Choice:
    """Draws images without replacement: one time out of two the walker, which is the
    first point, and random others, else random points. The weights forget which of the
    points was the walker; its probabilities are `walker`.
    """
    points, dtype = walker.shape[0], walker.dtype
    if local_energies == points:
        ones = jnp.ones((points,), dtype)
        return _Choice(jnp.arange(points), ones, jnp.ones((points, points), dtype))
    toss, order = jax.random.split(key)
    others = jax.random.permutation(order, points - 1) + 1
    with_walker = jnp.concatenate(
        [jnp.zeros((1,), others.dtype), others[: local_energies - 1]]
    )
    share = 0.5 + 0.5 * local_energies / points
    chosen = jnp.where(
        jax.random.bernoulli(toss, share), with_walker, others[:local_energies]
    )
    # Of a point that is the walker, and of one that is not.
    own, other = share, (local_energies - share) / (points - 1)
    walker = walker[chosen]
    weights = 1 / (own * walker + other * (1 - walker))
    if local_energies == 1:
        return _Choice(chosen, weights, None)
    one = share * (local_energies - 1) / (points - 1)
    none = (
        (local_energies - 1)
        * (local_energies - 2 * share)
        / ((points - 1) * (points - 2))
    )
    either = walker[:, None] + walker[None, :]
    together = one * either + none * (1 - either)
    pairs = jnp.where(
        np.eye(local_energies, dtype=bool), jnp.diag(weights), 1 / together
    )
    return _Choice(chosen, weights, pairs)
