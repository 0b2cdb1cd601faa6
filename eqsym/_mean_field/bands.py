"""Which twists have a closed shell, found without solving a mean field."""

import itertools

import numpy as np
import scipy.integrate
import scipy.linalg
from jaxtyping import Float

from .._crystal import Crystal, with_changes
from .cells import check_basis, crystal_cell
from .settings import Settings


# Levels (Hartree) that are farther apart than this differ by more than the errors of
# grids; those of a closed shell do.
SMALLEST_GAP = 1e-3
# Beyond, in Bohr, atoms have no density.
_RADII = np.geomspace(1e-5, 12.0, 4000)
_HALVES = np.array(sorted(itertools.product((0.0, 0.5), repeat=3), key=sum))
# Cells of supercells for which the search takes seconds.
_FEW = 64


def shell_gaps(
    crystal: Crystal,
    twists: Float[np.ndarray, "twists 3"],
    basis: str | dict[str, str] | None,
    exp_to_discard: float | None,
) -> Float[np.ndarray, " twists"]:
    r"""The gap in Hartree between the highest occupied and the lowest empty level at
    each twist, with as many electrons of each spin as the crystal has; infinite if no
    level is occupied or none is empty.

    The levels are those of superposed neutral atoms, each with its pseudopotential,
    nuclear and Hartree potential, with local exchange $-(3 \rho / \pi)^{1/3}$. This
    potential has the symmetry of the crystal and does not depend on the twist, so that
    levels at different twists are of the same bands. Nothing is iterated, so that
    levels may cross. Hartree-Fock has wider bands in mostly the same order; but each
    twist would cost it as much as a mean field.

    **Raises:** `ValueError` for a basis that is too small or linearly dependent.
    """
    from pyscf.pbc import dft
    from pyscf.pbc.gto import ecp

    settings = Settings(crystal, basis, exp_to_discard, False, None, None)
    cell = crystal_cell(crystal, settings)
    kpoints = np.concatenate(
        [
            with_changes(crystal, twist=twist).frac_kpoints @ crystal.lattice.reciprocal
            for twist in twists
        ]
    )
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpoints))
    check_basis(crystal, settings, overlap)
    kinetic = np.asarray(cell.pbc_intor("int1e_kin", hermi=1, kpts=kpoints))
    fixed = kinetic + ecp.ecp_int(cell, kpoints) if cell.has_ecp() else kinetic
    grids = dft.BeckeGrids(cell)
    grids.level, grids.verbose = 1, 0
    grids.build()
    potential = grids.weights * _potential(crystal, settings, np.array(grids.coords))
    levels = []
    for k, s, t in zip(kpoints, overlap, fixed, strict=True):
        values = cell.pbc_eval_gto("GTOval_sph", grids.coords, kpt=k)
        fock = t + values.conj().T @ (potential[:, None] * values)
        levels.append(scipy.linalg.eigh(fock, s, eigvals_only=True))
    levels = np.sort(np.reshape(levels, (len(twists), -1)), axis=1)
    gaps = [
        levels[:, n] - levels[:, n - 1]
        for n in crystal.electrons
        if 0 < n < levels.shape[1]
    ]
    return np.min([np.full(len(twists), np.inf), *gaps], axis=0)


def _potential(
    crystal: Crystal, settings: Settings, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, " points"]:
    lattice = crystal.lattice
    density, potential = np.zeros((2, len(points)))
    inside = lattice.wrap(crystal.cart_positions)
    reach = _RADII[-1] + np.sum(np.linalg.norm(lattice.vectors, axis=1))
    shifts = lattice.points_within(float(reach))
    for species, position in zip(crystal.species, inside, strict=True):
        radial = _atom(crystal, species, settings)
        for shift in shifts:
            distance = np.linalg.norm(points - position - shift, axis=1)
            for total, values in zip((density, potential), radial, strict=True):
                total += np.interp(distance, _RADII, values, right=0.0)
    return potential - np.cbrt(3 * density / np.pi)


def _atom(
    crystal: Crystal, species: str, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """Density and Coulomb potential of a neutral spherical atom."""
    from pyscf import gto
    from pyscf.scf.hf import init_guess_by_minao

    basis = settings.basis
    basis = basis if isinstance(basis, str) else basis[species]
    atom = gto.Mole()
    atom.atom, atom.basis = [(species, (0.0, 0.0, 0.0))], basis
    if species in crystal.pseudopotential:
        atom.ecp = {species: crystal.pseudopotential[species].as_pyscf()}
    atom.unit, atom.spin, atom.verbose = "B", None, 0
    atom.build(False, False)
    places = _RADII[:, None] * np.array([1.0, 0.0, 0.0])
    values = atom.eval_gto("GTOval_sph", places)
    found = np.einsum(
        "pi,ij,pj->p", values, np.array(init_guess_by_minao(atom)), values
    )
    shells = 4 * np.pi * _RADII**2 * found
    inside = scipy.integrate.cumulative_trapezoid(shells, _RADII, initial=0)
    # Exactly neutral, so that nothing is left beyond the last radius.
    scale = atom.atom_charge(0) / inside[-1]
    outside = scipy.integrate.cumulative_trapezoid(shells / _RADII, _RADII, initial=0)
    hartree = inside / _RADII + outside[-1] - outside
    return scale * found, scale * hartree - atom.atom_charge(0) / _RADII


def advice(crystal: Crystal, settings: Settings) -> str:
    """Names the twist of zeros and halves with the largest gap, or says how to find
    one."""
    how = "`eqs.closed_shell_twists(crystal, mesh)` lists twists with a closed shell."
    if crystal.cells > _FEW:
        return how
    gaps = shell_gaps(crystal, _HALVES, settings.basis, settings.exp_to_discard)
    # Twists along a vacuum make no difference: the one with the fewest halves.
    best = int(np.flatnonzero(gaps > np.max(gaps) - SMALLEST_GAP)[0])
    if not gaps[best] > SMALLEST_GAP:
        return f"No twist of zeros and halves has a gap; {how}"
    return (
        f"Of the twists of zeros and halves, {_HALVES[best].tolist()} has the largest "
        f"gap, {gaps[best]:.3g} Ha for superposed atoms; {how}"
    )
