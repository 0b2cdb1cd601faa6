"""Space groups acting on all electrons at once."""

import logging
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import spglib
from jaxtyping import Array, Bool, Float, Int

from ._crystal import Crystal
from ._types import AbstractFixed, Electrons


_logger = logging.getLogger("eqsym")

# How far, in Bohr, an operation may take a nucleus from the next one, a lattice vector
# from its length, and a product from the operation it should be.
_TOLERANCE = 1e-4
# Part of it that finding operations may use: products of operations deviate by more.
_SYMPREC = 1e-5
# In fractions of reciprocal vectors; anything not rounding is another twist.
_SAME_TWIST = 1e-6


class SpaceGroup(AbstractFixed):
    r"""Symmetry operations of a crystal, acting diagonally on all electrons.

    An operation $g = (R, t)$ takes a configuration $(r_1, .., r_N)$ to
    $g x = (R r_1 + t, .., R r_N + t)$; on functions it acts by
    $(U_g f)(x) = f(g^{-1} x)$. It commutes with the Hamiltonian because it maps nuclei
    to nuclei of the same species, and it keeps the boundary condition because it maps
    the supercell lattice to itself and the twist to itself up to a reciprocal vector of
    the supercell (the little co-group of the twist).

    The operations are one of each class modulo *primitive* lattice translations, and
    closed modulo these: 48 for rock salt in any cubic supercell. The product of two
    operations of a nonsymmorphic crystal can be a third one times a primitive
    translation, also one that is not a vector of the supercell. The amplitudes of this
    library carry $\psi(x + t) = e^{i K \cdot t} \psi(x)$ for primitive $t$, with the
    total crystal momentum $K$, so that where $K \cdot t$ is a multiple of $2 \pi$ for
    these translations, operations may be multiplied as if they formed a finite group.
    Where it is not, the $U_g$ multiply up to such phases only.

    Where the lattice of the crystal is not the smallest one, say a hydrogen chain with
    two atoms in its cell, the fractional translations are operations too.

    As in crystals, all data is static: groups are hashable, compare by value, and are
    constants of what is compiled.

    Diagonal groups: Huang et al. (2025), arXiv 2502.05318.
    """

    crystal: Crystal
    tolerance: float = eqx.field(static=True)
    _rotations: tuple[tuple[tuple[int, ...], ...], ...] = eqx.field(static=True)
    _frac_translations: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(
        self,
        crystal: Crystal,
        rotations: Any,
        frac_translations: Any,
        *,
        tolerance: float = _TOLERANCE,
    ):
        """**Arguments:**

        - `crystal`: the crystal whose operations these are.
        - `rotations`: (ops, 3, 3) integers R, acting on columns of fractions of the
            primitive lattice vectors, `x' = R x + t`: the convention of spglib and of
            the International Tables.
        - `frac_translations`: (ops, 3), the t.
        - `tolerance`: in Bohr, how precisely nuclei, lattice and products must match.

        The operations stay in the order given.

        **Raises:** `ValueError` that says which operation fails which requirement: to
        be an isometry, to map nuclei to nuclei of the same species, to map the
        supercell lattice to itself, to keep the twist; and for all together to hold the
        identity, to hold no operation twice, and to be closed under multiplication.
        """
        given = np.asarray(rotations)
        translations = np.asarray(frac_translations, dtype=np.float64)
        if given.ndim != 3 or given.shape[1:] != (3, 3) or len(given) == 0:
            raise ValueError(
                "`rotations` must be 3x3 matrices, of shape (ops, 3, 3) with at least "
                f"one operation, got shape {given.shape}."
            )
        if translations.shape != (len(given), 3) or not np.all(
            np.isfinite(translations)
        ):
            raise ValueError(
                "`frac_translations` must be three finite numbers for each of the "
                f"{len(given)} `rotations`, got shape {translations.shape}."
            )
        integers = np.round(given).astype(int)
        if not np.array_equal(integers, given):
            raise ValueError(
                "`rotations` must be integers: they act on fractions of the primitive "
                "lattice vectors, not on Cartesian coordinates."
            )
        self.crystal = crystal
        self.tolerance = float(tolerance)
        self._rotations = tuple(
            tuple(tuple(row) for row in rotation) for rotation in integers.tolist()
        )
        self._frac_translations = tuple(tuple(row) for row in translations.tolist())

    def __check_init__(self):
        advice = " Use `SpaceGroup.of` to find the operations of a crystal."
        for name, good in (
            ("be an isometry", self._isometric()),
            ("map each nucleus to one of the same species", self._maps_nuclei()),
            (
                "map the supercell lattice to itself",
                _keeps_supercell(self.crystal, self.rotations),
            ),
            (
                "keep the twist, up to a reciprocal vector of the supercell",
                _keeps_twist(self.crystal, self.rotations),
            ),
        ):
            if not np.all(good):
                i = int(np.argmin(good))
                raise ValueError(
                    "`rotations` and `frac_translations`: every operation must "
                    f"{name}, but {int(np.sum(~good))} of {self.order} do not, first "
                    f"{self._describe(i)}.{advice}"
                )
        same = self._find(self.rotations, self.frac_translations)
        if np.any(same.sum(axis=1) > 1):
            i, j = np.flatnonzero(same[np.argmax(same.sum(axis=1) > 1)])[:2]
            raise ValueError(
                "`rotations` and `frac_translations` must be free of duplicates modulo "
                f"primitive lattice translations, but {self._describe(i)} is the same "
                f"as {self._describe(j)}.{advice}"
            )
        if not np.any(self._find(np.eye(3, dtype=int)[None], np.zeros((1, 3)))):
            raise ValueError(
                "`rotations` and `frac_translations` must contain the identity, got "
                f"{self.order} operations without it.{advice}"
            )
        missing = np.argwhere(self.multiplication_table < 0)
        if len(missing):
            i, j = missing[0]
            raise ValueError(
                "`rotations` and `frac_translations` must be closed under "
                "multiplication modulo primitive lattice translations, but the product "
                f"of {self._describe(i)} and {self._describe(j)} is not among the "
                f"{self.order} operations.{advice}"
            )

    @classmethod
    def of(cls, crystal: Crystal, *, symprec: float = _SYMPREC) -> "SpaceGroup":
        """All operations of a crystal that its supercell and twist admit, found by
        spglib. The identity comes first.

        Says on the logger `eqsym` how many operations of the primitive crystal the
        supercell and the twist exclude.

        **Arguments:**

        - `crystal`: the crystal.
        - `symprec`: in Bohr, how far from symmetric positions the nuclei may be. The
            operations are as precise as the positions are.

        **Raises:** `ValueError` where spglib finds no group within `symprec`.
        """
        frac = crystal.lattice.to_fractional(crystal.positions)
        cell = (
            crystal.lattice.vectors.tolist(),
            frac.tolist(),
            crystal.atomic_numbers.tolist(),
        )
        cause = None
        try:
            with warnings.catch_warnings():
                # spglib 2 announces another way to report errors; both are handled.
                warnings.simplefilter("ignore", DeprecationWarning)
                dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
        except spglib.error.SpglibError as error:
            dataset, cause = None, error
        if dataset is None:
            raise ValueError(
                f"`symprec` {symprec} Bohr: spglib finds no space group of the crystal "
                "to this precision. Try another one, smaller than the distances "
                "between nuclei."
            ) from cause
        rotations = np.asarray(dataset.rotations, dtype=int)
        translations = np.asarray(dataset.translations, dtype=np.float64)
        # Into [0, 1), with rounding errors around 0 and 1 both taken to 0.
        translations = translations - np.floor(translations + 1e-9)
        translations[np.abs(translations) < 1e-12] = 0.0

        found = len(rotations)
        fits = _keeps_supercell(crystal, rotations)
        if not np.all(fits):
            _logger.info(
                "%d of %d symmetry operations are dropped: they do not map the lattice "
                "of the supercell %s to itself.",
                np.sum(~fits),
                found,
                crystal.matrix.tolist(),
            )
        little = _keeps_twist(crystal, rotations)
        if not np.all(little | ~fits):
            _logger.info(
                "%d of %d symmetry operations are dropped: they map the twist %s to "
                "another one.",
                np.sum(fits & ~little),
                found,
                crystal.twist.tolist(),
            )
        keep = fits & little
        rotations, translations = rotations[keep], translations[keep]
        identity = np.all(rotations == np.eye(3, dtype=int), axis=(1, 2)) & np.all(
            translations == 0, axis=1
        )
        first = np.argsort(~identity, kind="stable")
        tolerance = max(_TOLERANCE, symprec * _TOLERANCE / _SYMPREC)
        return cls(crystal, rotations[first], translations[first], tolerance=tolerance)

    @property
    def order(self) -> int:
        """Number of operations."""
        return len(self._rotations)

    @property
    def rotations(self) -> Int[np.ndarray, "ops 3 3"]:
        """The R on columns of fractions of the primitive lattice vectors."""
        return np.array(self._rotations)

    @property
    def frac_translations(self) -> Float[np.ndarray, "ops 3"]:
        """The t in fractions of the primitive lattice vectors."""
        return np.array(self._frac_translations)

    @property
    def cart_rotations(self) -> Float[np.ndarray, "ops 3 3"]:
        """The R as orthogonal matrices on columns of Cartesian coordinates."""
        # Lattice vectors are rows, so r = A^T x.
        columns = self.crystal.lattice.vectors.T
        return columns @ self.rotations @ np.linalg.inv(columns)

    @property
    def cart_translations(self) -> Float[np.ndarray, "ops 3"]:
        """The t in Bohr."""
        return self.crystal.lattice.to_cartesian(self.frac_translations)

    @property
    def multiplication_table(self) -> Int[np.ndarray, "ops ops"]:
        """`table[i, j]` is the number of the operation that is `g_i g_j` (first j, then
        i) up to a primitive lattice translation."""
        rotations, translations = self.rotations, self.frac_translations
        table = np.empty((self.order, self.order), dtype=int)
        for i in range(self.order):
            same = self._find(
                rotations[i] @ rotations,
                translations @ rotations[i].T + translations[i],
            )
            table[i] = np.where(same.any(axis=1), same.argmax(axis=1), -1)
        return table

    @property
    def inverses(self) -> Int[np.ndarray, " ops"]:
        """`inverses[i]` is the number of the operation that is the inverse of `g_i` up
        to a primitive lattice translation."""
        rotations = np.round(np.linalg.inv(self.rotations)).astype(int)
        shifts = -np.einsum("gij,gj->gi", rotations, self.frac_translations)
        return self._find(rotations, shifts).argmax(axis=1)

    def apply(
        self,
        electrons: Electrons,
        operations: Int[Array, " images"] | None = None,
    ) -> Float[Array, "images electrons 3"]:
        """The images g x of a configuration. Coordinates are never wrapped into the
        supercell: that would lose the phase of a twisted boundary condition.

        **Arguments:**

        - `electrons`: positions in Bohr.
        - `operations`: numbers of the operations wanted, by default all in order. They
            may be traced.

        **Returns:**

        The images in Bohr, in the dtype of `electrons`.
        """
        rotations, translations = self._cartesian(electrons.dtype, operations)
        return _rotate(rotations, electrons[None]) + translations[:, None]

    def apply_inverse(
        self,
        electrons: Electrons,
        operations: Int[Array, " images"] | None = None,
    ) -> Float[Array, "images electrons 3"]:
        """The images g^-1 x: exactly what `apply` undoes, not only up to a lattice
        translation. Arguments and result as there."""
        rotations, translations = self._cartesian(electrons.dtype, operations)
        shifted = electrons[None] - translations[:, None]
        return _rotate(jnp.swapaxes(rotations, 1, 2), shifted)

    def check_crystal(self, crystal: Crystal) -> None:
        """Raises unless `crystal` is the crystal of this group: the same lattice,
        nuclei, supercell and twist, to rounding. The number of electrons may differ.

        **Raises:** `ValueError` that names what differs.
        """
        for name, own, other in (
            ("lattice", self.crystal.lattice.vectors, crystal.lattice.vectors),
            ("species", self.crystal.species, crystal.species),
            ("positions", self.crystal.positions, crystal.positions),
            ("supercell", self.crystal.matrix, crystal.matrix),
            ("twist", self.crystal.twist, crystal.twist),
        ):
            if name == "species":
                same = own == other
            else:
                same = np.allclose(own, other, rtol=0, atol=1e-8)
            if not same:
                raise ValueError(
                    "The space group must be one of this crystal, but its crystal has "
                    f"another {name}: expected {_shown(other)}, got {_shown(own)}. "
                    "Build it with `SpaceGroup.of` from the crystal of the wave "
                    "function."
                )

    def _cartesian(
        self, dtype: Any, operations: Int[Array, " images"] | None
    ) -> tuple[Float[Array, "images 3 3"], Float[Array, "images 3"]]:
        rotations = jnp.asarray(self.cart_rotations, dtype)
        translations = jnp.asarray(self.cart_translations, dtype)
        if operations is None:
            return rotations, translations
        return rotations[operations], translations[operations]

    def _find(
        self,
        rotations: Int[np.ndarray, "some 3 3"],
        frac_translations: Float[np.ndarray, "some 3"],
    ) -> Bool[np.ndarray, "some ops"]:
        """Which given operation is which of the group, modulo the lattice."""
        same = np.all(rotations[:, None] == self.rotations[None], axis=(2, 3))
        shift = frac_translations[:, None] - self.frac_translations[None]
        return same & (_length_modulo(self.crystal, shift) < self.tolerance)

    def _isometric(self) -> Bool[np.ndarray, " ops"]:
        longest = np.max(np.linalg.norm(self.crystal.lattice.vectors, axis=1))
        square = self.cart_rotations @ np.swapaxes(self.cart_rotations, 1, 2)
        return np.max(np.abs(square - np.eye(3)), axis=(1, 2)) * longest < (
            self.tolerance
        )

    def _maps_nuclei(self) -> Bool[np.ndarray, " ops"]:
        frac = self.crystal.lattice.to_fractional(self.crystal.positions)
        images = np.einsum("gij,nj->gni", self.rotations, frac)
        images = images + self.frac_translations[:, None]
        gaps = images[:, :, None] - frac[None, None]
        charges = self.crystal.atomic_numbers
        onto = (_length_modulo(self.crystal, gaps) < self.tolerance) & (
            charges[:, None] == charges[None, :]
        )
        return np.all(onto.any(axis=2) & onto.any(axis=1), axis=1)

    def _describe(self, i: Any) -> str:
        rotation = self.rotations[i].tolist()
        translation = np.round(self.frac_translations[i], 6).tolist()
        return f"operation {int(i)} (rotation {rotation}, translation {translation})"


