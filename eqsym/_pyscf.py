"""Hartree-Fock with PySCF: crystal in, occupied orbitals as sums of Gaussians out."""

import dataclasses
import functools
import itertools
import logging
import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Inexact

from ._crystal import Crystal, Lattice
from ._progress import progress_bar


_logger = logging.getLogger("eqsym")

# Smallest eigenvalue of the overlap matrix of the basis at any k. Below it integrals,
# good to 1e-8 or so, no longer determine the energy, and the iteration diverges.
_SMALLEST_OVERLAP = 1e-6
# Two levels closer than this (Hartree) count as degenerate.
_DEGENERATE = 1e-5
# Gaussians that add less than this to an orbital anywhere in the cell are left out.
_NEGLIGIBLE = 1e-10


@dataclasses.dataclass
class Gaussians:
    """Primitive Gaussians of one angular momentum l, in the cell around the origin, and
    their weights: contraction, normalisation, lattice sum, Bloch phases and orbital
    coefficients. Cartesian components in the order xx, xy, xz, yy, .."""

    l: int
    exponents: np.ndarray  # (terms,)
    centers: np.ndarray  # (terms, 3)
    weights: np.ndarray  # (components, terms, orbitals)


@dataclasses.dataclass
class Orbitals:
    """The occupied orbitals of one spin."""

    kpoints: np.ndarray  # (orbitals, 3)
    gaussians: tuple[Gaussians, ...]


@dataclasses.dataclass
class Solution:
    """A Hartree-Fock determinant: spin-up and spin-down orbitals."""

    energy: float
    up: Orbitals
    down: Orbitals


