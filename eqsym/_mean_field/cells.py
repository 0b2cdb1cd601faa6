"""Cells of PySCF, and bases that are good enough for them."""

from typing import Any

import numpy as np
from jaxtyping import Float, Inexact

from .._crystal import Crystal, Lattice
from .settings import Settings


# Smallest eigenvalue of the overlap matrix of the basis at any k. Below it integrals,
# good to 1e-8 or so, do not determine the energy, and the iteration diverges.
_SMALLEST_OVERLAP = 1e-6


def _right_handed(lattice: Lattice) -> Float[np.ndarray, "3 3"]:
    """A basis of the same lattice that is right-handed, as PySCF wants it."""
    vectors = lattice.vectors
    return vectors if np.linalg.det(vectors) > 0 else -vectors


def bare_cell(
    lattice: Lattice,
    atoms: list,
    basis: Any,
    exp_to_discard: float | None,
    ecp: dict[str, list] | None = None,
):
    from pyscf.pbc import gto

    cell = gto.Cell()
    cell.a = _right_handed(lattice)
    cell.unit = "B"
    cell.atom = atoms
    cell.basis = basis
    cell.ecp = ecp or {}
    cell.exp_to_discard = exp_to_discard
    # Electrons are counted over all k-points, by the solver; not by the cell.
    cell.spin = None
    cell.verbose = 0
    return cell.build(dump_input=False, parse_arg=False)


def crystal_cell(crystal: Crystal, settings: Settings):
    from pyscf.lib.exceptions import BasisNotFoundError

    basis = settings.basis
    elements = sorted(set(crystal.species))
    # Around atoms outside of its cell, PySCF sums too few images.
    positions = Lattice(_right_handed(crystal.lattice)).wrap(crystal.cart_positions)
    atoms = list(zip(crystal.species, positions.tolist(), strict=True))
    ecp = {name: one.as_pyscf() for name, one in crystal.pseudopotential.items()}
    try:
        return bare_cell(crystal.lattice, atoms, basis, settings.exp_to_discard, ecp)
    except (BasisNotFoundError, KeyError) as error:
        raise ValueError(
            f"`basis` must be a Gaussian basis that PySCF knows for {elements}, got "
            f"{basis!r}. Try 'cc-pvdz' or 'sto-3g', or name one for each element in a "
            "dictionary."
        ) from error


def check_basis(
    crystal: Crystal,
    settings: Settings,
    overlap: Inexact[np.ndarray, "k functions functions"],
) -> None:
    basis, exp_to_discard = settings.basis, settings.exp_to_discard
    functions = crystal.cells * overlap.shape[-1]
    if functions < max(crystal.electrons):
        raise ValueError(
            f"`basis` {basis!r} with `exp_to_discard` {exp_to_discard} leaves "
            f"{functions} functions in the supercell for {max(crystal.electrons)} "
            "electrons of one spin. Take a larger `basis` or a smaller "
            "`exp_to_discard`."
        )
    smallest = min(float(np.linalg.eigvalsh(s)[0]) for s in overlap)
    if smallest < _SMALLEST_OVERLAP:
        raise ValueError(
            f"`basis` {basis!r} with `exp_to_discard` {exp_to_discard} is linearly "
            f"dependent in this crystal: the overlap matrix has an eigenvalue "
            f"{smallest:.1e}, expected at least {_SMALLEST_OVERLAP:.0e}. Raise "
            "`exp_to_discard` (0.1 to 0.3 suits most crystals) or take a smaller "
            "`basis`."
        )
