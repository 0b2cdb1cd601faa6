"""Hartree-Fock by PySCF, with the occupied orbitals as sums of Gaussians."""

import dataclasses
import logging
import warnings
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.special
from jaxtyping import Float, Inexact

from .._core import progress_bar
from .._crystal import Crystal, is_whole
from .bands import advice
from .cells import bare_cell, check_basis, crystal_cell
from .gaussians import expand, Gaussians, Shell, shells_of
from .guess import superposed_atoms
from .pairs import has_real_orbitals
from .real_orbitals import conjugate_orbitals, real_parts
from .settings import Settings
from .stability import (
    Determinant,
    instabilities,
    Instability,
    too_large,
    warn_of_instabilities,
)


_logger = logging.getLogger("eqsym")

# Two levels closer than this (Hartree) count as degenerate.
_DEGENERATE = 1e-5
# How often an unrestricted determinant that can be lowered is lowered.
_FOLLOWED = 5
# Iterations without extrapolation after a rotation if extrapolation leads back.
_PLAIN = 8
# By how much (Hartree per primitive cell) to count as lowered.
_LOWERED = 1e-7
_STATE = ("e_tot", "mo_energy", "mo_coeff", "mo_occ")


@dataclasses.dataclass
class SpinOrbitals:
    """The occupied orbitals of one spin."""

    kpoints: np.ndarray  # (orbitals, 3)
    gaussians: tuple[Gaussians, ...]


@dataclasses.dataclass
class Solution:
    """A Hartree-Fock determinant: spin-up and spin-down orbitals."""

    energy: float
    gap: float
    up: SpinOrbitals
    down: SpinOrbitals


def check_closed_shell(crystal: Crystal, settings: Settings, gap: float) -> None:
    """**Raises:** `ValueError` that says what to do, if there is no gap."""
    if not gap > _DEGENERATE:
        raise ValueError(
            f"`closed_shell`: at the twist {crystal.twist.tolist()} the shell is open, "
            f"with a gap of {gap:.3g} Ha between the highest occupied and the lowest "
            "empty level. Choose another twist, supercell or spin. "
            f"{advice(crystal, settings)} "
            "Or take `closed_shell=False`: one of several occupations."
        )


