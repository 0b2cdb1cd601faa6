"""Hartree-Fock mean fields: solved with PySCF, then evaluated without it."""

import dataclasses
import functools
import itertools
import json
import logging
import operator
import os
import pathlib
import warnings
import zipfile
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from ._crystal import Crystal, Lattice
from ._types import AbstractFixed, Electrons


_logger = logging.getLogger("eqsym")

# Smallest eigenvalue of the overlap matrix of the basis at any k. Below it integrals,
# good to 1e-8 or so, no longer determine the energy, and the iteration diverges.
_SMALLEST_OVERLAP = 1e-6
# Two levels closer than this (Hartree) count as degenerate.
_DEGENERATE = 1e-5
# Gaussians that add less than this to an orbital anywhere in the cell are left out.
_NEGLIGIBLE = 1e-10
_FORMAT = "eqsym mean field, version 1"


class Occupation(AbstractFixed):
    """The k-points of the occupied orbitals.

    Decided once, by the mean field, and stored with the wave functions built on it:
    where levels are nearly degenerate a second calculation may decide otherwise.
    """

    kpoints: tuple[Float[np.ndarray, "up 3"], Float[np.ndarray, "down 3"]]

    def __init__(self, kpoints: tuple[Any, Any]):
        """**Arguments:**

        - `kpoints`: for spin up and spin down, (orbitals, 3) Cartesian k-points in
            inverse Bohr.
        """
        up, down = (np.asarray(k, dtype=np.float64).reshape(-1, 3) for k in kpoints)
        self.kpoints = (up, down)


class _GaussianSum(AbstractFixed):
    r"""Orbitals as sums of Cartesian Gaussians of one angular momentum,
    $\phi_o(r) = \sum_{ct} w_{cto} d^{p_c} e^{-\alpha_t d^2}$ with $d = r - R_t$ and the
    powers $p_c = (l,0,0), (l-1,1,0), \ldots, (0,0,l)$.

    Contraction, normalisation, lattice sum, Bloch phases and orbital coefficients are
    all in the weights.
    """

    l: int = eqx.field(static=True)
    exponents: Float[np.ndarray, " terms"]
    centers: Float[np.ndarray, "terms 3"]
    weights: Inexact[np.ndarray, "components terms orbitals"]

    def __call__(self, points: Float[Array, "points 3"]) -> Inexact[Array, "points _"]:
        dtype = points.dtype
        centers = jnp.asarray(self.centers).astype(dtype)
        exponents = jnp.asarray(self.exponents).astype(dtype)
        # Not one (points, terms, 3) array: its last axis is too short to vectorise.
        d = [points[:, i, None] - centers[None, :, i] for i in range(3)]
        gauss = jnp.exp(-exponents[None] * (d[0] * d[0] + d[1] * d[1] + d[2] * d[2]))
        features = jnp.stack(
            [
                functools.reduce(
                    operator.mul,
                    [x for x, n in zip(d, p, strict=True) for _ in range(n)],
                    gauss,
                )
                for p in _powers(self.l)
            ],
            axis=1,
        )
        weights = jnp.asarray(self.weights)
        rows = weights.shape[0] * weights.shape[1]
        weights = weights.reshape(rows, weights.shape[2])
        features = features.reshape(points.shape[0], rows)
        # A complex product would double the work, because the features are real.
        # "highest", because accelerators round float32 products to 10 bits otherwise.
        product = functools.partial(jnp.matmul, precision="highest")
        if not jnp.issubdtype(weights.dtype, jnp.complexfloating):
            return product(features, weights.astype(dtype))
        parts = jnp.concatenate([weights.real, weights.imag], axis=-1)
        real, imag = jnp.split(product(features, parts.astype(dtype)), 2, axis=-1)
        return jax.lax.complex(real, imag)


