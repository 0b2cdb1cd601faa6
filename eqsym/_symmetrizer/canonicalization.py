"""Smoothed canonicalization: the few images in which an electron is in, or near, a
fundamental domain."""

import abc
import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._core import (
    AbstractFixed,
    checked,
    Electrons,
    Integer,
    Key,
    precise_matmul,
    whole_number,
)
from .._group import FundamentalDomain, polyhedron, SpaceGroup, static_data
from .orbits import AbstractRandomSymmetrizer, AbstractSymmetrizer, Orbit


# Below this exp(-1/w) is 0 to rounding, in any precision that JAX has.
_FLAT = 1e-3
# Points of the grid on which the images that meet somewhere are counted.
_GRID = 4000


class AbstractSmoothing(AbstractFixed):
    """A monotonic function s with s(w) = 0 for w <= 0, s(w) = 1 for w >= 1 and
    s(w) + s(1 - w) = 1, twice differentiable so that local energies are finite."""

    @abc.abstractmethod
    def __call__(self, w: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """s(w), with derivatives that are finite everywhere.

        **Arguments:**

        - `w`: any real numbers.

        **Returns:**

        Numbers from 0 to 1.
        """


class SmoothStep(AbstractSmoothing):
    r"""$s_\infty(w) = \phi(w) / (\phi(w) + \phi(1 - w))$ with $\phi(w) = e^{-1/w}$ for
    positive w and 0 otherwise: has all derivatives (Huang et al. (2025), arXiv
    2502.05318)."""

    def __call__(self, w: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """See [`eqsym.AbstractSmoothing`][]."""
        inside = (w > _FLAT) & (w < 1 - _FLAT)
        safe = jnp.where(inside, w, 0.5)
        # The ratio of exponentials as one that does not underflow.
        value = jax.nn.sigmoid(1 / (1 - safe) - 1 / safe)
        return jnp.where(inside, value, jnp.where(w < 0.5, 0.0, 1.0).astype(w.dtype))


class SplineStep(AbstractSmoothing):
    r"""The cubic spline with two continuous derivatives, of knots 0, 1/3, 2/3, 1:

    $$s_2(w) = \tfrac92 w^3,\quad \tfrac92 (w-1)^3 - \tfrac12 (3w-2)^3 + 1,\quad
    \tfrac92 (w-1)^3 + 1$$

    on the three intervals (Huang et al. (2025), arXiv 2502.05318). Its second
    derivative is at most 9, that of [`eqsym.SmoothStep`][] 9.8.
    """

    def __call__(self, w: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
        """See [`eqsym.AbstractSmoothing`][]."""
        # As a sum of truncated powers, one for each knot.
        clipped = jnp.clip(w, 0.0, 1.0)
        value = clipped**3
        for knot, jump in ((1 / 3, -3.0), (2 / 3, 3.0)):
            value = value + jump * jax.nn.relu(clipped - knot) ** 3
        return 4.5 * value


class Canonicalization(AbstractSymmetrizer):
    r"""Smoothed canonicalization,

    $$(P f)(x) = \frac1N \sum_i \sum_g W_g(r_i)\, f(g^{-1} x), \qquad
    W_g(r) = \frac{\sum_T \lambda_{gT}(r)}{\sum_{g'T} \lambda_{g'T}(r)}, \qquad
    \lambda_{gT}(r) = s\!\left(1 - d(g^{-1} r - T, D) / \epsilon\right)$$

    with the distance $d(r, D) = \sum_f w_f\, s(w_f / \epsilon)$ from the fundamental
    domain D, where $w_f$ is the distance beyond face f, and lattice vectors T. As
    invariant as the average over the group, but with few terms: those in which some
    electron is in D or less than $\epsilon$ away from it. Every electron is the
    reference in turn, so that P f is as antisymmetric as f.

    The weights are periodic functions of $r_i$ under all translations of the lattice,
    and coordinates are never wrapped in the images. So P f has the twisted boundary
    condition of f.

    P f is invariant, and P f = f if f is; but P is not the orthogonal projection.

    Huang et al. (2025), arXiv 2502.05318. There, all electrons are translated back to
    the domain with the reference, and each of the N electrons has images of its own.
    """

    domain: FundamentalDomain
    eps: float = eqx.field(static=True)
    smoothing: AbstractSmoothing
    max_terms: int | None = eqx.field(static=True)
    _reach: "_Reach"
    _meeting: int = eqx.field(static=True)

    @checked
    def __init__(
        self,
        domain: FundamentalDomain,
        eps: float | None = None,
        smoothing: AbstractSmoothing | None = None,
        max_terms: Integer | None = None,
    ):
        r"""**Arguments:**

        - `domain`: the fundamental domain.
        - `eps`: the width $\epsilon$ in Bohr of the layer around the domain in which
            weights go to 0. By default the radius of the largest ball inside the
            domain. The narrower, the fewer images, and the larger the kinetic energy
            in the layer.
        - `smoothing`: the function s, by default [`eqsym.SmoothStep`][].
        - `max_terms`: how many images to keep, those with the largest weights. By
            default as many as can have any weight: at most the number of operations,
            and at most the number of electrons times the number of images of the layer
            that meet in a point. With fewer, [`eqsym.Orbit`][] and
            [`eqsym.Statistics`][] count those that are dropped.

        **Raises:** `ValueError` if `eps` is not positive or larger than the domain,
        or `max_terms` is not positive.
        """
        self.domain = domain
        self.eps = _width(domain, eps)
        self.smoothing = SmoothStep() if smoothing is None else smoothing
        self.max_terms = (
            None if max_terms is None else whole_number("max_terms", max_terms)
        )
        self._reach = _reach(domain, self.eps)
        self._meeting = _meeting(domain, self._reach, self.eps)

    def __check_init__(self):
        if self.max_terms is not None and self.max_terms < 1:
            raise ValueError(
                f"`max_terms` must be a positive number, got {self.max_terms}. Leave "
                "it out to keep all images that have weight."
            )

    @property
    def group(self) -> SpaceGroup:
        """The group of the domain."""
        return self.domain.group

    @property
    def characters(self) -> Float[np.ndarray, " ops"]:
        """The characters of the trivial representation: P f is invariant."""
        return np.ones(self.group.order)

    def weights(self, electrons: Electrons) -> Float[Array, "electrons ops"]:
        """The $W_g(r_i)$, which sum to 1 for each electron.

        **Arguments:**

        - `electrons`: positions in Bohr.
        """
        return _weights(self.domain, self._reach, self.eps, self.smoothing, electrons)

    @checked
    def orbit(self, electrons: Electrons) -> Orbit:
        """See [`eqsym.AbstractSymmetrizer`][]. Images that only fill up the orbit have
        weight 0 and repeat the one with the largest weight. If images are dropped
        because of `max_terms`, P f is neither invariant nor continuous."""
        weights = jnp.mean(self.weights(electrons), axis=0)
        largest, indices = jax.lax.top_k(
            jax.lax.stop_gradient(weights), self._kept(electrons)
        )
        some = largest > 0
        indices = jnp.where(some, indices, indices[0])
        kept = jnp.where(some, weights[indices], jnp.zeros_like(largest))
        images = self.group.apply_inverse(electrons, indices)
        return Orbit(kept, images, jnp.sum(weights > 0) - jnp.sum(some))

    def _kept(self, electrons: Electrons) -> int:
        enough = min(self.group.order, len(electrons) * self._meeting)
        return enough if self.max_terms is None else min(enough, self.max_terms)


class RandomImage(AbstractSymmetrizer):
    r"""One image of [`eqsym.Canonicalization`][], drawn for one electron: a draw of
    [`eqsym.RandomCanonicalization`][].

    The image is $g^{-1} x$ with probability $W_g(r_i)$, found from the uniform number,
    and its weight is $W_g(r_i)$ divided by the value it has, which is 1 with the
    derivatives of $\log W_g$. The means over draws of the value and all derivatives of
    P f are those of the sum over images.
    """

    domain: FundamentalDomain
    eps: float = eqx.field(static=True)
    smoothing: AbstractSmoothing
    electron: Int[Array, ""]
    uniform: Float[Array, ""]
    _reach: "_Reach"

    def __init__(
        self,
        domain: FundamentalDomain,
        eps: float | None,
        smoothing: AbstractSmoothing | None,
        electron: Int[Array, ""],
        uniform: Float[Array, ""],
    ):
        """**Arguments:**

        - `domain`, `eps`, `smoothing`: as for [`eqsym.Canonicalization`][].
        - `electron`: the number of the electron.
        - `uniform`: a number from 0 to 1.
        """
        self.domain = domain
        self.eps = _width(domain, eps)
        self.smoothing = SmoothStep() if smoothing is None else smoothing
        self.electron = electron
        self.uniform = uniform
        self._reach = _reach(domain, self.eps)

    @property
    def group(self) -> SpaceGroup:
        """The group of the domain."""
        return self.domain.group

    @property
    def characters(self) -> None:
        """None: a single image has no symmetry."""

    def orbit(self, electrons: Electrons) -> Orbit:
        """See [`eqsym.AbstractSymmetrizer`][]."""
        expected = sum(self.group.crystal.electrons)
        if len(electrons) != expected:
            raise ValueError(
                f"`electrons` must be the {expected} electrons of the crystal of the "
                f"group, from which one is drawn, got {len(electrons)}."
            )
        reference = electrons[self.electron][None]
        weights = _weights(
            self.domain, self._reach, self.eps, self.smoothing, reference
        )[0]
        upto = jnp.cumsum(jax.lax.stop_gradient(weights))
        target = self.uniform.astype(upto.dtype) * upto[-1]
        # Rounding must not lead past the last image that has weight.
        target = jnp.minimum(target, jnp.nextafter(upto[-1], jnp.zeros_like(target)))
        index = jnp.argmax(upto > target)
        weight = weights[index] / jax.lax.stop_gradient(weights[index])
        return Orbit(weight[None], self.group.apply_inverse(electrons, index[None]))


class RandomCanonicalization(AbstractRandomSymmetrizer):
    """Smoothed canonicalization with one image at a time, of a random electron and
    drawn with the probabilities that are the weights of [`eqsym.Canonicalization`][]:
    as cheap as no symmetrization, and unbiased for the canonicalized wave function.

    Huang et al. (2025), arXiv 2502.05318.
    """

    domain: FundamentalDomain
    eps: float = eqx.field(static=True)
    smoothing: AbstractSmoothing

    @checked
    def __init__(
        self,
        domain: FundamentalDomain,
        eps: float | None = None,
        smoothing: AbstractSmoothing | None = None,
    ):
        """**Arguments:**

        - `domain`, `eps`, `smoothing`: as for [`eqsym.Canonicalization`][].

        **Raises:** `ValueError` if `eps` is not positive or larger than the domain.
        """
        self.domain = domain
        self.eps = _width(domain, eps)
        self.smoothing = SmoothStep() if smoothing is None else smoothing

    @property
    def group(self) -> SpaceGroup:
        """The group of the domain."""
        return self.domain.group

    @property
    def characters(self) -> Float[np.ndarray, " ops"]:
        """The characters of the trivial representation: the mean over draws is
        invariant."""
        return np.ones(self.group.order)

    @checked
    def draw(self, key: Key) -> RandomImage:
        """Draws an electron and a uniform number; `jax.vmap` it for a draw per walker.

        **Arguments:**

        - `key`: a random key.

        **Returns:**

        The symmetrizer of this draw.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        which, where = jax.random.split(key)
        electrons = sum(self.group.crystal.electrons)
        return RandomImage(
            self.domain,
            self.eps,
            self.smoothing,
            jax.random.randint(which, (), 0, electrons),
            jax.random.uniform(where),
        )


class _Reach(AbstractFixed):
    """Which translations T can take a point of a cell of the lattice to within `eps` of
    the domain. The cell is around the middle of the domain, so they are few."""

    _vectors: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    _middle: tuple[float, ...] = eqx.field(static=True)
    _shifts: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(self, domain: FundamentalDomain, eps: float):
        lattice = domain.group.lattice.reduced()
        inner = domain.offsets - domain.normals @ domain.point
        widened = polyhedron(domain.normals, inner + eps).vertices + domain.point
        frac = lattice.to_fractional(widened)
        middle = (np.min(frac, axis=0) + np.max(frac, axis=0)) / 2
        # T is between the cell and the widened domain, along each axis.
        extent = 0.5 + (np.max(frac, axis=0) - np.min(frac, axis=0)) / 2
        most = np.floor(extent + 1e-6).astype(int)
        boxes = np.array(list(itertools.product(*(range(-n, n + 1) for n in most))))
        shifts = lattice.to_cartesian(boxes.astype(float))
        # The corner of the cell that is deepest below each face of the domain.
        deepest = 0.5 * np.sum(np.abs(domain.normals @ lattice.vectors.T), axis=1)
        lowest = domain.normals @ lattice.to_cartesian(middle) - deepest
        beyond = lowest - shifts @ domain.normals.T - domain.offsets
        possible = np.all(beyond <= eps + 1e-6 * (1 + eps), axis=1)
        self._vectors = static_data(lattice.vectors)
        self._middle = static_data(lattice.to_cartesian(middle))
        self._shifts = static_data(shifts[possible])

    @property
    def shifts(self) -> Float[np.ndarray, "shifts 3"]:
        """The T in Bohr."""
        return np.array(self._shifts)

    def wrap(
        self, points: Float[np.ndarray, "*batch 3"]
    ) -> Float[np.ndarray, "*batch 3"]:
        """Points moved into the cell."""
        frac = (points - np.array(self._middle)) @ np.linalg.inv(self._vectors)
        return points - np.round(frac) @ np.array(self._vectors)

    def __call__(
        self, points: Float[Array, "*batch 3"]
    ) -> Float[Array, "*batch shifts 3"]:
        """All translates of points that can be near the domain."""
        vectors = jnp.asarray(self._vectors, points.dtype)
        inverse = jnp.asarray(np.linalg.inv(self._vectors), points.dtype)
        middle = jnp.asarray(self._middle, points.dtype)
        fixed = jax.lax.stop_gradient(points)
        frac = precise_matmul(fixed - jnp.broadcast_to(middle, points.shape), inverse)
        wrapped = points - precise_matmul(jnp.round(frac), vectors)
        shifts = jnp.asarray(self.shifts, points.dtype)
        shape = (*points.shape[:-1], *shifts.shape)
        return jnp.broadcast_to(wrapped[..., None, :], shape) - jnp.broadcast_to(
            shifts, shape
        )


@functools.lru_cache(maxsize=64)
def _reach(domain: FundamentalDomain, eps: float) -> _Reach:
    """The same for every draw of an image."""
    return _Reach(domain, eps)


def _weights(
    domain: FundamentalDomain,
    reach: _Reach,
    eps: float,
    smoothing: AbstractSmoothing,
    points: Float[Array, "points 3"],
) -> Float[Array, "points ops"]:
    """The W_g of all operations at points."""
    near = reach(domain.group.apply_inverse(points))
    excess = domain.excess(near)
    # Linear away from the faces, and smooth across the planes of all of them.
    distance = jnp.sum(excess * smoothing(excess / eps), axis=-1)
    # At least one is 1 up to rounding: each point is in some image of the domain.
    values = jnp.sum(smoothing(1 - distance / eps), axis=-1).T
    return values / jnp.sum(values, axis=1, keepdims=True)


def _width(domain: FundamentalDomain, eps: float | None) -> float:
    if eps is None:
        return domain.inradius
    if not 0 < eps <= domain.circumradius:
        raise ValueError(
            "`eps` must be a positive length in Bohr of at most the size of the "
            f"domain, {domain.circumradius:.6g}, got {eps}. If more images shall be "
            "mixed, use `GroupAverage`."
        )
    return float(eps)


def _meeting(domain: FundamentalDomain, reach: _Reach, eps: float) -> int:
    """How many operations at most have weight at one point: counted at points of a grid
    in the domain, with `eps` enlarged by how far a point can be from one of the grid.
    """
    low, high = np.min(domain.vertices, axis=0), np.max(domain.vertices, axis=0)
    spacing = np.cbrt(np.prod(high - low) / _GRID)
    numbers = np.ceil((high - low) / spacing).astype(int)
    steps = (high - low) / numbers
    slack = 0.5 * np.linalg.norm(steps)
    corners = np.array(list(itertools.product(*(range(n) for n in numbers))))
    grid = low + steps * (corners + 0.5)
    beyond = np.max(grid @ domain.normals.T - domain.offsets, axis=1)
    grid = grid[beyond <= slack]
    group = domain.group
    moved = (grid[:, None] - group.cart_translations)[:, :, None] @ group.cart_rotations
    counts = np.zeros(len(grid), dtype=int)
    for images in np.moveaxis(moved[:, :, 0], 1, 0):
        near = reach.wrap(images)[:, None] - reach.shifts
        beyond = np.max(near @ domain.normals.T - domain.offsets, axis=-1)
        counts += np.any(beyond < eps + slack + group.tolerance, axis=1)
    return int(np.max(counts))
