"""Space groups acting on all electrons at once."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._core import (
    AbstractFixed,
    AbstractSummarized,
    checked,
    Electrons,
    formula,
    Integer,
    Numbers,
    OPERATIONS,
    spread,
)
from .._crystal import Crystal, Lattice, MIN_VACUUM, SYMPREC, vacuum_directions
from .algebra import (
    check_closed,
    checked_numbers,
    conjugacy_classes,
    generated,
    inverses,
)
from .images import images, inverse_images
from .international_tables import (
    group_symbol,
    layer_group_setting,
    plane_group_setting,
    space_group_setting,
    tabulated_operations,
)
from .names import listing, operation_names
from .operations import (
    checked_operations,
    distinct,
    is_identity,
    Operations,
    operations_of,
    ordered,
    Products,
    products,
    pure_translations,
    static_data,
    with_translations,
)
from .requirements import cartesian, check_group, check_same
from .search import admitted_operations
from .vacuum import check_vacuum


# How far, in Bohr, an operation may take a nucleus from the next one, a lattice vector
# from its length, and a product from the operation it should be. More than SYMPREC, as
# products of operations deviate by more than these.
_TOLERANCE = 10 * SYMPREC


class SpaceGroup(AbstractFixed, AbstractSummarized):
    r"""The symmetry operations of a crystal, acting on all electrons at once.

    An operation $g = (R, t)$ takes a configuration $(r_1, .., r_N)$ to
    $g x = (R r_1 + t, .., R r_N + t)$; on functions it acts by
    $(U_g f)(x) = f(g^{-1} x)$. It commutes with the Hamiltonian because it maps nuclei
    to nuclei of the same species, and it keeps the boundary condition because it maps
    the supercell lattice to itself and the twist to itself up to a reciprocal vector of
    the supercell (the little co-group of the twist).

    The group has one operation of each class modulo *primitive* lattice translations,
    and is closed modulo these: 48 operations for rock salt in any cubic supercell. In a
    nonsymmorphic crystal the product of two operations can be a third one times a
    primitive translation, which need not be a vector of the supercell: see
    `product_translations`. In a symmorphic crystal all operations fix a point modulo
    the lattice, and `SpaceGroup.of` takes translations with which this does not happen.
    The amplitudes of this library carry $\psi(x + t) = e^{i K \cdot t} \psi(x)$ for
    primitive $t$, with the total crystal momentum $K$. If $K \cdot t$ is a multiple of
    $2 \pi$ for these translations, operations may be multiplied as if they formed a
    finite group. Otherwise the $U_g$ multiply up to such phases only.

    For amplitudes that know the supercell only, `with_translations` is the group modulo
    *supercell* translations, with all primitive translations inside: 384 operations for
    rock salt in the 2x2x2 supercell.

    If the lattice of the crystal is not the smallest one, as for a hydrogen chain with
    two atoms in its cell, the fractional translations are operations too.

    As in crystals, all data is static: groups are hashable, compare by value, and are
    constants of compiled functions.

    Diagonal groups: Huang et al. (2025), arXiv 2502.05318.
    """

    crystal: Crystal
    tolerance: float = eqx.field(static=True)
    modulo_supercell: bool = eqx.field(static=True)
    vacuum: tuple[int, ...] = eqx.field(static=True)
    _frac_rotations: tuple[tuple[tuple[int, ...], ...], ...] = eqx.field(static=True)
    _frac_translations: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    @checked
    def __init__(
        self,
        crystal: Crystal,
        frac_rotations: Numbers,
        frac_translations: Numbers,
        *,
        tolerance: float = _TOLERANCE,
        modulo_supercell: bool = False,
        vacuum: Sequence[Integer] | Integer = (),
    ):
        """**Arguments:**

        - `crystal`: the crystal whose operations these are.
        - `frac_rotations`: (ops, 3, 3) integers R on columns of fractions of the
            primitive lattice vectors, `x' = R x + t`: the convention of spglib and of
            the International Tables.
        - `frac_translations`: (ops, 3), the t.
        - `tolerance`: in Bohr, how precisely nuclei, lattice and products must match.
        - `modulo_supercell`: whether operations are compared up to vectors of the
            supercell only, and not of the primitive lattice.
        - `vacuum`: lattice directions, out of 0, 1, 2, in which the crystal is finite.
            The operations keep the span of the others.

        The operations stay in the order given.

        **Raises:** `ValueError` that says which operation fails which requirement: to
        be an isometry, to map nuclei to nuclei of the same species, to map the
        supercell lattice to itself, to keep the twist; and for all together to hold the
        identity, to hold no operation twice, and to be closed under multiplication.
        """
        integers, translations = checked_operations(frac_rotations, frac_translations)
        self.crystal = crystal
        self.tolerance = float(tolerance)
        self.modulo_supercell = bool(modulo_supercell)
        self.vacuum = vacuum_directions(vacuum)
        self._frac_rotations = static_data(integers)
        self._frac_translations = static_data(translations)

    def __check_init__(self):
        lattice = "supercell" if self.modulo_supercell else "primitive lattice"
        check_group(self.crystal, self._operations(), self.vacuum, lattice)

    @classmethod
    @checked
    def of(
        cls,
        crystal: Crystal,
        *,
        symprec: float = SYMPREC,
        vacuum: Sequence[Integer] | Integer | None = None,
        min_vacuum: float = MIN_VACUUM,
    ) -> "SpaceGroup":
        """Finds all operations of a crystal that its supercell and twist admit, with
        spglib. The identity comes first.

        Warnings on the logger `eqsym` say

        - how many operations of the primitive crystal the vacuum, the supercell and the
            twist exclude, and which twist, if there is one within 0.005, excludes
            fewer: 1/3 rather than 0.333;
        - whether a precision up to 0.02 Bohr would give more operations, which ones,
            and how far nuclei are from their places then. Rounding in a structure file
            can be the reason, which [`eqsym.Crystal.symmetrized`][] undoes. It can also
            be a distortion that is meant, so that nothing is changed here.

        **Arguments:**

        - `crystal`: the crystal.
        - `symprec`: in Bohr, how far from symmetric positions the nuclei may be. The
            operations are as precise as the positions are: the crystal is not moved.
        - `vacuum`: lattice directions in which the crystal is finite, by default
            `crystal.vacuum`. Only operations of the slab or chain alone are taken: they
            keep the span of the other directions, and take no nucleus across the
            vacuum. Then the length of the vacuum does not matter. `()` takes all
            operations of the periodic crystal.
        - `min_vacuum`: in Bohr, how wide the gap between the outermost nuclei and their
            periodic images must be in these directions.

        **Raises:** `ValueError` if spglib finds no group within `symprec`, and if there
        is not enough vacuum.
        """
        vacuum = vacuum_directions(crystal.vacuum if vacuum is None else vacuum)
        check_vacuum(crystal, vacuum, min_vacuum)
        rotations, translations = admitted_operations(crystal, symprec, vacuum)
        tolerance = max(_TOLERANCE, 10 * symprec)
        found = operations_of(crystal, rotations, translations, tolerance)
        return cls(crystal, *ordered(found), tolerance=tolerance, vacuum=vacuum)

    @classmethod
    @checked
    def from_hall_number(
        cls,
        crystal: Crystal,
        hall_number: Integer,
        *,
        axes: Numbers | None = None,
        frac_origin: Numbers = (0.0, 0.0, 0.0),
    ) -> "SpaceGroup":
        """Takes a group that the crystal must have from the tables of spglib, in any
        setting. The identity comes first.

        The tables are in conventional axes. If the crystal has its primitive lattice
        instead, give `axes`; for rock salt, whose conventional cell is the cube:

        ```python
        cube = [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]
        eqs.SpaceGroup.from_hall_number(crystal, 523, axes=cube)
        ```

        **Arguments:**

        - `crystal`: the crystal.
        - `hall_number`: 1 to 530 for one of the settings of the space groups, -1 to
            -116 for one of the layer groups, whose third axis is the aperiodic one.
        - `axes`: 3x3 integers, rows are the conventional vectors in terms of the
            lattice vectors of the crystal; by default the two are the same, and
            centering translations are operations.
        - `frac_origin`: the place of the origin of the tables, in fractions of the
            lattice vectors of the crystal.

        **Raises:** `ValueError` if there is no such group, or if the crystal does not
        have its operations.
        """
        rotations, translations, vacuum = tabulated_operations(
            hall_number, axes, frac_origin
        )
        every = operations_of(crystal, rotations, translations, _TOLERANCE)
        return cls(crystal, *ordered(distinct(every)), vacuum=vacuum)

    @classmethod
    @checked
    def from_number(
        cls,
        crystal: Crystal,
        number: Integer,
        *,
        axes: Numbers | None = None,
        frac_origin: Numbers = (0.0, 0.0, 0.0),
    ) -> "SpaceGroup":
        """A space group by its number in the International Tables, 1 to 230, in the
        first setting that spglib has for it: unique axis b, cell choice 1, hexagonal
        axes, origin choice 1. Other arguments and errors as for `from_hall_number`,
        which has all settings."""
        return cls.from_hall_number(
            crystal, space_group_setting(number), axes=axes, frac_origin=frac_origin
        )

    @classmethod
    @checked
    def layer_group(
        cls,
        crystal: Crystal,
        number: Integer,
        *,
        axes: Numbers | None = None,
        frac_origin: Numbers = (0.0, 0.0, 0.0),
    ) -> "SpaceGroup":
        """A layer group by its number in the International Tables E, 1 to 80, in the
        first setting that spglib has for it; the third axis is the aperiodic one. Other
        arguments and errors as for `from_hall_number`, which has all settings."""
        return cls.from_hall_number(
            crystal, layer_group_setting(number), axes=axes, frac_origin=frac_origin
        )

    @classmethod
    @checked
    def plane_group(
        cls,
        crystal: Crystal,
        group: Integer | str,
        *,
        axes: Numbers | None = None,
        frac_origin: Numbers = (0.0, 0.0, 0.0),
    ) -> "SpaceGroup":
        """One of the 17 plane groups, acting on the first two axes. The third one stays
        as it is.

        **Arguments:**

        - `crystal`: the crystal.
        - `group`: its number in the International Tables, 1 to 17, or its symbol, such
            as `"p6mm"`.
        - `axes`, `frac_origin`: as for `from_hall_number`. Mirrors of pm, pg, cm and
            p2mg are normal to the first axis; exchange two `axes` for the other
            setting.

        **Raises:** `ValueError` as `from_hall_number` does.
        """
        return cls.from_hall_number(
            crystal, plane_group_setting(group), axes=axes, frac_origin=frac_origin
        )

    def _summary(self) -> str:
        order = f"{self.order} operations"
        facts = [*dict.fromkeys((self.symbol, order)), formula(self.crystal.species)]
        if self.modulo_supercell:
            facts.append("modulo the supercell")
        return ", ".join(facts)

    def __str__(self) -> str:
        return f"{self!r}\n{listing(self._operations())}"

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the operations, such as `"3+ [111]"` or `"m [100] | 1/2 0 0"`: the
        symbol of the International Tables; the axis of a rotation, or the normal of a
        plane; and the translation, unless it is 0, in fractions of the primitive
        lattice vectors. Pure translations are `t`.

        Axes are along x, y and z if all of them are, or their diagonals, as in cubic
        crystals. Otherwise they are sums of lattice vectors. A plus says that the
        rotation is counterclockwise seen against its axis. `print(group)` shows all of
        them.
        """
        return tuple(map(str, operation_names(self._operations())))

    def __len__(self) -> int:
        return self.order

    @property
    def order(self) -> int:
        """Number of operations."""
        return len(self._frac_rotations)

    @property
    def frac_rotations(self) -> Int[np.ndarray, "ops 3 3"]:
        """The R on columns of fractions of the primitive lattice vectors."""
        return np.array(self._frac_rotations)

    @property
    def frac_translations(self) -> Float[np.ndarray, "ops 3"]:
        """The t in fractions of the primitive lattice vectors."""
        return np.array(self._frac_translations)

    @property
    def cart_rotations(self) -> Float[np.ndarray, "ops 3 3"]:
        """The R as orthogonal matrices on columns of Cartesian coordinates."""
        return cartesian(self.crystal, self.frac_rotations)

    @property
    def cart_translations(self) -> Float[np.ndarray, "ops 3"]:
        """The t in Bohr."""
        return self.crystal.lattice.to_cartesian(self.frac_translations)

    @property
    def lattice(self) -> Lattice:
        """The lattice up to which operations are compared: the primitive lattice, or
        the supercell's."""
        return self.crystal.supercell if self.modulo_supercell else self.crystal.lattice

    @property
    def symbol(self) -> str:
        """The international symbol of the group together with `lattice`, whatever its
        setting: of a space group, `"Fm-3m"`; with one direction of vacuum, of a layer
        group, `"p6/mmm"`, or of a plane group if no operation exchanges the two sides
        of the layer, `"p6mm"`. `"48 operations"` if spglib does not know it.

        It is the symbol of these operations, of which twist and supercell may have left
        few, in the first setting of spglib. For chains it is the symbol of a space
        group: spglib does not know rod groups.
        """
        symbol = group_symbol(self.crystal, self._operations(), self.vacuum)
        return symbol or f"{self.order} operations"

    @property
    def multiplication_table(self) -> Int[np.ndarray, "ops ops"]:
        """`table[i, j]` is the number of the operation that is `g_i g_j` (first j, then
        i) up to a translation of `lattice`. Read-only."""
        return self._products().table

    @property
    def product_translations(self) -> Int[np.ndarray, "ops ops 3"]:
        """The translations by which products differ from the operations of
        `multiplication_table`: `g_i g_j` is first `g_table[i, j]`, then the translation
        by `product_translations[i, j]`. Vectors of `lattice`, as integer multiples of
        the *primitive* lattice vectors. Read-only."""
        return self._products().translations

    @property
    def identity(self) -> int:
        """The number of the operation that moves nothing."""
        return int(np.argmax(is_identity(self._operations())))

    @property
    def inverses(self) -> Int[np.ndarray, " ops"]:
        """`inverses[i]` is the number of the operation that is the inverse of `g_i` up
        to a translation of `lattice`."""
        return inverses(self.multiplication_table, self.identity)

    @property
    def conjugacy_classes(self) -> Int[np.ndarray, " ops"]:
        """The number of the conjugacy class of each operation; classes are numbered in
        the order of their first operations."""
        return conjugacy_classes(self.multiplication_table, self.inverses)

    @checked
    def subgroup(self, operations: Numbers) -> "SpaceGroup":
        """The group of some of the operations.

        **Arguments:**

        - `operations`: their numbers, in the order wanted.

        **Raises:** `ValueError` if there are no operations of these numbers, or they
        are not a group.
        """
        some = checked_numbers(operations, self.order)
        check_closed(self.multiplication_table, some)
        return self._with(self.frac_rotations[some], self.frac_translations[some])

    @checked
    def generated_by(self, operations: Numbers) -> "SpaceGroup":
        """The smallest subgroup that has some of the operations, in the order of this
        group.

        **Arguments:**

        - `operations`: their numbers. No numbers give the identity alone.

        **Raises:** `ValueError` if there are no operations of these numbers.
        """
        inside = is_identity(self._operations())
        inside[checked_numbers(operations, self.order)] = True
        return self.subgroup(generated(self.multiplication_table, inside))

    def translations(self) -> "SpaceGroup":
        """The subgroup of pure translations, such as the centering translations of a
        conventional cell."""
        return self.subgroup(np.flatnonzero(pure_translations(self.frac_rotations)))

    @checked
    def point_part(self, frac_origin: Numbers = (0.0, 0.0, 0.0)) -> "SpaceGroup":
        """The subgroup of operations that fix a point modulo `lattice`; by default, of
        operations without a translation. Their translations are chosen so that they
        leave the point exactly where it is, and products are operations exactly.

        **Arguments:**

        - `frac_origin`: the point, in fractions of the primitive lattice vectors.

        **Raises:** `ValueError` for anything but three numbers.
        """
        point = np.asarray(frac_origin, dtype=np.float64)
        if point.shape != (3,):
            raise ValueError(
                f"`frac_origin` must be three numbers, got {frac_origin!r}."
            )
        change = self.frac_rotations @ point + self.frac_translations - point
        fixed = self._operations().length(change) < self.tolerance
        translations = self.frac_translations - np.round(change)
        return self._with(self.frac_rotations[fixed], translations[fixed])

    def with_translations(self) -> "SpaceGroup":
        r"""The group modulo translations of the supercell: all operations, each
        followed by all $|\det S|$ primitive translations inside. The operations of this
        group come first, then the operations of the next translation, and so on.

        It averages amplitudes that do not carry
        $\psi(x + t) = e^{i K \cdot t} \psi(x)$ for primitive translations t. The wave
        functions of this library do, and need no such average.
        """
        every = distinct(with_translations(self.crystal, self._operations()))
        return self._with(every.rotations, every.translations, modulo_supercell=True)

    @checked
    def apply(
        self,
        electrons: Electrons,
        operations: Int[Array, " images"] | None = None,
    ) -> Float[Array, "images electrons 3"]:
        """The images g x of a configuration. Coordinates are not wrapped into the
        supercell, which would lose the phase of a twisted boundary condition.

        **Arguments:**

        - `electrons`: positions in Bohr.
        - `operations`: numbers of the operations wanted, by default all in order. They
            may be traced.

        **Returns:**

        The images in Bohr, in the dtype of `electrons`.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        return images(*self._cartesian(electrons.dtype, operations), electrons)

    @checked
    def apply_inverse(
        self,
        electrons: Electrons,
        operations: Int[Array, " images"] | None = None,
    ) -> Float[Array, "images electrons 3"]:
        """The images g^-1 x: `apply` undoes them exactly, not only up to a lattice
        translation. Arguments and result as for `apply`."""
        return inverse_images(*self._cartesian(electrons.dtype, operations), electrons)

    @checked
    def check_crystal(self, crystal: Crystal) -> None:
        """Makes sure that `crystal` is the crystal of this group, as
        [`eqsym.Crystal.difference`][] compares them. Numbers of electrons may differ.

        **Raises:** `ValueError` that names the difference.
        """
        check_same(self.crystal, crystal)

    def _cartesian(
        self, dtype: Any, operations: Int[Array, " images"] | None
    ) -> tuple[Float[Array, "images 3 3"], Float[Array, "images 3"]]:
        both = self.cart_rotations, self.cart_translations
        rotations, translations = (jnp.asarray(values, dtype) for values in both)
        if operations is not None:
            rotations, translations = rotations[operations], translations[operations]
        return spread(rotations, OPERATIONS), spread(translations, OPERATIONS)

    def _operations(self) -> Operations:
        return operations_of(
            self.crystal,
            self._frac_rotations,
            self._frac_translations,
            self.tolerance,
            supercell=self.modulo_supercell,
        )

    def _products(self) -> Products:
        return products(self._operations())

    def _with(self, rotations: Any, translations: Any, **changes: Any) -> "SpaceGroup":
        same = {
            "tolerance": self.tolerance,
            "modulo_supercell": self.modulo_supercell,
            "vacuum": self.vacuum,
        }
        return SpaceGroup(self.crystal, rotations, translations, **(same | changes))