class MeanField(AbstractFixed):
    r"""A Hartree-Fock determinant of a crystal: the occupied crystal orbitals

    $$\phi_{nk}(r) = \sum_L e^{i k \cdot L} \chi_n(r - L)$$

    in Gaussians, at all k that fold to the twist of the crystal. Made by
    [`eqsym.MeanField.solve`][] or [`eqsym.MeanField.load`][].

    `energy` is the Hartree-Fock energy in Hartree per primitive cell, in the Ewald
    convention for the supercell (every electron interacts with its own images): the
    expectation value of the supercell's Hamiltonian divided by the number of cells.
    """

    crystal: Crystal
    occupation: Occupation
    energy: float
    expansion: tuple[tuple[_GaussianSum, ...], tuple[_GaussianSum, ...]]

    @classmethod
    def solve(
        cls,
        crystal: Crystal,
        *,
        basis: str | dict[str, str] = "cc-pvdz",
        exp_to_discard: float | None = 0.1,
        max_cycles: int = 100,
    ) -> "MeanField":
        """Solves the Hartree-Fock equations with PySCF: restricted for as many spin-up
        as spin-down electrons, unrestricted otherwise; all electrons; Coulomb integrals
        by range-separated density fitting (Ye and Berkelbach, J. Chem. Phys. 154,
        131104, 2021).

        **Arguments:**

        - `crystal`: the crystal, with its supercell, electrons and twist.
        - `basis`: a Gaussian basis that PySCF knows, or one for each element symbol.
        - `exp_to_discard`: primitive Gaussians with a smaller exponent (in inverse
            square Bohr) are left out. They are made for free atoms; in a crystal they
            overlap until they are linearly dependent. `None` keeps all.
        - `max_cycles`: bound on the self-consistency iterations.

        **Returns:**

        The mean field. Its orbitals are real where every occupied k is its own
        negative modulo reciprocal lattice vectors.

        **Raises:** `ValueError` for a basis that is unknown, too small, or linearly
        dependent in this crystal; `RuntimeError` where the iteration does not converge.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            levels = _solve(crystal, basis, exp_to_discard, max_cycles)
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
            realified = [_realified(levels, orbitals) for orbitals in sets]
            if all(orbitals is not None for orbitals in realified):
                sets = realified
        up, down = (_expand(crystal, levels.shells, k, mo) for k, mo in sets)
        return cls(
            crystal, Occupation((sets[0][0], sets[1][0])), levels.energy, (up, down)
        )

    def orbitals(
        self, electrons: Electrons
    ) -> tuple[Inexact[Array, "up up"], Inexact[Array, "down down"]]:
        """The matrices whose determinants make up the Hartree-Fock wave function.

        **Arguments:**

        - `electrons`: positions in Bohr, (electrons, 3), spin-up first.

        **Returns:**

        `(up, down)`: rows are the electrons of that spin, columns the occupied
        orbitals in the order of `occupation`. Normalised to one electron in a primitive
        cell. Complex, or real where the orbitals are.
        """
        n_up = self.occupation.kpoints[0].shape[0]
        channels = (electrons[:n_up], electrons[n_up:])
        up, down = (self._channel(points, spin) for spin, points in enumerate(channels))
        return up, down

    def _channel(
        self, points: Float[Array, "points 3"], spin: int
    ) -> Inexact[Array, "points orbitals"]:
        dtype = points.dtype
        lattice = jnp.asarray(self.crystal.lattice.vectors)
        # In cells; by the lattice as given, before any rounding to a smaller dtype.
        inverse = jnp.linalg.inv(lattice).astype(dtype)
        kpoints = jnp.asarray(self.occupation.kpoints[spin])
        frac_k = (kpoints @ lattice.T / (2 * np.pi)).astype(dtype)
        cell = jnp.round(jax.lax.stop_gradient(points) @ inverse)
        home = points - cell @ lattice.astype(dtype)
        values = [gaussians(home) for gaussians in self.expansion[spin]]
        values = functools.reduce(operator.add, values)
        turns = cell @ frac_k.T
        angle = 2 * np.pi * (turns - jnp.round(turns))
        if jnp.issubdtype(values.dtype, jnp.complexfloating):
            return values * jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
        return values * jnp.cos(angle)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the mean field, with its crystal, to one file that is complete or not
        there.

        **Arguments:**

        - `path`: of the file; conventionally ending in `.npz`.
        """
        crystal = self.crystal
        arrays = {
            "lattice": crystal.lattice.vectors,
            "positions": crystal.positions,
            "matrix": crystal.matrix,
            "twist": crystal.twist,
            "energy": np.float64(self.energy),
        }
        for spin, sums in enumerate(self.expansion):
            arrays[f"kpoints_{spin}"] = self.occupation.kpoints[spin]
            for g in sums:
                for name in ("exponents", "centers", "weights"):
                    arrays[f"{name}_{spin}_{g.l}"] = getattr(g, name)
        header = {
            "format": _FORMAT,
            "species": crystal.species,
            "electrons": crystal.electrons,
            "momenta": [[g.l for g in sums] for sums in self.expansion],
        }
        path = pathlib.Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(unfinished, "wb") as file:
                np.savez(file, header=np.array(json.dumps(header)), **arrays)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "MeanField":
        """Reads what `save` wrote; needs no PySCF.

        **Arguments:**

        - `path`: of the file.

        **Raises:** `ValueError` that names the file where it is damaged or was not
        written by `save`; `FileNotFoundError`.
        """
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    stored = {name: archive[name] for name in archive.files}
                header = json.loads(str(stored["header"]))
                if header["format"] != _FORMAT:
                    raise ValueError(f"its format is {header['format']!r}")
                return cls._from_arrays(header, stored)
            except (
                zipfile.BadZipFile,
                zlib.error,
                AttributeError,
                EOFError,
                KeyError,
                TypeError,
                ValueError,
            ) as error:
                raise ValueError(
                    f"`path`: {os.fspath(path)!r} is not a complete mean-field file "
                    f"({error}). Write it again with `MeanField.save`."
                ) from error

    @classmethod
    def _from_arrays(
        cls, header: dict[str, Any], stored: dict[str, np.ndarray]
    ) -> "MeanField":
        up, down = header["electrons"]
        build = functools.partial(
            Crystal,
            stored["lattice"],
            header["species"],
            positions=stored["positions"],
            unit="bohr",
            supercell=stored["matrix"],
            twist=stored["twist"],
        )
        charge = sum(build().electrons) - up - down
        crystal = build(charge=charge, spin=up - down)
        expansion = tuple(
            tuple(
                _GaussianSum(
                    l,
                    *(
                        stored[f"{name}_{spin}_{l}"]
                        for name in ("exponents", "centers", "weights")
                    ),
                )
                for l in momenta
            )
            for spin, momenta in enumerate(header["momenta"])
        )
        occupation = Occupation((stored["kpoints_0"], stored["kpoints_1"]))
        return cls(crystal, occupation, float(stored["energy"]), expansion)


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

    base = scf.khf.KRHF if restricted else scf.kuhf.KUHF
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
    try:
        energy = float(scf.kernel())
    except np.linalg.LinAlgError:
        energy = np.nan
    finally:
        scf.with_df._cderi_to_save.close()
    if not scf.converged or not np.isfinite(energy):
        raise RuntimeError(
            f"Hartree-Fock did not converge in {max_cycles} iterations, for `basis` "
            f"{basis!r} with `exp_to_discard` {exp_to_discard}. Raise `exp_to_discard` "
            "(0.1 to 0.3 suits most crystals), take another `basis`, or allow more "
            "`max_cycles`."
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
        parts = factor.T @ np.concatenate([mo.real, mo.imag], axis=1)
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


def _powers(l: int) -> list[tuple[int, int, int]]:
    """Cartesian powers of angular momentum l in PySCF's order, xx, xy, xz, yy, .."""
    return [(x, y, l - x - y) for x in range(l, -1, -1) for y in range(l - x, -1, -1)]


def _expand(
    crystal: Crystal,
    shells: list[_Shell],
    kpoints: Float[np.ndarray, "orbitals 3"],
    coefficients: Inexact[np.ndarray, "functions orbitals"],
) -> tuple[_GaussianSum, ...]:
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
        _gaussian_sum(l, same_l, images) for l, same_l in sorted(primitives.items())
    )


def _gaussian_sum(l: int, primitives: dict[tuple, np.ndarray], images: Any):
    exponents, centers, weights = [], [], []
    for (*center, exponent), weight in primitives.items():
        points, phased = images(np.array(center), l, exponent, weight)
        exponents.append(np.full(len(points), exponent))
        centers.append(points)
        weights.append(phased)
    return _GaussianSum(
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
        phases = phases.real
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
