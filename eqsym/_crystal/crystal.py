"""Crystals: geometry, electrons, supercell and twist."""

import logging
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Float, Int

from .._core import (
    AbstractFixed,
    AbstractSummarized,
    checked,
    Integer,
    Numbers,
    whole_number,
)
from .arguments import (
    atomic_number,
    check_distances,
    given_positions,
    spin_channels,
    supercell_matrix,
    to_bohr,
    Unit,
    vacuum_directions,
)
from .comparison import described, difference
from .lattice import frozen, Lattice
from .modulo import cosets, ROUNDING
from .potentials import (
    cores_of,
    EffectiveCorePotential,
    given_again,
    given_potentials,
)
from .standard import Cell, cell_of, in_bohr, primitive_cell, symmetrized_cell
from .structures import as_read, finite_directions, read_ase, read_pyscf


_logger = logging.getLogger("eqsym")


class Crystal(AbstractFixed, AbstractSummarized):
    r"""The system to simulate: primitive cell, nuclei, and the electrons, supercell and
    twist of the simulation.

    The wave function lives in the supercell $A_s = S A$ of the primitive lattice $A$
    and obeys $\psi(.., r_i + L, ..) = e^{i k_s \cdot L} \psi$ for supercell vectors L.
    Lengths inside are in Bohr. All data is static: crystals are hashable, compare by
    value, and are constants of compiled functions.
    """

    lattice: Lattice
    species: tuple[str, ...] = eqx.field(static=True)
    electrons: tuple[int, int] = eqx.field(static=True)
    vacuum: tuple[int, ...] = eqx.field(static=True)
    _positions: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    _matrix: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    _twist: tuple[float, ...] = eqx.field(static=True)
    _pseudopotentials: tuple[EffectiveCorePotential, ...] = eqx.field(static=True)

    @checked
    def __init__(
        self,
        lattice: Numbers,
        species: Sequence[str],
        *,
        unit: Unit,
        cart_positions: Numbers | None = None,
        frac_positions: Numbers | None = None,
        supercell: Any = 1,
        charge: Integer | float = 0,
        spin: Integer | float | None = None,
        twist: Numbers = (0, 0, 0),
        vacuum: Sequence[Integer] | Integer = (),
        pseudopotential: Any = None,
    ):
        """**Arguments:**

        - `lattice`: 3x3, rows are primitive lattice vectors in `unit`.
        - `species`: element symbols, one for each nucleus of the primitive cell.
        - `unit`: `"angstrom"` or `"bohr"`, of `lattice` and `cart_positions`.
        - `cart_positions`: (atoms, 3) positions in `unit`; or
        - `frac_positions`: (atoms, 3) positions in fractions of the lattice vectors.
        - `supercell`: the integer matrix S: 3x3, or three numbers for a diagonal one,
            or one number.
        - `charge`: charge of the nuclei, less the core electrons of pseudopotentials,
            minus number of electrons; of the whole supercell.
        - `spin`: spin-up minus spin-down electrons of the supercell. By default 0 or 1,
            whichever the number of electrons admits.
        - `twist`: k_s in fractions of the supercell's reciprocal vectors.
        - `vacuum`: lattice directions, out of 0, 1, 2, in which the crystal is finite:
            `(2,)` for a slab, `(1, 2)` for a chain along the first lattice vector. The
            simulation is periodic there too, and its energies do not depend on this;
            [`eqsym.SpaceGroup.of`][] takes the group of the slab or chain.
        - `pseudopotential`: an effective core potential for every element, or one for
            each element symbol, `{"Li": "ccecp", "H": None}`: a name that PySCF knows,
            text in NWChem's format, or `None` for all electrons. The electrons are the
            valence electrons then. See [Pseudopotentials](../pseudopotentials.md).

        **Raises:** `ValueError` that names the argument, for an unknown element, one
        without such a pseudopotential, overlapping nuclei, a singular or non-integer
        supercell matrix, and a charge or spin that the electrons do not fit.
        """
        scale = to_bohr(unit)
        self.lattice = Lattice(np.asarray(lattice, dtype=np.float64) * scale)
        self.species = tuple(str(symbol) for symbol in species)
        self._positions = frozen(
            given_positions(self.lattice, cart_positions, frac_positions, scale)
        )
        self._matrix = frozen(supercell_matrix(supercell), int)
        self._twist = frozen(twist)
        if not self.species:
            raise ValueError("`species` must have at least one element, got none.")
        self._pseudopotentials = given_potentials(pseudopotential, self.species)
        nuclear = int(np.sum(self.supercell_charges))
        self.electrons = spin_channels(nuclear, charge, spin)
        self.vacuum = vacuum_directions(vacuum)

    def __check_init__(self):
        if self.cart_positions.shape != (len(self.species), 3):
            raise ValueError(
                "`cart_positions` or `frac_positions` must have three numbers for each "
                f"of the {len(self.species)} `species`, got shape "
                f"{self.cart_positions.shape}."
            )
        if not np.all(np.isfinite(self.cart_positions)):
            raise ValueError("`cart_positions` and `frac_positions` must be finite.")
        if self.twist.shape != (3,) or not np.all(np.isfinite(self.twist)):
            raise ValueError(
                "`twist` must be three numbers, fractions of the supercell's "
                f"reciprocal vectors, got {self.twist.tolist()}."
            )
        check_distances(self.lattice, self.species, self.cart_positions)

    def _summary(self) -> str:
        return described(self)

    @property
    def cart_positions(self) -> Float[np.ndarray, "..."]:
        """Nuclei of the primitive cell, (atoms, 3), in Bohr."""
        return np.array(self._positions, dtype=np.float64)

    @property
    def matrix(self) -> Int[np.ndarray, "3 3"]:
        """The supercell matrix S."""
        return np.array(self._matrix)

    @property
    def twist(self) -> Float[np.ndarray, "..."]:
        """k_s in fractions of the supercell's reciprocal vectors, (3,)."""
        return np.array(self._twist, dtype=np.float64)

    @property
    def atomic_numbers(self) -> Int[np.ndarray, " atoms"]:
        """Of the nuclei of the primitive cell."""
        return np.array([atomic_number(symbol) for symbol in self.species])

    @property
    def pseudopotential(self) -> dict[str, EffectiveCorePotential]:
        """Of each element that has one, by its symbol."""
        return {one.element: one for one in self._pseudopotentials}

    @property
    def charges(self) -> Int[np.ndarray, " atoms"]:
        """Charges of the nuclei of the primitive cell, less the core electrons of
        pseudopotentials."""
        return self.atomic_numbers - cores_of(self._pseudopotentials, self.species)

    @property
    def cells(self) -> int:
        """Number of primitive cells in the supercell, |det S|."""
        return int(round(abs(np.linalg.det(self.matrix))))

    @property
    def supercell(self) -> Lattice:
        """The lattice of the supercell, S A."""
        return Lattice(self.lattice.to_cartesian(self.matrix.astype(np.float64)))

    @property
    def charge(self) -> int:
        """Charge of nuclei and cores minus number of electrons, of the supercell."""
        return int(np.sum(self.supercell_charges)) - sum(self.electrons)

    @property
    def translations(self) -> Float[np.ndarray, "cells 3"]:
        """The primitive lattice vectors inside the supercell, in Bohr; 0 first."""
        inverse = np.linalg.inv(self.matrix)
        return self.lattice.to_cartesian(cosets(self.matrix, inverse))

    @property
    def frac_kpoints(self) -> Float[np.ndarray, "cells 3"]:
        """All k that fold to the twist, in fractions of the primitive reciprocal
        vectors, `(n + twist) inv(S).T`."""
        inverse = np.linalg.inv(self.matrix).T
        points = (cosets(self.matrix.T, inverse) + self.twist) @ inverse
        # The representative nearest the origin, with -1/2 rounded away from.
        return points - np.ceil(points - 0.5 - ROUNDING)

    @property
    def supercell_positions(self) -> Float[np.ndarray, "nuclei 3"]:
        """Positions of all nuclei of the supercell in Bohr, translation by
        translation."""
        shifted = self.translations[:, None] + self.cart_positions[None]
        return shifted.reshape(-1, 3)

    @property
    def supercell_charges(self) -> Int[np.ndarray, " nuclei"]:
        """As `charges`, in the order of `supercell_positions`."""
        return np.tile(self.charges, self.cells)

    @checked
    def symmetrized(self, symprec: float) -> "Crystal":
        """Undoes the rounding of a structure file: the same crystal with nuclei and
        lattice exactly where its space group wants them.

        A rounded crystal has few symmetry operations to the precision of
        [`eqsym.SpaceGroup.of`][], which then warns. This takes the operations within a
        coarser precision and averages over them: the metric of the lattice, and the
        images of each nucleus. The cell is not turned, and order of nuclei, supercell,
        charge, spin and twist stay as they are. The middle of all nuclei keeps its
        fractions.

        A warning on the logger `eqsym` says how far nuclei and lattice vectors move. If
        they do not move, the same crystal is returned.

        **Arguments:**

        - `symprec`: in Bohr, how far from symmetric places nuclei may be, and how far
            they and the ends of lattice vectors may be moved.

        **Raises:** `ValueError` if spglib finds no group to this precision, or if one
        of them would have to move farther.
        """
        found = symmetrized_cell(cell_of(self), symprec)
        if max(found.shift, found.strain) < ROUNDING:
            return self
        _logger.warning(
            "Symmetrized with %d operations: nuclei move by up to %s Bohr in the cell, "
            "lattice vectors by up to %s.",
            len(found.rotations),
            in_bohr(found.shift),
            in_bohr(found.strain),
        )
        return with_cell(self, found.cell)

    @checked
    def primitive(self, *, keep_cell: bool = False, **kwargs: Any) -> "Crystal":
        """The same crystal in its primitive cell, which takes the least work. A
        structure file often has a conventional cell: for rock salt, with four times as
        many electrons as the primitive one.

        ```python
        eqs.Crystal.from_ase("LiH.cif").primitive(supercell=2)
        ```

        Nuclei stay where they are in space, each the first one of its kind in the
        given cell, and in the same order. Lattice vectors along which nothing repeats
        stay, such as the vacuum of a slab; others are Niggli-reduced, which does not
        turn them. A crystal in its primitive cell is returned as it is. spglib finds
        the cell to 1e-5 Bohr; a warning on the logger `eqsym` says if there is a
        smaller one but for rounding: then use `symmetrized` first.

        **Arguments:**

        - `keep_cell`: whether the supercell stays the same in space, and with it its
            charge, spin and twist: the same system, of which more symmetry is known,
            with results for each primitive cell.
        - `kwargs`: otherwise `supercell`, `charge`, `spin` and `twist` of the new
            crystal, as for [`eqsym.Crystal`][]. By default one primitive cell, neutral,
            with the lowest spin and without twist.

        **Raises:** `ValueError` if the crystal has another supercell, charge, spin or
        twist than the default and neither `keep_cell` nor `kwargs` says which ones the
        new crystal has.
        """
        if keep_cell and kwargs:
            raise ValueError(
                "`keep_cell` takes supercell, charge, spin and twist of the given "
                f"crystal, got {sorted(kwargs)} as well. Leave one of them out."
            )
        found = primitive_cell(cell_of(self))
        if len(found.chosen) == len(self.species) and not kwargs:
            return self
        up, down = self.electrons
        if keep_cell:
            kwargs = {
                "supercell": self.matrix @ found.matrix,
                "charge": self.charge,
                "spin": up - down,
                "twist": self.twist,
            }
        else:
            for name, value, default in (
                ("supercell", self.matrix.tolist(), self.cells == 1),
                ("charge", self.charge, self.charge == 0),
                ("spin", up - down, up - down == (up + down) % 2),
                ("twist", self.twist.tolist(), np.all(self.twist == 0)),
            ):
                if not default and name not in kwargs:
                    raise ValueError(
                        f"`{name}` of the crystal is {value}; for its primitive cell "
                        f"alone it is not known. Pass `{name}`, or `keep_cell=True` "
                        "for the same supercell, charge, spin and twist."
                    )
        # Each new vector has the direction of the one that it replaces.
        return Crystal(
            found.cell.vectors,
            [self.species[i] for i in found.chosen],
            frac_positions=found.cell.frac,
            unit="bohr",
            **{"vacuum": self.vacuum, "pseudopotential": given_again(self), **kwargs},
        )

    @classmethod
    @checked
    def rock_salt(
        cls, cation: str, anion: str, *, a: float, unit: Unit, **kwargs: Any
    ) -> "Crystal":
        """Rock salt, two atoms on the fcc lattice.

        **Arguments:**

        - `cation`, `anion`: element symbols, at 0 and (1/2, 1/2, 1/2) of the cube.
        - `a`: edge of the conventional cube in `unit`.
        - `kwargs`: `supercell`, `charge`, `spin`, `twist` as for
            [`eqsym.Crystal`][].
        """
        frac = [[0, 0, 0], [0.5, 0.5, 0.5]]
        return cls(_fcc(a), (cation, anion), frac_positions=frac, unit=unit, **kwargs)

    @classmethod
    @checked
    def zinc_blende(
        cls, cation: str, anion: str, *, a: float, unit: Unit, **kwargs: Any
    ) -> "Crystal":
        """Zinc blende; diamond if both elements are the same.

        **Arguments:**

        - `cation`, `anion`: element symbols, at 0 and (1/4, 1/4, 1/4) of the cube.
        - `a`: edge of the conventional cube in `unit`.
        - `kwargs`: as for [`eqsym.Crystal`][].
        """
        frac = [[0, 0, 0], [0.25, 0.25, 0.25]]
        return cls(_fcc(a), (cation, anion), frac_positions=frac, unit=unit, **kwargs)

    @classmethod
    @checked
    def diamond(cls, element: str, *, a: float, unit: Unit, **kwargs: Any) -> "Crystal":
        """Diamond: zinc blende with one element. Arguments as for `zinc_blende`."""
        return cls.zinc_blende(element, element, a=a, unit=unit, **kwargs)

    @classmethod
    @checked
    def bcc(cls, element: str, *, a: float, unit: Unit, **kwargs: Any) -> "Crystal":
        """Body-centered cubic, one atom.

        **Arguments:**

        - `element`: element symbol.
        - `a`: edge of the conventional cube in `unit`.
        - `kwargs`: as for [`eqsym.Crystal`][].
        """
        lattice = a / 2 * np.array([[-1.0, 1, 1], [1, -1, 1], [1, 1, -1]])
        return cls(lattice, (element,), frac_positions=[[0, 0, 0]], unit=unit, **kwargs)

    @classmethod
    @checked
    def fcc(cls, element: str, *, a: float, unit: Unit, **kwargs: Any) -> "Crystal":
        """Face-centered cubic, one atom. Arguments as for `bcc`."""
        return cls(_fcc(a), (element,), frac_positions=[[0, 0, 0]], unit=unit, **kwargs)

    @classmethod
    @checked
    def graphene(
        cls, *, a: float, vacuum: float, unit: Unit, **kwargs: Any
    ) -> "Crystal":
        """One layer of graphene in the xy plane, two carbon atoms.

        **Arguments:**

        - `a`: length of the in-plane lattice vectors in `unit`.
        - `vacuum`: length of the third lattice vector in `unit`. From 10 Bohr on the
            crystal is a slab, and its group a layer group.
        - `kwargs`: as for [`eqsym.Crystal`][].
        """
        lattice = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, vacuum]]
        frac = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0]]
        kwargs["vacuum"] = finite_directions((2,), vacuum, unit)
        return cls(lattice, ("C", "C"), frac_positions=frac, unit=unit, **kwargs)

    @classmethod
    @checked
    def hydrogen_chain(
        cls,
        *,
        spacing: float,
        vacuum: float,
        atoms: Integer = 2,
        unit: Unit,
        **kwargs: Any,
    ) -> "Crystal":
        """A chain of equidistant hydrogen atoms along x.

        **Arguments:**

        - `spacing`: distance between neighbors in `unit`.
        - `vacuum`: length of the two other lattice vectors in `unit`. From 10 Bohr on
            the chain is alone, and its group keeps its axis.
        - `atoms`: atoms in the primitive cell.
        - `kwargs`: as for [`eqsym.Crystal`][].
        """
        atoms = whole_number("atoms", atoms, 1)
        lattice = np.diag([atoms * spacing, vacuum, vacuum])
        frac = [[i / atoms, 0, 0] for i in range(atoms)]
        kwargs["vacuum"] = finite_directions((1, 2), vacuum, unit)
        return cls(lattice, ("H",) * atoms, frac_positions=frac, unit=unit, **kwargs)

    @classmethod
    def from_ase(cls, atoms: Any, **kwargs: Any) -> "Crystal":
        """Reads a structure file, such as a CIF or a POSCAR, or ASE `Atoms`.

        ```python
        eqs.Crystal.from_ase("LiH.cif").primitive(supercell=2)
        ```

        Such a structure says more than its cell and nuclei. All of it is taken,
        refused, or announced by the logger `eqsym`:

        - A CIF has the conventional cell, in which rock salt has 8 atoms. It is the
            `lattice` of this crystal then, with a warning; see
            [`eqsym.Crystal.primitive`][] for the other one.
        - Initial charges and magnetic moments set `charge` and `spin`, by their sums
            over the supercell. Deuterium is hydrogen, because nuclei do not move here.
        - A direction without periodicity (`atoms.pbc`) is one of `vacuum`, if there is
            enough along its cell vector: the crystal is periodic there too, with a
            warning, and its group is the group of the slab or chain.

        **Arguments:**

        - `atoms`: the path of a file in any format that `ase.io.read` knows, with one
            structure; or an `ase.Atoms` with three cell vectors, in Angstrom as always
            there.
        - `kwargs`: as for [`eqsym.Crystal`][]. Most files call every direction
            periodic: then `vacuum=(2,)` says that the crystal is a slab.

        **Raises:** `FileNotFoundError` if there is no such file. `ValueError` if ASE
        cannot read it or finds several structures in it; for a site that is not one
        species with occupancy 1 (up to 0.001), a cell vector that is zero, less than 10
        Bohr of vacuum in a direction without periodicity, and charges or moments that
        do not add up to an integer that the electrons admit, unless `charge` or `spin`
        is given.
        """
        return cls(**as_read(read_ase, atoms, kwargs))

    @classmethod
    def from_pyscf(cls, cell: Any, **kwargs: Any) -> "Crystal":
        """Reads a `pyscf.pbc.gto.Cell`, with its charge and spin.

        PySCF counts both over all k-points of a calculation. The cells of a supercell
        stand for its k-points, so that by default they are `charge` and `spin` of the
        supercell, whatever its size: Hartree-Fock with as many k-points has the same
        electrons. Read CIFs with ASE and [`eqsym.Crystal.from_ase`][]: PySCF reads the
        atoms that are listed in them, without the atoms that symmetry adds.

        **Arguments:**

        - `cell`: the built cell, with all electrons or the effective core potentials of
            `cell.ecp`. With `dimension` below 3 there must be vacuum along the other
            lattice vectors, which are the `vacuum` of the crystal; a warning says that
            it is periodic there too. Ghost atoms are left out.
        - `kwargs`: as for [`eqsym.Crystal`][].

        **Raises:** `ValueError` for a molecule, a cell that is not built or has a
        separable pseudopotential (`cell.pseudo`), less than 10 Bohr of vacuum in a
        direction without periodicity, and a spin that the electrons of the supercell do
        not admit, unless `spin` is given.
        """
        return cls(**as_read(read_pyscf, cell, kwargs))

    @checked
    def matches(self, other: "Crystal") -> bool:
        """Whether another crystal is the same up to rounding, as
        [`eqsym.Crystal.difference`][] finds it; `==` compares bits."""
        return self.difference(other) is None

    @checked
    def difference(self, other: "Crystal", *, electrons: bool = True) -> str | None:
        """How another crystal differs from this one, in words.

        Two descriptions are of the same crystal if lattice vectors, and nuclei up to
        primitive lattice vectors, are at most 1e-6 Bohr apart, and twists, up to
        reciprocal vectors of the supercell, at most 1e-6 in fractions of these; and
        species, supercell matrix and electrons are equal. That is far more than
        rounding differs between machines and files with eight digits, and far less than
        any energy here depends on. The order of the nuclei counts; `vacuum`, which
        energies do not depend on, does not.

        **Arguments:**

        - `other`: the other crystal.
        - `electrons`: whether the numbers of electrons have to be equal.

        **Returns:**

        The differences and their sizes, for a message; `None` if there are none.
        """
        return difference(self, other, electrons=electrons)


def with_changes(crystal: Crystal, **changes: Any) -> Crystal:
    """The crystal with other arguments, lengths in Bohr."""
    up, down = crystal.electrons
    arguments: dict[str, Any] = {
        "lattice": crystal.lattice.vectors,
        "species": crystal.species,
        "supercell": crystal.matrix,
        "charge": crystal.charge,
        "spin": up - down,
        "twist": crystal.twist,
        "vacuum": crystal.vacuum,
        "pseudopotential": given_again(crystal),
    }
    if "frac_positions" not in changes:
        arguments["cart_positions"] = crystal.cart_positions
    arguments.update(changes)
    return Crystal(unit="bohr", **arguments)


def with_cell(crystal: Crystal, cell: Cell) -> Crystal:
    """The crystal with other lattice vectors and places of its nuclei."""
    return with_changes(crystal, lattice=cell.vectors, frac_positions=cell.frac)


def _fcc(a: float) -> Float[np.ndarray, "3 3"]:
    return a / 2 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
