"""Symmetrized wave functions: weighted sums over the images of a configuration."""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int

from .._core import (
    AbstractFixed,
    AbstractModule,
    checked,
    Electrons,
    Integer,
    Key,
    log_sum,
    LogPsi,
    OPERATIONS,
    precise_einsum,
    rescaled,
    scaled_sum,
    spread,
    whole_number,
)
from .._crystal import Crystal
from .._group import character_table, Irrep, SpaceGroup
from .._wavefunction import AbstractWavefunction, amplitude
from .momentum import check_projection, keeps_momentum, lacks_translations


# Rounding of the coefficients of a projector.
_PROJECTOR = 1e-8


class Orbit(AbstractModule):
    """The terms of a sum over images of one configuration, see
    [`eqsym.AbstractSymmetrizer`][].

    - `weights`: one for each term.
    - `images`: the configurations in Bohr, (terms, electrons, 3).
    - `dropped_terms`: how many terms with a weight other than zero are missing, because
        a bound on their number was too small.
    """

    weights: Inexact[Array, " terms"]
    images: Float[Array, "terms electrons 3"]
    dropped_terms: Int[Array, ""] = eqx.field(
        default_factory=lambda: jnp.zeros((), int)
    )


class AbstractRandomSymmetrizer(AbstractFixed):
    """A distribution of symmetrizers, to train with another one in every step."""

    group: eqx.AbstractVar[SpaceGroup]

    @property
    @abc.abstractmethod
    def characters(self) -> Inexact[np.ndarray, " ops"] | None:
        """The characters of the irreducible representation of `group` to which P f, in
        the mean over draws, belongs, one for each operation: ones if it is
        invariant. `None` if it has no such symmetry; then nothing is checked about
        f, and nothing known about the crystal momentum of P f. Known when a symmetrizer
        is made, never traced.
        """

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
        """The symmetrizer itself: nothing about it is random."""
        del key
        return self


class AbstractProjection(AbstractSymmetrizer):
    r"""A projector $P = \sum_g a_g U_g$, $(U_g f)(x) = f(g^{-1} x)$, with one number
    for each operation of a group.

    Only a projector, $P^2 = P = P^\dagger$, splits f into a part with a symmetry and
    a rest that is orthogonal to it. Estimators and training that rely on this take
    projections and no other symmetrizers. Derive one to project onto a part of your
    own: give `group`, `coefficients` and `characters`.
    """

    @property
    @abc.abstractmethod
    def coefficients(self) -> Inexact[np.ndarray, " ops"]:
        """The numbers $a_g$, in the order of the operations of `group`; known when a
        projection is made, never traced."""

    @checked
    def orbit(self, electrons: Electrons) -> Orbit:
        """The coefficients, and the images by all operations."""
        weights = as_weights(self.coefficients, electrons.dtype)
        return Orbit(weights, self.group.apply_inverse(electrons))


def as_weights(
    coefficients: Inexact[np.ndarray, " ops"], dtype: np.dtype
) -> Inexact[Array, " ops"]:
    """Coefficients in a floating-point type, or the complex one of that precision."""
    if np.iscomplexobj(coefficients):
        return jnp.asarray(coefficients, np.promote_types(dtype, np.complex64))
    return jnp.asarray(coefficients, dtype)


def check_projector(name: str, projection: AbstractProjection) -> None:
    r"""Raises `ValueError` for anything that is not a projector: with
    $U_g U_h = U_{gh}$ that is $\sum_h a_h a_{h^{-1} g} = a_g$ and
    $a_{g^{-1}} = \overline{a_g}$."""
    group, a = projection.group, np.asarray(projection.coefficients)
    if a.shape != (group.order,):
        raise ValueError(
            f"`{name}` must have a coefficient for each of the {group.order} operations"
            f" of its group, got an array of shape {a.shape}."
        )
    square = np.zeros(group.order, complex)
    np.add.at(square, group.multiplication_table, np.outer(a, a))
    worst = np.max(np.abs(square - a))
    if max(worst, np.max(np.abs(a[group.inverses] - np.conj(a)))) > _PROJECTOR:
        raise ValueError(
            f"`{name}` must be a projector, equal to its square and its adjoint, but "
            f"the `coefficients` of this `{type(projection).__name__}` and of its "
            f"square differ by up to {worst:.2g}."
        )


@checked
class GroupAverage(AbstractProjection):
    r"""The average over a group, $(P f)(x) = |G|^{-1} \sum_g f(g^{-1} x)$: the
    projection onto functions that all operations leave as they are.

    Group averaging of Huang et al. (2025), arXiv 2502.05318, with the images of all
    operations.

    **Arguments:**

    - `group`: the space group.

    **Raises:** `ValueError` for arguments of the wrong kind.
    """

    group: SpaceGroup

    @property
    def characters(self) -> Float[np.ndarray, " ops"]:
        """The characters of the trivial representation."""
        return np.ones(self.group.order)

    @property
    def coefficients(self) -> Float[np.ndarray, " ops"]:
        """The same for all operations."""
        return np.full(self.group.order, 1 / self.group.order)