def hartree_fock(
    crystal: Crystal,
    basis: str | dict[str, str],
    exp_to_discard: float | None,
    max_cycles: int,
    progress: bool | None,
) -> Solution:
    """Solves, chooses the occupied levels, and expands them in Gaussians. Arguments and
    errors as documented for `MeanField.solve`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels = _solve(crystal, basis, exp_to_discard, max_cycles, progress)
    counts = crystal.electrons
    if any(_is_degenerate(levels, spin, n) for spin, n in enumerate(counts)):
        _logger.warning(
            "Mean field: the highest occupied and the lowest empty level are "
            "degenerate, so that the occupation of %d spin-up and %d spin-down "
            "orbitals is one of several. Choose another supercell, spin or twist "
            "for a closed shell.",
            *counts,
        )
    sets = [_occupied(levels, spin, n) for spin, n in enumerate(counts)]
    if all(_is_real(crystal, k) for k, _ in sets):
        real = [_realified(levels, orbitals) for orbitals in sets]
        real = [orbitals for orbitals in real if orbitals is not None]
        # Both spins or none: the network is real for all orbitals or complex.
        sets = real if len(real) == len(sets) else sets
    up, down = (Orbitals(k, _expand(crystal, levels.shells, k, mo)) for k, mo in sets)
    return Solution(levels.energy, up, down)


@dataclasses.dataclass
class _Shell:
    """One contracted shell of the basis, spherical harmonics as Cartesian powers."""

    center: np.ndarray  # (3,)
    l: int
    exponents: np.ndarray  # (primitives,)
    # Coefficients of the Cartesian primitives in the basis functions.
    functions: np.ndarray  # (primitives, components, functions)


@dataclasses.dataclass
class _Levels:
    """What PySCF found, spin by spin."""

    energy: float
    kpoints: np.ndarray  # (k, 3)
    overlap: np.ndarray  # (k, functions, functions)
    levels: np.ndarray  # (2, k, orbitals)
    coefficients: np.ndarray  # (2, k, functions, orbitals)
    # Of the potential of the initial guess, which has the symmetry of the crystal.
    guess_levels: np.ndarray  # (2, k, orbitals)
    shells: list[_Shell]


def _right_handed(lattice: Lattice) -> Float[np.ndarray, "3 3"]:
    """A right-handed basis of the same lattice, which PySCF asks for."""
    vectors = lattice.vectors
    return vectors if np.linalg.det(vectors) > 0 else -vectors


def _cell(lattice: Lattice, atoms: list, basis: Any, exp_to_discard: float | None):
    from pyscf.pbc import gto

    cell = gto.Cell()
    cell.a = _right_handed(lattice)
    cell.unit = "B"
    cell.atom = atoms
    cell.basis = basis
    cell.exp_to_discard = exp_to_discard
    # Electrons are counted over all k-points, by the solver; not by the cell.
    cell.spin = None
    cell.verbose = 0
    return cell.build(dump_input=False, parse_arg=False)


def _crystal_cell(
    crystal: Crystal, basis: str | dict[str, str], exp_to_discard: float | None
):
    from pyscf.lib.exceptions import BasisNotFoundError

    elements = sorted(set(crystal.species))
    # Around atoms outside of its cell, PySCF sums too few images.
    positions = Lattice(_right_handed(crystal.lattice)).wrap(crystal.positions)
    atoms = list(zip(crystal.species, positions.tolist(), strict=True))
    try:
        if isinstance(basis, dict) and not set(elements) <= set(basis):
            # PySCF would go on without functions on these atoms.
            raise KeyError
        return _cell(crystal.lattice, atoms, basis, exp_to_discard)
    except (BasisNotFoundError, KeyError) as error:
        raise ValueError(
            f"`basis` must be a Gaussian basis that PySCF knows for {elements}, got "
            f"{basis!r}. Try 'cc-pvdz' or 'sto-3g', or name one for each element in a "
            "dictionary."
        ) from error


def _solver(restricted: bool, electrons: tuple[int, int], madelung: float):
    """The class of PySCF's solver, for electrons and exchange of a general supercell.

    PySCF reads the supercell off the k-points as if it were diagonal. Here the term of
    exchange that makes electrons interact with their own images,
    `madelung S dm S`, is that of the actual supercell, and the number of electrons is
    that of the supercell, whether or not a multiple of the number of cells.
    """
    from pyscf.pbc import scf

    base: Any = scf.khf.KRHF if restricted else scf.kuhf.KUHF
    counts = np.array([sum(electrons)] if restricted else electrons)
    full = 2 if restricted else 1

    class Solver(base):
        guess_levels = None

        def get_init_guess(self, cell=None, key="minao", s1e=None):
            s1e = self.get_ovlp() if s1e is None else s1e
            guess = np.array(base.get_init_guess(self, cell, key, s1e))
            by_spin = guess.reshape(len(counts), *guess.shape[-3:])
            found = np.einsum("skij,kji->s", by_spin, s1e).real
            scale = np.where(found > 0, counts / np.where(found > 0, found, 1), 0)
            return (by_spin * scale[:, None, None, None]).reshape(guess.shape)

        def get_jk(self, cell=None, dm_kpts=None, *args, with_k=True, **kwargs):
            dm = self.make_rdm1() if dm_kpts is None else dm_kpts
            vj, vk = base.get_jk(self, cell, dm, *args, with_k=with_k, **kwargs)
            if with_k:
                overlap = self.get_ovlp()
                vk = vk + madelung * (overlap @ np.asarray(dm) @ overlap)
            return vj, vk

        def get_occ(self, mo_energy_kpts=None, mo_coeff_kpts=None):
            levels = np.asarray(
                self.mo_energy if mo_energy_kpts is None else mo_energy_kpts
            )
            if self.guess_levels is None:
                self.guess_levels = levels
            flat = levels.reshape(len(counts), -1)
            occupied = np.zeros_like(flat)
            for row, order, n in zip(
                occupied, np.argsort(flat, axis=1, kind="stable"), counts, strict=True
            ):
                row[order[: n // full]] = full
            return occupied.reshape(levels.shape)

    return Solver


def _solve(
    crystal: Crystal,
    basis: str | dict[str, str],
    exp_to_discard: float | None,
    max_cycles: int,
    progress: bool | None,
) -> _Levels:
    from pyscf.pbc import df
    from pyscf.pbc.tools.pbc import madelung

    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    cell = _crystal_cell(crystal, basis, exp_to_discard)
    overlap = np.asarray(cell.pbc_intor("int1e_ovlp", hermi=1, kpts=kpoints))
    _check_basis(crystal, basis, exp_to_discard, overlap)
    up, down = crystal.electrons
    probe = _cell(crystal.supercell, [("H", (0.0, 0.0, 0.0))], "sto-3g", None)
    solver = _solver(up == down, (up, down), madelung(probe, np.zeros((1, 3))))
    scf = solver(cell, kpoints, exxdiv=None)
    scf.with_df = df.RSDF(cell, kpoints)
    scf.nelec = (up, down)
    scf.verbose = scf.with_df.verbose = 0
    scf.chkfile = None
    scf.conv_tol = 1e-9
    scf.max_cycle = max_cycles
    _logger.info("Solving the mean field; the integrals can take minutes.")
    bar = progress_bar("Mean field", None, progress)
    bar.set_postfix_str("integrals")

    def cycle(values: dict[str, Any]) -> None:
        bar.set_postfix_str(f"E {values['e_tot']:.6f} Ha", refresh=False)
        bar.update()

    scf.callback = cycle
    try:
        with bar:
            energy = float(scf.kernel())
    except np.linalg.LinAlgError:
        energy = np.nan
    finally:
        scf.with_df._cderi_to_save.close()
    if not scf.converged or not np.isfinite(energy):
        raise RuntimeError(
            f"Hartree-Fock did not converge in {max_cycles} iterations, for `basis` "
            f"{basis!r} with `exp_to_discard` {exp_to_discard}. Raise `exp_to_discard` "
            "(0.1 to 0.3 suits most crystals), take another `basis`, allow more "
            "`max_cycles`, or choose another supercell, spin or twist with a closed "
            "shell."
        )

    def by_spin(found):
        return np.stack([found] * 2) if up == down else np.asarray(found)

    return _Levels(
        energy=energy,
        kpoints=kpoints,
        overlap=overlap,
        levels=by_spin(scf.mo_energy),
        coefficients=by_spin(scf.mo_coeff),
        guess_levels=by_spin(scf.guess_levels),
        shells=_shells(cell),
    )


def _check_basis(
    crystal: Crystal,
    basis: str | dict[str, str],
    exp_to_discard: float | None,
    overlap: Inexact[np.ndarray, "k functions functions"],
) -> None:
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


def _shells(cell: Any) -> list[_Shell]:
    from pyscf.gto import cart2sph

    shells = []
    for index in range(cell.nbas):
        l = cell.bas_angular(index)
        # libcint keeps the angular factors of s and p apart from the others.
        angular = cart2sph(l) if l < 2 else cart2sph(l, normalized="sp")
        contraction = cell._libcint_ctr_coeff(index)
        functions = np.einsum("pf,cm->pcfm", contraction, angular)
        shells.append(
            _Shell(
                center=np.array(cell.bas_coord(index)),
                l=l,
                exponents=np.array(cell.bas_exp(index)),
                functions=functions.reshape(*functions.shape[:2], -1),
            )
        )
    return shells


def _is_degenerate(found: _Levels, spin: int, occupied: int) -> bool:
    """Whether highest occupied and lowest empty level agree.

    In the end, or in the potential of the initial guess: once one of several degenerate
    orbitals is occupied, exchange lowers it.
    """

    def gap(levels):
        flat = np.sort(levels[spin].ravel())
        if not 0 < occupied < len(flat):
            return np.inf
        return flat[occupied] - flat[occupied - 1]

    return bool(min(gap(found.levels), gap(found.guess_levels)) < _DEGENERATE)


def _occupied(found: _Levels, spin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """k-points (orbitals, 3) and coefficients (functions, orbitals), k by k."""
    levels = found.levels[spin]
    order = np.argsort(levels.ravel(), kind="stable")[:count]
    k, band = np.unravel_index(np.sort(order), levels.shape)
    return found.kpoints[k], found.coefficients[spin][k, :, band].T


def _is_real(crystal: Crystal, kpoints: Float[np.ndarray, "orbitals 3"]) -> bool:
    """Whether every k is its own negative modulo reciprocal lattice vectors."""
    doubled = kpoints @ crystal.lattice.vectors.T / np.pi
    return bool(np.all(np.abs(doubled - np.round(doubled)) < 1e-6))


def _realified(
    found: _Levels, orbitals: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Real orbitals that span the same spaces, or `None` where there are none.

    At these k the Bloch sums of the basis functions are real, so the orbitals are real
    where their coefficients are.
    """
    kpoints, complex_mo = orbitals
    real_mo = np.zeros(complex_mo.shape)
    for k, overlap in zip(found.kpoints, found.overlap, strict=True):
        columns = np.flatnonzero(np.all(kpoints == k, axis=1))
        if len(columns) == 0:
            continue
        mo = complex_mo[:, columns]
        # With S = X X^T, columns of X^T C are orthonormal.
        factor = np.linalg.cholesky(overlap.real)
        parts = factor.T @ np.concatenate([np.real(mo), np.imag(mo)], axis=1)
        basis, weight, _ = np.linalg.svd(parts)
        n = len(columns)
        if len(weight) > n and weight[n] > 1e-5:
            return None
        # Of the real bases of the span, the one nearest the orbitals found, so that
        # core and valence stay apart: each orbital made real by its own phase.
        phase = np.exp(-0.5j * np.angle(np.sum((factor.T @ mo) ** 2, axis=0)))
        u, _, v = np.linalg.svd(basis[:, :n].T @ factor.T @ (mo * phase).real)
        real_mo[:, columns] = np.linalg.solve(factor.T, basis[:, :n] @ (u @ v))
    return kpoints, real_mo