def _rotate(
    rotations: Float[Array, "images 3 3"], points: Float[Array, "#images electrons 3"]
) -> Float[Array, "images electrons 3"]:
    points = jnp.broadcast_to(points, (len(rotations), *points.shape[1:]))
    # Accelerators round the factors of single-precision products to 10 bits by default,
    # which would move electrons by thousandths of a Bohr.
    return jnp.einsum(
        "gij,gnj->gni", rotations, points, precision=jax.lax.Precision.HIGHEST
    )


def _length_modulo(
    crystal: Crystal, frac: Float[np.ndarray, "*batch 3"]
) -> Float[np.ndarray, "*batch"]:
    """Length in Bohr of a vector modulo lattice vectors; exact where it is short."""
    return np.linalg.norm(crystal.lattice.to_cartesian(frac - np.round(frac)), axis=-1)


def _supercell_rotations(
    crystal: Crystal, rotations: Int[np.ndarray, "ops 3 3"]
) -> Float[np.ndarray, "ops 3 3"]:
    """The same rotations on columns of fractions of the supercell vectors: with
    x = S^T y between the two kinds of fractions, S^-T R S^T."""
    columns = crystal.matrix.T
    return np.linalg.inv(columns) @ rotations @ columns


def _keeps_supercell(
    crystal: Crystal, rotations: Int[np.ndarray, "ops 3 3"]
) -> Bool[np.ndarray, " ops"]:
    # Supercell vectors have integer y, so their images must be integer too. R^-1 is a
    # power of R, so the lattice is then mapped onto itself.
    inside = _supercell_rotations(crystal, rotations)
    return np.all(np.abs(inside - np.round(inside)) < 1e-6, axis=(1, 2))


def _keeps_twist(
    crystal: Crystal, rotations: Int[np.ndarray, "ops 3 3"]
) -> Bool[np.ndarray, " ops"]:
    # k.r is the same before and after, so the row of fractions k goes to k Q^-1; that
    # is k modulo integers where k Q is, as Q and Q^-1 are integer.
    change = crystal.twist @ _supercell_rotations(crystal, rotations) - crystal.twist
    return np.all(np.abs(change - np.round(change)) < _SAME_TWIST, axis=1)


def _shown(value: Any) -> Any:
    return np.round(value, 8).tolist() if isinstance(value, np.ndarray) else value
