"""Which twists have a closed shell, found without solving a mean field."""

import itertools
import warnings

import numpy as np
from jaxtyping import Float

from .._crystal import Crystal, Lattice, with_changes
from .cells import check_basis, crystal_cell
from .guess import superposed_atoms
from .settings import Settings


# Levels (Hartree) that are farther apart than this differ by more than the errors of
# grids; those of a closed shell do.
SMALLEST_GAP = 1e-3
# So many Bohr of the crystal, in each direction, hold the density of its atoms.
_EXTENT = 12.0
_HALVES = np.array(sorted(itertools.product((0.0, 0.5), repeat=3), key=sum))
# Cells of supercells for which the search takes seconds.
_FEW = 64


def shell_gaps(
    crystal: Crystal,
    twists: Float[np.ndarray, "twists 3"],
    basis: str | dict[str, str],
    exp_to_discard: float | None,
) -> Float[np.ndarray, " twists"]:
    """The gap in Hartree between the highest occupied and the lowest empty level at
    each twist, with as many electrons of each spin as the crystal has; infinite if no
    level is occupied or none is empty.

    The levels are of the local-density approximation in the potential of superposed
    atoms. It has the symmetry of the crystal and does not depend on the twist, so that
    levels at different twists are of the same bands. Nothing is iterated: levels that
    cross cannot keep this from converging. Hartree-Fock has wider bands in mostly the
    same order; but each twist would cost it as much as a mean field, as integrals of
    exchange grow with the square of the number of k-points.

    **Raises:** `ValueError` for a basis that is too small or linearly dependent.
    """
    from pyscf.pbc import df, dft

    settings = Settings(crystal, basis, exp_to_discard, False, None, None)
    cell = crystal_cell(crystal, settings)
    kpoints = np.array(
        [
            with_changes(crystal, twist=twist).frac_kpoints @ crystal.lattice.reciprocal
            for twist in twists
        ]
    )
    bands, around = kpoints.reshape(-1, 3), _mesh(crystal.lattice)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=bands))
    check_basis(crystal, settings, overlap)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        functional = dft.KRKS(cell, around, xc="lda,vwn")
        functional.verbose = 0
        functional.with_df = df.RSDF(cell, np.concatenate([around, bands]))
        functional.with_df.verbose = 0
        functional.grids = dft.BeckeGrids(cell)
        functional.grids.level = 1
        count = sum(crystal.electrons) / crystal.cells * len(around)
        up, down = superposed_atoms(
            cell,
            (count / 2, count / 2),
            (0.0,) * len(crystal.species),
            np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=around)),
        )
        try:
            potential = functional.get_veff(
                cell, up + down, kpts=around, kpts_band=bands
            )
        finally:
            functional.with_df._cderi_to_save.close()
        fock = functional.get_hcore(cell, bands) + np.asarray(potential)
        levels = np.asarray(functional.eig(fock, overlap)[0])
    levels = np.sort(levels.reshape(len(twists), -1), axis=1)
    gaps = [
        levels[:, n] - levels[:, n - 1]
        for n in crystal.electrons
        if 0 < n < levels.shape[1]
    ]
    return np.min([np.full(len(twists), np.inf), *gaps], axis=0)


def _mesh(lattice: Lattice) -> Float[np.ndarray, "k 3"]:
    """K-points as of a supercell of some size."""
    reduced = lattice.reduced()
    lengths = np.linalg.norm(reduced.vectors, axis=1)
    counts = np.ceil(_EXTENT / lengths).astype(int)
    steps = np.array(list(itertools.product(*map(range, counts))))
    return steps / counts @ reduced.reciprocal


def advice(crystal: Crystal) -> str:
    """Names the twist of zeros and halves with the largest gap, in a minimal basis, or
    says how to find one."""
    how = "`eqs.closed_shell_twists(crystal, mesh)` lists twists with a closed shell."
    if crystal.cells > _FEW:
        return how
    try:
        gaps = shell_gaps(crystal, _HALVES, "sto-3g", 0.1)
    except ValueError:
        return how
    # Twists along a vacuum make no difference: the one with the fewest halves.
    best = int(np.flatnonzero(gaps > np.max(gaps) - SMALLEST_GAP)[0])
    if not gaps[best] > SMALLEST_GAP:
        return f"No twist of zeros and halves has a gap; {how}"
    return (
        f"Of the twists of zeros and halves, {_HALVES[best].tolist()} has the largest "
        f"gap, {gaps[best]:.3g} Ha in the local-density approximation; {how}"
    )