def _expand(
    crystal: Crystal,
    shells: list[_Shell],
    kpoints: Float[np.ndarray, "orbitals 3"],
    coefficients: Inexact[np.ndarray, "functions orbitals"],
) -> tuple[Gaussians, ...]:
    """The orbitals as sums over all Gaussians that reach into the cell around the
    origin, -1/2 to 1/2 in fractions."""
    primitives: dict[int, dict[tuple, np.ndarray]] = {}
    start = 0
    for shell in shells:
        stop = start + shell.functions.shape[-1]
        weights = shell.functions @ coefficients[start:stop]
        same_l = primitives.setdefault(shell.l, {})
        for exponent, weight in zip(shell.exponents, weights, strict=True):
            key = (*shell.center.tolist(), float(exponent))
            same_l[key] = same_l.get(key, 0) + weight
        start = stop
    images = functools.partial(_images, crystal.lattice, kpoints)
    return tuple(
        _lattice_sum(l, same_l, images) for l, same_l in sorted(primitives.items())
    )


def _lattice_sum(l: int, primitives: dict[tuple, np.ndarray], images: Any) -> Gaussians:
    exponents, centers, weights = [], [], []
    for (*center, exponent), weight in primitives.items():
        points, phased = images(np.array(center), l, exponent, weight)
        exponents.append(np.full(len(points), exponent))
        centers.append(points)
        weights.append(phased)
    return Gaussians(
        l,
        np.concatenate(exponents),
        np.concatenate(centers),
        np.concatenate(weights, axis=1),
    )


