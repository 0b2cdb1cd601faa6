"""Readers of structures of ASE and PySCF, which give the arguments of a `Crystal`."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .._core import whole_number
from .arguments import BOHR_PER_ANGSTROM, cell_count, to_bohr, Unit
from .modulo import ROUNDING
from .potentials import (
    cores_of,
    EffectiveCorePotential,
    from_pyscf_terms,
    given_potentials,
    known_name,
    separable,
)
from .standard import Cell, repetitions


_logger = logging.getLogger("eqsym")

# In Bohr; less vacuum than this, and a slab is not finite but a layered crystal.
MIN_VACUUM = 10.0
# Occupancies are printed with three digits or more.
_FULL = 1e-3
# Sums of charges or moments, each rounded when it was written.
_WHOLE = 1e-2


def as_read(
    reader: Callable[..., dict[str, Any]], structure: Any, given: dict[str, Any]
) -> dict[str, Any]:
    """The arguments of a `Crystal` in a structure of another package. Of what the
    structure says, only charge, spin and vacuum may be given instead."""
    check_given(given)
    charge, spin = given.pop("charge", None), given.pop("spin", None)
    pseudopotential = given.pop("pseudopotential", None)
    cells = cell_count(given.get("supercell", 1))
    read = reader(structure, cells, charge, spin, pseudopotential)
    read["vacuum"] = given.pop("vacuum", read["vacuum"])
    return {**read, **given}


def read_ase(
    atoms: Any, cells: int, charge: Any, spin: Any, pseudopotential: Any
) -> dict[str, Any]:
    """The arguments of a `Crystal` in `atoms`, or in the file at this path; with
    `charge` and `spin` of a supercell of so many cells, unless they are given.

    **Raises:** `ValueError` if `atoms` are not a crystal of whole atoms.
    """
    try:
        from ase import Atoms
    except ImportError as error:
        raise ImportError(
            "Structure files need ASE: install it, or eqsym with the extra `ase`."
        ) from error
    if isinstance(atoms, (str, os.PathLike)):
        atoms = _from_file(atoms)
    if not isinstance(atoms, Atoms):
        raise ValueError(
            "`atoms` must be the path of a file, or one `ase.Atoms`, got "
            f"`{type(atoms).__name__}`. Of several structures take one."
        )
    vectors = np.asarray(atoms.cell.array, dtype=np.float64) * BOHR_PER_ANGSTROM
    positions = atoms.get_positions() * BOHR_PER_ANGSTROM
    for direction in range(3):
        if not np.any(vectors[direction]):
            raise ValueError(
                "`atoms` must have three cell vectors, got none in direction "
                f"{direction}. If matter ends there, make one that leaves vacuum on "
                f"both sides, in Angstrom: `atoms.center(vacuum=4, axis={direction})`."
            )
    _check_occupancies(atoms)
    vacuum = _announced_vacuum(
        vectors,
        positions,
        [i for i in range(3) if not atoms.pbc[i]],
        f"`atoms` has `pbc` {[bool(periodic) for periodic in atoms.pbc]}",
        "If the crystal is periodic there, set `atoms.pbc = True`; if matter ends "
        "there, add vacuum, in Angstrom: `atoms.center(vacuum=4, axis={})`.",
    )
    if charge is None:
        charge = _sum_of_charges(atoms, cells)
    charge = whole_number("charge", charge, floats=True)
    symbols = atoms.get_chemical_symbols()
    cores = cores_of(given_potentials(pseudopotential, symbols), symbols)
    electrons = cells * int(np.sum(atoms.numbers) - np.sum(cores)) - charge
    found = _sum_of_moments(atoms, cells, electrons, spin)
    # Atoms of opposite moments are not repetitions of each other.
    moments = np.atleast_2d(atoms.get_initial_magnetic_moments().T)
    kinds = np.column_stack([atoms.numbers, moments.T])
    _, labels = np.unique(kinds, axis=0, return_inverse=True)
    _announce_conventional("`atoms`", vectors, positions, labels.reshape(-1) + 1)
    return {
        "lattice": vectors,
        "species": symbols,
        "cart_positions": positions,
        "unit": "bohr",
        "charge": charge,
        "spin": found if spin is None else spin,
        "vacuum": vacuum,
        "pseudopotential": pseudopotential,
    }


def _from_file(path: Any) -> Any:
    """The one structure in a file.

    **Raises:** `ValueError` if ASE cannot read it, or if there are several;
    `FileNotFoundError` if it is not there.
    """
    import ase.io

    # ASE reads the number of a structure in a name such as "steps.traj@-1".
    index = None if "@" in os.path.basename(path) else ":"
    if index == ":" and not os.path.exists(path):
        raise FileNotFoundError(
            f"`atoms`: there is no file {str(path)!r} in {os.getcwd()}."
        )
    if os.path.isdir(path):
        raise ValueError(
            f"`atoms` must be one file, got the folder {str(path)!r}: give a file in "
            "it, such as a CIF or a POSCAR."
        )
    try:
        found = ase.io.read(path, index=index)
    except OSError:
        # There is no such file, or it may not be opened.
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"`atoms`: ASE cannot read the file {str(path)!r}: {reason}. If its name "
            "does not tell the format, use `ase.io.read(file, format=...)` and give "
            "what it returns."
        ) from error
    found = found if isinstance(found, list) else [found]
    if len(found) != 1:
        raise ValueError(
            f"`atoms`: the file {str(path)!r} has {len(found)} structures, expected "
            "one. `ase.io.read(file, index=-1)` is the last of them: give what it "
            "returns."
        )
    return found[0]


def _check_occupancies(atoms: Any) -> None:
    """Raises `ValueError` for a site that is not one atom. ASE gives such a site to one
    of its species, and keeps the occupancies of the file in a table: for every kind of
    site (a number, written as text) the share of every species."""
    table = atoms.info.get("occupancy")
    if not table:
        return
    table = {str(kind): shares for kind, shares in table.items()}
    kinds = atoms.arrays.get("spacegroup_kinds")
    if kinds is None:
        # Nothing says which atoms are of which kind.
        for kind, shares in table.items():
            if _only_species(shares) is None:
                raise ValueError(
                    f"`atoms`: kind {kind} of its sites has the occupancies {shares} "
                    "(`atoms.info['occupancy']`), expected one species with occupancy "
                    f"1. {_ORDERED}"
                )
        return
    for site, kind in enumerate(kinds):
        shares = table.get(str(kind), {})
        symbol = atoms.symbols[site]
        if symbol not in shares and _only_species(shares) is not None:
            raise ValueError(
                f"`atoms`: site {site} is {symbol}, but `atoms.info['occupancy']` "
                f"says {shares} of it: the atoms were changed after they were read. If "
                "all of them are whole atoms now, `del atoms.info['occupancy']`."
            )
        if _only_species(shares) != symbol:
            raise ValueError(
                f"`atoms`: site {site} ({symbol}) must be one species with occupancy "
                f"1, got the occupancies {shares} (`atoms.info['occupancy']`). "
                f"{_ORDERED}"
            )


_ORDERED = (
    "A crystal here has whole atoms: make an ordered cell, and then "
    "`del atoms.info['occupancy']`."
)


def _only_species(shares: Any) -> str | None:
    """The one species of a fully occupied site."""
    present = {}
    for symbol, share in shares.items():
        # A dot in a CIF stands for the default, which is 1.
        share = 1.0 if share == "." else share
        if not isinstance(share, (int, float)) or not abs(share) < _FULL:
            present[symbol] = share
    if len(present) != 1:
        return None
    ((symbol, share),) = present.items()
    full = isinstance(share, (int, float)) and abs(share - 1) < _FULL
    return symbol if full else None


def _sum_of_charges(atoms: Any, cells: int) -> int:
    charges = atoms.get_initial_charges()
    total = cells * float(np.sum(charges))
    if abs(total - round(total)) > _WHOLE:
        raise ValueError(
            f"`charge`: the initial charges of `atoms` add up to {total:.6g} in the "
            f"supercell, {cells} times the cell, expected an integer. Give `charge`, 0 "
            "for a neutral crystal."
        )
    if np.any(charges):
        _logger.info(
            "The initial charges of `atoms` add up to %d in the supercell: `charge` is "
            "%d.",
            round(total),
            round(total),
        )
    return round(total)


def _sum_of_moments(atoms: Any, cells: int, electrons: int, spin: Any) -> int | None:
    """The spin of the initial magnetic moments, if there are any."""
    moments = np.asarray(atoms.get_initial_magnetic_moments(), dtype=np.float64)
    if not np.any(moments):
        results = {} if atoms.calc is None else atoms.calc.results
        if np.any(results.get("magmoms", 0)):
            _logger.warning(
                "Magnetic moments that a calculation left with `atoms` are not used. "
                "`atoms.set_initial_magnetic_moments(atoms.get_magnetic_moments())` "
                "makes them the spin of the crystal."
            )
        return None
    if moments.ndim == 2 and not np.any(moments[:, :2]):
        moments = moments[:, 2]
    mixed = moments.ndim == 2 or (np.any(moments > 0) and np.any(moments < 0))
    if mixed and (moments.ndim == 1 or spin is not None):
        _logger.warning(
            "The initial magnetic moments of `atoms` have several directions. A "
            "crystal has only their sum, its `spin`; give the pattern to "
            "`MeanField.solve(unrestricted=True, moments=...)`."
        )
    if spin is not None:
        _logger.info("`spin` is %s as given, whatever the moments of `atoms`.", spin)
        return None
    if moments.ndim == 2:
        raise ValueError(
            "`spin`: the initial magnetic moments of `atoms` are not collinear, "
            f"{moments.tolist()}. Spin-up and spin-down electrons here have one axis "
            "for all: give their difference as `spin`."
        )
    total = cells * float(np.sum(moments))
    whole = round(total)
    fits = (electrons + whole) % 2 == 0 and abs(whole) <= electrons
    if abs(total - whole) > _WHOLE or not fits:
        raise ValueError(
            f"`spin`: the initial magnetic moments of `atoms` add up to {total:.6g} in "
            f"the supercell, {cells} times the cell, expected spin-up minus spin-down "
            f"electrons, which has the parity of the {electrons} electrons. Give "
            "`spin`."
        )
    _logger.info(
        "The initial magnetic moments of `atoms` add up to %d in the supercell: `spin` "
        "is %d.",
        whole,
        whole,
    )
    return whole


def read_pyscf(
    cell: Any, cells: int, charge: Any, spin: Any, pseudopotential: Any
) -> dict[str, Any]:
    """The arguments of a `Crystal` in `cell`; with `charge` and `spin` of a supercell
    of so many cells, unless they are given.

    **Raises:** `ValueError` if `cell` is not a crystal, or has a pseudopotential of
    another kind than effective core potentials.
    """
    from pyscf.pbc import gto

    if not isinstance(cell, gto.Cell):
        raise ValueError(
            "`cell` must be a `pyscf.pbc.gto.Cell`, got "
            f"`{type(cell).__module__}.{type(cell).__qualname__}`. A molecule has no "
            "lattice; a `Cell` with enough vacuum around it has one."
        )
    if not cell._built:
        raise ValueError(
            "`cell` must be built: call `cell.build()`, which reads its atoms and "
            "lattice, and then give it here."
        )
    if cell.pseudo or getattr(cell, "_pseudo", None):
        raise ValueError(separable("`cell.pseudo`"))
    charges = np.asarray(cell.atom_charges())
    nuclei = np.flatnonzero(charges)
    symbols = [cell.atom_pure_symbol(int(i)) for i in nuclei]
    own = _potentials_of(cell, nuclei, symbols)
    if own and pseudopotential is not None:
        raise ValueError(
            f"Leave out `pseudopotential`: `cell` has its own, of {list(own)}."
        )
    known = own or pseudopotential
    cores = cores_of(given_potentials(known, symbols), symbols)
    missing = 0 if own else cells * int(np.sum(cores))
    if len(nuclei) < cell.natm:
        _logger.info(
            "%d ghost atoms of `cell` are left out: they are basis functions only.",
            cell.natm - len(nuclei),
        )
    vectors = np.asarray(cell.lattice_vectors(), dtype=np.float64)
    positions = np.asarray(cell.atom_coords())[nuclei]
    vacuum = _announced_vacuum(
        vectors,
        positions,
        range(cell.dimension, 3),
        f"`cell` has `dimension` {cell.dimension}",
        "If the crystal is periodic there, build `cell` with `dimension` 3; if matter "
        "ends there, make lattice vector {} longer. The energies of PySCF leave out "
        "periodic images in that direction, energies here do not.",
    )
    # PySCF counts both over all k-points, which are those of the supercell here.
    total = int(cell.tot_electrons(cells))
    if charge is None:
        charge = cells * int(np.sum(charges)) - total
    charge = whole_number("charge", charge, floats=True)
    electrons = cells * int(np.sum(charges)) - missing - charge
    if spin is None:
        spin = whole_number("cell.spin", cell.spin)
        if (electrons + spin) % 2 or abs(spin) > electrons:
            raise ValueError(
                f"`spin`: `cell.spin` is {spin}, which PySCF counts over all k-points "
                f"together. The {electrons} electrons of the supercell, {cells} times "
                "the cell, cannot have it. Give the `spin` of the supercell."
            )
    _announce_conventional("`cell`", vectors, positions, charges[nuclei].astype(int))
    if np.any(cell.magmom):
        _logger.warning(
            "`cell.magmom` is not used: a crystal has only `spin`. Give the pattern to "
            "`MeanField.solve(unrestricted=True, moments=...)`."
        )
    return {
        "lattice": vectors,
        "species": symbols,
        "cart_positions": positions,
        "unit": "bohr",
        "charge": charge,
        "spin": spin,
        "vacuum": vacuum,
        "pseudopotential": known,
    }


def _potentials_of(
    cell: Any, nuclei: Int[np.ndarray, " nuclei"], symbols: Sequence[str]
) -> dict[str, EffectiveCorePotential | None]:
    """By element; empty for an all-electron cell."""
    found: dict[str, EffectiveCorePotential | None] = {}
    for i, symbol in zip(nuclei, symbols, strict=True):
        label = cell.atom_symbol(int(i))
        terms = cell._ecp.get(label, cell._ecp.get(symbol))
        name = cell.ecp if isinstance(cell.ecp, str) else None
        if isinstance(cell.ecp, dict):
            name = cell.ecp.get(label, cell.ecp.get(symbol, cell.ecp.get("default")))
        plain = known_name(name, symbol, terms)
        one = None if not terms else from_pyscf_terms(symbol, terms, plain)
        if found.setdefault(symbol, one) != one:
            raise ValueError(
                f"`cell.ecp` has several pseudopotentials of {symbol}, expected one "
                "for each element."
            )
    return found if any(found.values()) else {}


def widest_gap(
    vectors: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "nuclei 3"],
    direction: int,
) -> tuple[float, float]:
    """The widest layer without nuclei between planes of the two other lattice vectors:
    its width in Bohr, and the fraction in its middle."""
    inverse = np.linalg.inv(vectors)
    place = np.sort((positions @ inverse[:, direction]) % 1.0)
    widths = np.diff(place, append=place[0] + 1.0)
    widest = int(np.argmax(widths))
    middle = place[widest] + widths[widest] / 2
    height = 1 / np.linalg.norm(inverse[:, direction])
    return float(widths[widest] * height), float(middle)


def finite_directions(
    directions: tuple[int, ...], vacuum: float, unit: Unit
) -> tuple[int, ...]:
    """The directions of a vacuum of this length: none if it is too short for one, with
    a warning."""
    length = vacuum * to_bohr(unit)
    if length >= MIN_VACUUM - ROUNDING:
        return directions
    _logger.warning(
        "`vacuum` is %.4g Bohr: with less than %g Bohr, matter does not end there. So "
        "the field `vacuum` of this crystal is (), and `SpaceGroup.of` takes the group "
        "of a crystal that is periodic in all directions.",
        length,
        MIN_VACUUM,
    )
    return ()


def check_given(given: Mapping[str, Any]) -> None:
    """**Raises:** `ValueError` for arguments of a `Crystal` that a structure of another
    package has itself."""
    taken = "unit", "lattice", "species", "cart_positions", "frac_positions"
    found = [f"`{name}`" for name in taken if name in given]
    if found:
        raise ValueError(
            f"Leave out {' and '.join(found)}: the structure says so itself, in units "
            "that are known. Give `supercell`, `charge`, `spin`, `twist`, `vacuum` or "
            "`pseudopotential`."
        )


def _announced_vacuum(
    vectors: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "nuclei 3"],
    directions: Sequence[int],
    given: str,
    advice: str,
) -> tuple[int, ...]:
    """The `vacuum` of a crystal; announces that directions without periodicity become
    periodic, with vacuum, in Bohr.

    **Raises:** `ValueError` if there is not enough of it.
    """
    if not directions or not len(positions) or np.linalg.det(vectors) == 0:
        return ()
    gaps = [widest_gap(vectors, positions, direction)[0] for direction in directions]
    for direction, gap in zip(directions, gaps, strict=True):
        if gap < MIN_VACUUM:
            raise ValueError(
                f"{given}, but crystals are periodic in all directions: between nuclei "
                f"and their periodic images in direction {direction} there must be at "
                f"least {MIN_VACUUM:g} Bohr of vacuum, got {gap:.4g}. "
                f"{advice.format(direction)}"
            )
    several = tuple(directions)
    group = (
        "No group leaves out all three directions."
        if len(several) == 3
        else f"Its `vacuum` is {several}: `SpaceGroup.of` takes the group of the "
        "matter between the vacuum."
    )
    _logger.warning(
        "%s. The crystal is periodic in direction %s too, with %s Bohr of vacuum. %s",
        given,
        " and ".join(map(str, several)),
        " and ".join(f"{gap:.1f}" for gap in gaps),
        group,
    )
    return several if len(several) < 3 else ()


def _announce_conventional(
    name: str,
    vectors: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "nuclei 3"],
    numbers: Int[np.ndarray, " nuclei"],
) -> None:
    """Warns if a cell is not primitive, or would not be primitive without rounding."""
    if not len(numbers) or np.linalg.det(vectors) == 0:
        return
    frac = positions @ np.linalg.inv(vectors)
    try:
        count, level = repetitions(Cell(vectors, frac, numbers))
    except ValueError:
        # The error comes when the operations are needed.
        return
    if count > 1:
        _logger.warning(
            "%s is %d primitive cells of its crystal%s. Results per primitive cell are "
            "per given cell then, %d times as much. `crystal.%sprimitive()` is the "
            "same crystal in a primitive cell.",
            name,
            count,
            "" if level is None else f", if it is rounded by up to {level:g} Bohr",
            count,
            "" if level is None else f"symmetrized({level:g}).",
        )