class IrrepProjection(AbstractProjection):
    r"""The projection onto functions that belong to one irreducible representation,

    $$P_\rho f = \frac{d_\rho}{|G|} \sum_g \overline{\chi_\rho(g)}\, U_g f , \qquad
    (U_g f)(x) = f(g^{-1} x) .$$

    The projections onto all irreps of a group add up to f, and those onto different
    ones are orthogonal. That onto the trivial one is [`eqsym.GroupAverage`][]. Weights
    are complex if the characters are, real elsewhere.

    With `row`, the projection $(d_\rho / |G|) \sum_g \overline{D_{rr}(g)}\, U_g f$ onto
    functions that transform as the r-th of the d partners: the projections onto all
    rows add up to $P_\rho$. It is from these that states of a degenerate level are
    told apart.

    E. P. Wigner, Group Theory (1959), eq. 12.3; M. Hamermesh, Group Theory (1962),
    eq. 3-176.
    """

    irrep: Irrep
    row: int | None = eqx.field(static=True)

    @checked
    def __init__(
        self, group: SpaceGroup, irrep: str | Irrep, row: Integer | None = None
    ):
        """**Arguments:**

        - `group`: the group.
        - `irrep`: one of [`eqsym.irreps`][] of the group, or its label.
        - `row`: 0 to d - 1, in the basis of [`eqsym.Irrep.matrices`][]; by default all
            together.

        **Raises:** `ValueError` if the group has no such irrep, with those it has,
        and if the irrep has no such row.
        """
        label = irrep if isinstance(irrep, str) else irrep.label
        self.irrep = character_table(group)[label]
        self.row = None if row is None else whole_number("row", row)
        if not isinstance(irrep, str) and irrep != self.irrep:
            raise ValueError(
                f"`irrep` {label} must be one of `group`, got one of another group. "
                "Give its label instead."
            )

    def __check_init__(self):
        if self.row is not None and not 0 <= self.row < self.irrep.dimension:
            raise ValueError(
                f"`row` of the irrep {self.irrep.label} must be from 0 to "
                f"{self.irrep.dimension - 1}, got {self.row}."
            )

    @property
    def group(self) -> SpaceGroup:
        """The group of the irrep."""
        return self.irrep.group

    @property
    def characters(self) -> Inexact[np.ndarray, " ops"]:
        """The characters of the irrep."""
        return self.irrep.characters

    @property
    def coefficients(self) -> Inexact[np.ndarray, " ops"]:
        """Complex conjugates of characters or diagonal elements, times d / |G|."""
        row, d = self.row, self.irrep.dimension
        factors = self.characters
        if row is not None:
            factors = self.irrep.matrices[:, row, row]
        return np.conj(factors) * (d / self.group.order)


class Symmetrized(AbstractWavefunction):
    r"""The wave function $P f$ for a wave function f and a symmetrizer P, not
    normalized. A wave function as any other: it may be symmetrized again.
    """

    wavefunction: AbstractWavefunction
    symmetrizer: AbstractSymmetrizer
    operation_chunk: int | None = eqx.field(default=None, static=True)

    @checked
    def __init__(
        self,
        wavefunction: AbstractWavefunction,
        symmetrizer: AbstractSymmetrizer,
        operation_chunk: Integer | None = None,
    ):
        r"""**Arguments:**

        - `wavefunction`: the wave function f.
        - `symmetrizer`: the symmetrizer P, for the crystal of f.
        - `operation_chunk`: how many operations (images) to evaluate at a time, by
            default all. With fewer, amplitudes, local energies and gradients take the
            memory of so many images, one part after the other. Gradients then evaluate
            the images twice.

        **Raises:** `ValueError` if the group of `symmetrizer` is one of another
        crystal, or `operation_chunk` is not positive; and if P cannot project
        `wavefunction` as it is meant to:

        - Operations $g_i g_j = t g_k$ multiply up to lattice translations t. On the
            wave function, translations are phases $e^{-i K \cdot t}$ of its
            [`eqsym.AbstractWavefunction.crystal_momentum`][]. If they are not all 1
            the $U_g$ do not multiply as the operations do, and a sum over them has none
            of the symmetry that it is meant to have. If a t is not a vector of the
            supercell and the momentum is `None`, this cannot be known.
        - If the group contains lattice translations, on which the representation
            does not have the phases of the wave function, P f is zero everywhere.
        """
        self.wavefunction = wavefunction
        self.symmetrizer = symmetrizer
        self.operation_chunk = None
        if operation_chunk is not None:
            self.operation_chunk = whole_number("operation_chunk", operation_chunk)

    def __check_init__(self):
        if self.operation_chunk is not None and self.operation_chunk < 1:
            raise ValueError(
                "`operation_chunk` must be a positive number of operations, got "
                f"{self.operation_chunk}. Leave it out to evaluate all at once."
            )
        try:
            self.symmetrizer.group.check_crystal(self.wavefunction.crystal)
        except ValueError as error:
            raise ValueError(
                f"`symmetrizer` does not fit `wavefunction`. {error}"
            ) from None
        check_projection(
            self.wavefunction, self.symmetrizer.group, self.symmetrizer.characters
        )

    @property
    def crystal(self) -> Crystal:
        """The crystal of the wave function."""
        return self.wavefunction.crystal

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"] | None:
        """The momentum of the wave function inside, if all operations of the group take
        it to itself modulo primitive reciprocal vectors. Not known if the group is one
        modulo the supercell without all translations inside: weights of images need
        not have the translations of the crystal then."""
        group, momentum = self.symmetrizer.group, self.wavefunction.crystal_momentum
        unknown = self.symmetrizer.characters is None or lacks_translations(group)
        if unknown or momentum is None:
            return None
        return momentum if keeps_momentum(group, momentum) else None

    @checked
    def __call__(self, electrons: Electrons) -> LogPsi:
        orbit = self.symmetrizer.orbit(electrons)
        chunk = self.operation_chunk
        if chunk is None or chunk >= len(orbit.weights):
            return log_sum(*_terms(self.wavefunction, orbit))
        return _sum_in_chunks(self.wavefunction, orbit, chunk)