def _images(
    lattice: Lattice,
    kpoints: Float[np.ndarray, "orbitals 3"],
    center: Float[np.ndarray, "3"],
    l: int,
    exponent: float,
    weight: Inexact[np.ndarray, "components orbitals"],
) -> tuple[
    Float[np.ndarray, "images 3"], Inexact[np.ndarray, "components images orbitals"]
]:
    """Centers of the images of one Gaussian that reach into the cell around the origin,
    and their weights with Bloch phases."""
    largest = float(np.max(np.abs(weight), initial=0.0))
    peak = np.sqrt(l / (2 * exponent))

    def reach(distance):
        distance = np.maximum(distance, peak)
        return largest * distance**l * np.exp(-exponent * distance**2)

    radii = np.arange(0.0, peak + np.sqrt(100 / exponent), 0.05)
    radius = float(radii[np.sum(reach(radii) > _NEGLIGIBLE) - 1]) + 0.05
    half_diagonal = 0.5 * float(np.sum(np.linalg.norm(lattice.vectors, axis=1)))
    shifts = lattice.points_within(
        radius + half_diagonal + float(np.linalg.norm(center))
    )
    distance = _distance_from_cell(lattice, center + shifts)
    keep = reach(distance) > _NEGLIGIBLE
    # One image at least, so that amplitudes deep in a vacuum are tiny but not zero.
    keep[np.argmin(distance)] = True
    shifts = shifts[keep]
    phases = np.exp(1j * shifts @ kpoints.T)
    if not np.iscomplexobj(weight):
        phases = np.real(phases)
    return center + shifts, weight[:, None] * phases[None]


def _distance_from_cell(
    lattice: Lattice, points: Float[np.ndarray, "points 3"]
) -> Float[np.ndarray, " points"]:
    """Distances of points from the parallelepiped of fractions -1/2 to 1/2.

    The nearest point is the foot of the perpendicular on the inside, a face, an edge or
    a corner: the nearest one of the 27 feet that exist.
    """
    best = np.full(len(points), np.inf)
    for sides in itertools.product((-0.5, 0.0, 0.5), repeat=3):
        fixed = np.array(sides)
        free = fixed == 0
        offset = points - fixed @ lattice.vectors
        frac = offset @ np.linalg.pinv(lattice.vectors[free])
        inside = np.all(np.abs(frac) <= 0.5 + 1e-9, axis=1)
        foot = frac @ lattice.vectors[free]
        distance = np.linalg.norm(offset - foot, axis=1)
        best = np.where(inside, np.minimum(best, distance), best)
    return best