def hartree_fock(
    crystal: Crystal,
    settings: Settings,
    closed_shell: bool,
    max_cycles: int,
    progress: bool | None,
) -> Solution:
    """Solves, chooses the occupied levels, and expands them in Gaussians. Arguments and
    errors as documented for `MeanField.solve`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _solve(crystal, settings, closed_shell, max_cycles, progress)
    if closed_shell:
        check_closed_shell(crystal, settings, found.gap)
    if not found.gap > _DEGENERATE:
        _logger.warning(
            "Mean field: the highest occupied and the lowest empty level are "
            "degenerate, so that the occupation of %d spin-up and %d spin-down "
            "orbitals is one of several, of different energies. Choose another "
            "supercell, spin or twist for a closed shell. %s",
            *crystal.electrons,
            advice(crystal, settings),
        )
    warn_of_instabilities(
        found.instabilities,
        settings.unrestricted,
        settings.moments is not None,
        len(crystal.species),
    )
    sets = [_occupied(found, spin) for spin in range(2)]
    conjugate = []
    if has_real_orbitals(crystal, (sets[0][0], sets[1][0])):
        overlaps = list(zip(found.kpoints, found.overlap, strict=True))
        pairs = [(k, conjugate_orbitals(crystal, overlaps, k, mo)) for k, mo in sets]
        conjugate = [(k, mo) for k, mo in pairs if mo is not None]
    # Both spins or none: the network is real for all orbitals or complex.
    real = len(conjugate) == len(sets)
    orbitals = []
    for k, mo in conjugate if real else sets:
        gaussians = expand(crystal.lattice, found.shells, k, mo)
        if real:
            gaussians = tuple(real_parts(crystal, k, g) for g in gaussians)
        orbitals.append(SpinOrbitals(k, gaussians))
    return Solution(found.energy, found.gap, *orbitals)


@dataclasses.dataclass
class _Levels:
    """The solution of PySCF, spin by spin."""

    energy: float
    kpoints: np.ndarray  # (k, 3)
    overlap: np.ndarray  # (k, functions, functions)
    occupied: np.ndarray  # (2, k, orbitals), of bool
    coefficients: np.ndarray  # (2, k, functions, orbitals)
    shells: list[Shell]
    gap: float
    instabilities: list[Instability] | None


def _occupations(
    levels: Float[np.ndarray, "k orbitals"],
    count: int,
    whole: bool,
    smearing: float | None,
) -> Float[np.ndarray, "k orbitals"]:
    """Occupies the lowest levels. Levels degenerate with the highest of them are
    occupied by equal fractions, which keeps the symmetry; or, if `whole`, the first
    ones in order of k. With smearing by the function of Fermi and Dirac."""
    if smearing is not None and not whole and 0 < count < levels.size:

        def fermi(level):
            return scipy.special.expit((level - levels) / smearing)

        reach = 50 * smearing
        level = scipy.optimize.brentq(
            lambda x: np.sum(fermi(x)) - count,
            np.min(levels) - reach,
            np.max(levels) + reach,
            xtol=1e-14,
        )
        return fermi(level)
    order = np.argsort(levels, axis=None, kind="stable")
    occupied = np.zeros(levels.size)
    occupied[order[:count]] = 1
    if 0 < count < levels.size:
        jumps = np.diff(levels.ravel()[order]) > _DEGENERATE
        start = count - int(np.argmax(np.append(jumps[:count][::-1], True)))
        stop = count + int(np.argmax(np.append(jumps[count - 1 :], True)))
        if stop > count:
            shell = np.sort(order[start:stop])
            occupied[shell] = (count - start) / len(shell)
            if whole:
                occupied[shell] = np.arange(len(shell)) < count - start
    return occupied.reshape(levels.shape)


def _solver(
    restricted: bool,
    electrons: tuple[int, int],
    image: float,
    real: bool,
    smearing: float | None,
):
    """The class of PySCF's solver, for electrons and exchange of a general supercell.

    PySCF reads the supercell off the k-points as if it were diagonal. Here the actual
    supercell gives the number of electrons, and the term of exchange by which electrons
    interact with their own images, `image S dm S`.
    """
    from pyscf.pbc import scf

    base: Any = scf.khf.KRHF if restricted else scf.kuhf.KUHF
    counts = electrons[:1] if restricted else electrons

    class Solver(base):
        whole = False

        def get_jk(self, cell=None, dm_kpts=None, *args, with_k=True, **kwargs):
            dm = self.make_rdm1() if dm_kpts is None else dm_kpts
            vj, vk = base.get_jk(self, cell, dm, *args, with_k=with_k, **kwargs)
            if with_k:
                overlap = self.get_ovlp()
                vk = vk + image * (overlap @ np.asarray(dm) @ overlap)
            return vj, vk

        def eig(self, h_kpts, s_kpts, *args, **kwargs):
            # Of degenerate orbitals, real ones.
            h_kpts = np.real(h_kpts) if real else h_kpts
            return base.eig(self, h_kpts, s_kpts, *args, **kwargs)

        def get_occ(self, mo_energy_kpts=None, mo_coeff_kpts=None):
            levels = self.mo_energy if mo_energy_kpts is None else mo_energy_kpts
            levels = np.asarray(levels)
            by_spin = levels.reshape(len(counts), *levels.shape[-2:])
            occupied = [
                _occupations(e, n, self.whole, smearing)
                for e, n in zip(by_spin, counts, strict=True)
            ]
            full = 2 if restricted else 1
            return full * np.reshape(occupied, levels.shape)

        def get_grad(self, mo_coeff_kpts, mo_occ_kpts, fock=None):
            if smearing is None or self.whole:
                return base.get_grad(self, mo_coeff_kpts, mo_occ_kpts, fock)
            # All levels are occupied, and none to the full.
            if fock is None:
                fock = self.get_fock(dm=self.make_rdm1(mo_coeff_kpts, mo_occ_kpts))
            mo = np.asarray(mo_coeff_kpts)
            found = np.swapaxes(mo.conj(), -1, -2) @ np.asarray(fock) @ mo
            above, below = np.tril_indices(found.shape[-1], -1)
            return found[..., above, below].ravel()

    return Solver


def _solve(
    crystal: Crystal,
    settings: Settings,
    closed_shell: bool,
    max_cycles: int,
    progress: bool | None,
) -> _Levels:
    from pyscf.pbc import df
    from pyscf.pbc.tools.pbc import madelung

    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    cell = crystal_cell(crystal, settings)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpoints))
    check_basis(crystal, settings, overlap)
    restricted = not settings.unrestricted
    real = _is_real(crystal, kpoints)
    probe = bare_cell(crystal.supercell, [("H", (0.0, 0.0, 0.0))], "sto-3g", None)
    image = float(madelung(probe, np.zeros((1, 3))))
    solver = _solver(restricted, crystal.electrons, image, real, settings.smearing)
    scf = solver(cell, kpoints, exxdiv=None)
    scf.with_df = df.RSDF(cell, kpoints)
    scf.nelec = crystal.electrons
    scf.verbose = scf.with_df.verbose = 0
    scf.chkfile = None
    scf.conv_tol = 1e-9
    scf.max_cycle = max_cycles
    _logger.info("Solving the mean field; the integrals can take minutes.")
    bar = progress_bar("Mean field", None, progress)
    bar.say("integrals", now=True)

    def cycle(values: dict[str, Any]) -> None:
        bar.say(f"E {values['e_tot']:.6f} Ha")
        bar.update()

    scf.callback = cycle
    try:
        with bar:
            found, gap = _converged(
                scf, crystal, settings, closed_shell, overlap, image, real
            )
    except (np.linalg.LinAlgError, _NotConverged):
        raise RuntimeError(
            f"Hartree-Fock did not converge in {max_cycles} iterations, for `basis` "
            f"{settings.basis!r} with `exp_to_discard` {settings.exp_to_discard}. "
            "Raise `exp_to_discard` (0.1 to 0.3 suits most crystals), take another "
            "`basis`, allow more `max_cycles`, smooth the occupation of levels that "
            "cross with `smearing=0.01`, or choose another supercell, spin or twist "
            "with a closed shell, of `eqs.closed_shell_twists`."
        ) from None
    finally:
        scf.with_df._cderi_to_save.close()

    def by_spin(found):
        return np.stack([found] * 2) if restricted else np.asarray(found)

    return _Levels(
        energy=float(scf.e_tot),
        kpoints=kpoints,
        overlap=overlap,
        occupied=by_spin(scf.mo_occ) > 0,
        coefficients=by_spin(scf.mo_coeff),
        shells=shells_of(cell),
        gap=gap,
        instabilities=found,
    )


class _NotConverged(Exception):
    pass


def _converged(
    scf: Any,
    crystal: Crystal,
    settings: Settings,
    closed_shell: bool,
    overlap: Inexact[np.ndarray, "k functions functions"],
    image: float,
    real: bool,
) -> tuple[list[Instability] | None, float]:
    """Iterates until self-consistent. Returns the rotations that lower the energy then,
    and the gap.

    First with the symmetry of the crystal, which the potential has if the guess has it
    and degenerate levels are occupied alike. If the shell is open, the iteration goes
    on from one of the occupations. Determinants without the symmetry, and unrestricted
    ones, then follow rotations that lower the energy, so that nobody has to know how
    spins arrange.
    """

    def iterate(density):
        scf.converged = False
        scf.kernel(density)
        if not scf.converged or not np.isfinite(scf.e_tot):
            raise _NotConverged

    # The k-points of complex conjugation, if the Hamiltonian is real.
    frac = crystal.frac_kpoints
    opposite = is_whole(frac[:, None] + frac)
    back = np.argmax(opposite, axis=1)

    def density(coefficients=None):
        found = np.asarray(scf.make_rdm1(coefficients, scf.mo_occ))
        if real:
            return np.real(found)
        occupied = np.asarray(scf.mo_occ)
        if np.all(np.any(opposite, axis=1)) and np.all(
            occupied == occupied[..., back, :]
        ):
            return (found + found[..., back, :, :].conj()) / 2
        return found

    moments = settings.moments or (0.0,) * len(crystal.species)
    first = superposed_atoms(scf.cell, crystal.electrons, moments, overlap)
    scf.kernel(first if settings.unrestricted else first[0] + first[1])
    if settings.smearing is not None:
        if not scf.converged or not np.isfinite(scf.e_tot):
            raise _NotConverged
        scf.whole = True
        scf.mo_occ = scf.get_occ()
        scf.e_tot = scf.energy_tot(density())
        gap = _gap(scf)
        return [], gap if gap > _DEGENERATE else 0.0
    fractions = np.asarray(scf.mo_occ) % (1 if settings.unrestricted else 2)
    degenerate = bool(np.any(fractions))
    if degenerate:
        if closed_shell and not settings.unrestricted:
            # Before the minutes of work rather than after them.
            check_closed_shell(crystal, settings, 0.0)
        scf.whole = True
        scf.mo_occ = scf.get_occ()
        iterate(density())
    elif not scf.converged or not np.isfinite(scf.e_tot):
        raise _NotConverged

    def lowers(rotation) -> bool:
        """Follows a rotation; restores the state if the energy is not lower."""
        before = {name: getattr(scf, name) for name in _STATE}
        spread = np.sqrt(crystal.cells)
        angles = {a * b for a in (0.5, 1.0, -0.5, -1.0) for b in (1.0, spread)}
        rotated = [
            density(_rotated(scf, rotation, angle, settings.unrestricted))
            for angle in sorted(angles, reverse=True)
        ]
        # Rounding must not choose between mirror images.
        rotated.sort(key=lambda start: round(scf.energy_tot(start), 6))
        at_once = scf.diis_start_cycle
        for start, extrapolated in (
            (rotated[0], at_once),
            (rotated[0], _PLAIN),
            (rotated[1], _PLAIN),
        ):
            scf.diis_start_cycle = extrapolated
            try:
                iterate(start)
                if scf.e_tot < before["e_tot"] - _LOWERED:
                    return True
            except _NotConverged:
                pass
            finally:
                scf.diis_start_cycle = at_once
            for name, value in before.items():
                setattr(scf, name, value)
        return False

    found = _instabilities(scf, crystal, image)
    followed = False
    for _ in range(_FOLLOWED if settings.unrestricted or degenerate else 0):
        # Opposite rotations lead restricted determinants to unrestricted ones.
        rotations = [
            rotation
            for i in found or ()
            if settings.unrestricted or not i.opposite
            for rotation in i.rotations
        ]
        scf.whole = scf.whole or bool(rotations)
        if not any(lowers(rotation) for rotation in rotations):
            break
        followed = True
        found = _instabilities(scf, crystal, image)
    gap = _gap(scf)
    if settings.unrestricted and followed and found == [] and gap > _DEGENERATE:
        # The spins have found an order, which has no open shell.
        degenerate = False
    return found, 0.0 if degenerate else gap


def _instabilities(
    scf: Any, crystal: Crystal, image: float
) -> list[Instability] | None:
    occupied = np.asarray(scf.mo_occ) > 0
    orbitals = occupied.shape[-1]
    cells = crystal.cells
    shape = (-1, cells, orbitals)
    functions = scf.cell.nao
    determinant = Determinant(
        frac_kpoints=crystal.frac_kpoints,
        levels=np.asarray(scf.mo_energy).reshape(shape),
        coefficients=np.asarray(scf.mo_coeff).reshape(-1, cells, functions, orbitals),
        occupied=occupied.reshape(shape),
    )

    def integrals(k, m):
        pair = scf.kpts[[k, m]]
        parts = scf.with_df.sr_loop(pair, compact=False)
        rows = np.concatenate([real + 1j * imag for real, imag, _ in parts])
        return rows.reshape(-1, functions, functions)

    if too_large(determinant, scf.with_df.get_naoaux()):
        return None
    return instabilities(determinant, integrals, image)


def _gap(scf: Any) -> float:
    """How far the lowest empty level of each spin is above the occupied ones."""
    filled = np.asarray(scf.mo_occ) > 0
    levels = np.asarray(scf.mo_energy)
    shape = (-1, *levels.shape[-2:])
    gaps = [
        np.min(e[~occupied]) - np.max(e[occupied])
        for e, occupied in zip(
            levels.reshape(shape), filled.reshape(shape), strict=True
        )
        if np.any(occupied) and not np.all(occupied)
    ]
    return float(min(gaps, default=np.inf))


def _rotated(
    scf: Any, rotation: list[list[np.ndarray]], angle: float, unrestricted: bool
) -> np.ndarray:
    """Coefficients after a rotation, times an angle."""
    coefficients = np.array(scf.mo_coeff, dtype=np.complex128)
    occupied = np.asarray(scf.mo_occ) > 0
    spins = zip(coefficients, occupied, strict=True)
    if not unrestricted:
        spins = [(coefficients, occupied)]
    for (mo, filled), blocks in zip(spins, rotation, strict=True):
        for k, block in enumerate(blocks):
            o, v = np.flatnonzero(filled[k]), np.flatnonzero(~filled[k])
            generator = np.zeros((filled.shape[1],) * 2, dtype=np.complex128)
            generator[np.ix_(v, o)] = angle * block
            generator[np.ix_(o, v)] = -angle * block.conj().T
            mo[k] = mo[k] @ scipy.linalg.expm(generator)
    return coefficients


def _occupied(found: _Levels, spin: int) -> tuple[np.ndarray, np.ndarray]:
    """k-points (orbitals, 3) and coefficients (functions, orbitals), k by k."""
    k, band = np.nonzero(found.occupied[spin])
    return found.kpoints[k], found.coefficients[spin][k, :, band].T


def _is_real(crystal: Crystal, kpoints: Float[np.ndarray, "orbitals 3"]) -> bool:
    """Whether every k is its own negative modulo reciprocal lattice vectors."""
    doubled = kpoints @ crystal.lattice.vectors.T / np.pi
    return bool(np.all(is_whole(doubled)))
