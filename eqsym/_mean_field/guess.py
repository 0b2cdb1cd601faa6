"""The start of Hartree-Fock iterations: superposed atoms."""

from typing import Any

import numpy as np
from jaxtyping import Float, Inexact


def superposed_atoms(
    cell: Any,
    electrons: tuple[int, int],
    moments: tuple[float, ...],
    overlap: Inexact[np.ndarray, "k functions functions"],
) -> Float[np.ndarray, "2 k functions functions"]:
    """Density matrices of spin-up and spin-down electrons of superposed spherical atoms
    with spin moments, between functions of the same atom.

    PySCF's own guess projects atoms on the functions of all others in the cell, but not
    on the functions of periodic images. It lacks the symmetry of the crystal, and
    depends on the choice of the cell.

    **Arguments:**

    - `cell`: the cell of PySCF.
    - `electrons`: numbers of spin-up and spin-down electrons in all cells, to which the
        guess is scaled.
    - `moments`: spin moments of the atoms of the cell, in electrons.
    - `overlap`: overlap matrices of the basis functions at all k.
    """
    from pyscf.pbc import gto
    from pyscf.scf.hf import init_guess_by_minao

    guess = np.zeros((2, cell.nao, cell.nao))
    atoms = cell.aoslice_by_atom()
    for index, (first, last, start, stop) in enumerate(atoms):
        if start == stop:
            continue
        atom = gto.mole.Mole()
        atom._atm = cell._atm[index : index + 1]
        atom._bas = cell._bas[first:last].copy()
        atom._bas[:, gto.mole.ATOM_OF] = 0
        atom._env = cell._env
        atom._atom = cell._atom[index : index + 1]
        # Asked for atoms with pseudopotentials.
        atom._basis = cell._basis
        atom._built = True
        found: Any = init_guess_by_minao(atom)
        occupation = np.asarray(found.mo_occ)
        # The moment is carried by open shells, or else by all.
        free = np.minimum(occupation, 2 - occupation)
        free = occupation if abs(moments[index]) > np.sum(free) else free
        spin = moments[index] * free / max(np.sum(free), 1e-12)
        for density, sign in zip(guess, (1, -1), strict=True):
            scaled = found.mo_coeff * np.maximum(occupation + sign * spin, 0) / 2
            density[start:stop, start:stop] = scaled @ found.mo_coeff.T
    found = np.einsum("sij,kji->s", guess, overlap).real
    scale = np.array(electrons) / np.where(found > 0, found, 1)
    return (guess * scale[:, None, None])[:, None] * np.ones((len(overlap), 1, 1))