@checked
def symmetry_ratio(
    wavefunction: AbstractWavefunction,
    symmetrizer: AbstractSymmetrizer,
    electrons: Electrons,
    *,
    operation_chunk: Integer | None = None,
) -> Inexact[Array, ""]:
    r"""$r(x) = (P f)(x) / f(x)$ at one configuration.

    Over $x \sim |f|^2$ and for a projector P, the mean of r is the weight
    $|P f|^2 / |f|^2$ of the symmetric part of f, and its variance, which is 0 for a
    symmetric f, is the symmetry measure of Huang et al. (2025), arXiv 2502.05318.

    **Arguments:**

    - `wavefunction`: the wave function f.
    - `symmetrizer`: the symmetrizer P.
    - `electrons`: positions in Bohr.
    - `operation_chunk`: as for [`eqsym.Symmetrized`][].

    **Returns:**

    The ratio; real if both amplitudes are. Not finite if f vanishes.

    **Raises:** `ValueError` as [`eqsym.Symmetrized`][] does.
    """
    averaged = Symmetrized(wavefunction, symmetrizer, operation_chunk)
    symmetrized = amplitude(averaged, electrons)
    bare = amplitude(wavefunction, electrons)
    phase = symmetrized.sign * jnp.conj(bare.sign).astype(symmetrized.sign.dtype)
    return phase * jnp.exp(symmetrized.log - bare.log).astype(phase.dtype)


def _terms(
    wavefunction: AbstractWavefunction, orbit: Orbit
) -> tuple[LogPsi, Inexact[Array, " images"]]:
    """Amplitudes of the images, and the weights in the dtype of their signs."""
    terms = jax.vmap(functools.partial(amplitude, wavefunction))(orbit.images)
    if jnp.issubdtype(orbit.weights.dtype, jnp.complexfloating):
        return LogPsi(terms.sign.astype(orbit.weights.dtype), terms.log), orbit.weights
    return terms, orbit.weights.astype(terms.sign.dtype)


def _sum_in_chunks(
    wavefunction: AbstractWavefunction, orbit: Orbit, chunk: int
) -> LogPsi:
    """The sum of `_terms`, `chunk` images at a time, which reverse mode evaluates again
    instead of storing what it needs of them."""
    weights, count = orbit.weights, len(orbit.weights)
    chunk = min(chunk, count)
    selections = jnp.eye(count, dtype=orbit.images.dtype)
    first = count % chunk or chunk

    @jax.checkpoint
    def part(selection):
        # A product with ones and zeros rather than an index, which a loop does not know
        # as a number: with it, the forward Laplacian would keep all derivatives.
        selection = spread(selection, OPERATIONS)
        some = Orbit(
            precise_einsum("cm,m->c", selection.astype(weights.dtype), weights),
            precise_einsum("cm,mni->cni", selection, orbit.images),
        )
        return scaled_sum(*_terms(wavefunction, some))

    def add(total, selection):
        parts = (total, part(selection))
        log = jnp.maximum(parts[0][1], parts[1][1])
        values = [v * jnp.exp(l - log).astype(v.dtype) for v, l in parts]
        return (values[0] + values[1], log), None

    total, _ = jax.lax.scan(
        add, part(selections[:first]), selections[first:].reshape(-1, chunk, count)
    )
    return rescaled(*total)
