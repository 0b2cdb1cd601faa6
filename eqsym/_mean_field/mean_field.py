"""Hartree-Fock mean fields: solved by PySCF, evaluated in JAX, kept in files."""

import dataclasses
import functools
import io
import json
import operator
import os
import pathlib
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._core import (
    AbstractFixed,
    AbstractSummarized,
    checked,
    Electrons,
    full_precision,
    Integer,
    Numbers,
    on_first,
    precise_matmul,
    whole_number,
)
from .._crystal import Crystal, EffectiveCorePotential, with_changes
from .pairs import check_real, conjugates
from .settings import NAMES, Settings
from .solver import check_closed_shell, hartree_fock


_FORMAT = "eqsym mean field, version 5"


class Occupation(AbstractFixed, AbstractSummarized):
    """The k-points of the occupied orbitals, from which a network makes Bloch orbitals.

    Decided once, by the mean field, and stored with the wave functions built on it: if
    levels are nearly degenerate a second calculation may decide otherwise.
    """

    _kpoints: tuple[tuple[tuple[float, ...], ...], ...] = eqx.field(static=True)

    @checked
    def __init__(self, cart_kpoints: tuple[Numbers, Numbers]):
        """**Arguments:**

        - `cart_kpoints`: for spin up and spin down, (orbitals, 3) k-points in inverse
            Bohr.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        up, down = (
            np.asarray(k, dtype=np.float64).reshape(-1, 3) for k in cart_kpoints
        )
        self._kpoints = tuple(tuple(map(tuple, k.tolist())) for k in (up, down))

    def _summary(self) -> str:
        up, down = self._kpoints
        points = len({tuple(np.round(k, 6).tolist()) for k in (*up, *down)})
        several = "s" if points > 1 else ""
        return f"{len(up)} up and {len(down)} down at {points} k-point{several}"

    @property
    def cart_kpoints(
        self,
    ) -> tuple[Float[np.ndarray, "up 3"], Float[np.ndarray, "down 3"]]:
        """Cartesian k-points in inverse Bohr, for spin up and for spin down."""
        up, down = (np.array(k, dtype=np.float64).reshape(-1, 3) for k in self._kpoints)
        return up, down


class _GaussianSum(AbstractFixed):
    r"""Orbitals as sums of Cartesian Gaussians of one angular momentum,
    $\phi_o(r) = \sum_{ct} w_{cto} d^{p_c} e^{-\alpha_t d^2}$ with $d = r - R_t$ and the
    powers $p_c = (l,0,0), (l-1,1,0), \ldots, (0,0,l)$.

    Contraction, normalization, lattice sum, Bloch phases and orbital coefficients are
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
        # Not one (points, terms, 3) array: its last axis is too short to vectorize.
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
        if not jnp.issubdtype(weights.dtype, jnp.complexfloating):
            return precise_matmul(features, weights.astype(dtype))
        parts = jnp.concatenate([weights.real, weights.imag], axis=-1)
        real, imag = jnp.split(
            precise_matmul(features, parts.astype(dtype)), 2, axis=-1
        )
        return jax.lax.complex(real, imag)


def _powers(l: int) -> list[tuple[int, int, int]]:
    """Cartesian powers of angular momentum l in PySCF's order, xx, xy, xz, yy, .."""
    return [(x, y, l - x - y) for x in range(l, -1, -1) for y in range(l - x, -1, -1)]


class _OtherFormat(Exception):
    pass


@checked
class MeanField(AbstractFixed, AbstractSummarized):
    r"""A Hartree-Fock determinant of a crystal, to start from and to compare with: the
    occupied crystal orbitals

    $$\phi_{nk}(r) = \sum_L e^{i k \cdot L} \chi_n(r - L)$$

    in Gaussians, at all k that fold to the twist of the crystal. Made by
    [`eqsym.MeanField.solve`][] or [`eqsym.MeanField.load`][].

    `energy` is the Hartree-Fock energy in Hartree per primitive cell, in the Ewald
    convention for the supercell (every electron interacts with its own images): the
    expectation value of the supercell's Hamiltonian divided by the number of cells.

    `gap` is the difference in Hartree between the lowest empty and the highest occupied
    level of one spin, the smaller one of the two spins: 0 for an open shell. The
    convention is the same: that electrons interact with their own images lowers
    occupied levels, so that closed shells of metals have a gap too, which falls as the
    supercell grows.
    """

    crystal: Crystal
    occupation: Occupation
    energy: float
    gap: float
    expansion: tuple[tuple[_GaussianSum, ...], tuple[_GaussianSum, ...]]
    _settings: Settings

    def _summary(self) -> str:
        return f"{self.energy:.6f} Ha per cell, {self.crystal!r}"

    @classmethod
    @checked
    def solve(
        cls,
        crystal: Crystal,
        *,
        basis: str | dict[str, str] | None = None,
        exp_to_discard: float | None = 0.1,
        unrestricted: bool = False,
        moments: Sequence[float | int] | None = None,
        smearing: float | None = None,
        closed_shell: bool = False,
        max_cycles: Integer = 100,
        path: str | os.PathLike | None = None,
        progress: bool | None = None,
    ) -> "MeanField":
        """Solves the Hartree-Fock equations with PySCF: for all electrons, or all
        valence electrons if the crystal has pseudopotentials, with Coulomb integrals by
        range-separated density fitting (Ye and Berkelbach, J. Chem. Phys. 154, 131104,
        2021).

        Orbitals have the periodicity of the primitive cell. The logger `eqsym` warns of
        two things:

        - An open shell, in which one of several occupations had to be chosen. Its
          energy depends on the choice, and on how the crystal is divided into cells.
          The warning names a twist with a closed shell.
        - Another determinant of lower energy nearby, by the curvature of the energy
          along all rotations of the orbitals (Seeger and Pople, J. Chem. Phys. 66,
          3045, 1977): one with different orbitals for the two spins, or one in which
          charges or spins order, perhaps with a longer period than the primitive cell.

        **Arguments:**

        - `crystal`: the crystal, with its supercell, electrons and twist.
        - `basis`: a Gaussian basis that PySCF knows, or one for each element symbol. By
            default `cc-pvdz`, for an element with a pseudopotential the one made for
            it, such as `ccecp-cc-pvdz`.
        - `exp_to_discard`: primitive Gaussians with a smaller exponent (in inverse
            square Bohr) are left out. They are made for free atoms; in a crystal they
            overlap until they are linearly dependent. `None` keeps all.
        - `unrestricted`: whether spin-up and spin-down electrons may occupy different
            orbitals, as in magnets, and wherever bonds are stretched. They do anyway if
            there are more of one than of the other. The solution follows rotations
            that lower its energy: spins find an order even without `moments`, but
            then rounding chooses among several of the same energy. A warning says if
            the rotations could not be followed down.
        - `moments`: spin moments to start from, one for each atom of the primitive
            cell: spin-up minus spin-down electrons. An antiferromagnetic order needs a
            primitive cell that holds it: for a chain of atoms the cell with two, and
            `(1, -1)`. The solution may have another order.
        - `smearing`: a width in Hartree, 0.01 say, over which the occupation of levels
            falls from 1 to 0 during the iteration (Fermi and Dirac's function). It lets
            metals converge, in which levels cross. In the end the lowest levels are
            occupied by whole electrons; the energy is of that determinant, which is
            slightly above the lowest one. Other determinants of lower energy are not
            looked for.
        - `closed_shell`: whether to refuse open shells.
        - `max_cycles`: the most self-consistency iterations.
        - `path`: a file to keep the result in; its folder is made. A file that exists
            is read instead of solving again, if crystal and settings are the same.
        - `progress`: whether to show a progress bar; by default in terminals and
            notebooks.

        **Returns:**

        The mean field. Its orbitals are real if the twist is its own negative modulo
        reciprocal vectors of the supercell, and the occupied k-points of each spin are
        their own negatives or come in pairs k and -k.

        **Raises:** `ValueError` for a basis that is unknown, made for another number of
        core electrons, too small, or linearly dependent in this crystal; for moments
        that the atoms or the spin of the crystal do not admit; for an open shell if a
        closed one is asked for; and for a file that holds the mean field of another
        crystal, or one solved with other settings. `RuntimeError` if the iteration does
        not converge.

        Of several processes, the first one solves and the others get its result.
        """
        settings = Settings(
            crystal, basis, exp_to_discard, unrestricted, moments, smearing
        )
        max_cycles = whole_number("max_cycles", max_cycles, 1)
        kept = None if path is None else pathlib.Path(path)
        arguments = crystal, settings, closed_shell, max_cycles, kept, progress
        if jax.process_count() == 1:
            return cls._solved(*arguments)
        stored = on_first(lambda: cls._solved(*arguments)._packed())
        return cls._unpacked(io.BytesIO(stored))

    @classmethod
    def _solved(
        cls,
        crystal: Crystal,
        settings: Settings,
        closed_shell: bool,
        max_cycles: int,
        path: pathlib.Path | None,
        progress: bool | None,
    ) -> "MeanField":
        if path is not None and path.exists():
            stored = cls.load(path)
            different = stored.crystal.difference(crystal)
            if different is not None:
                raise ValueError(
                    f"`path` {str(path)!r} holds the mean field of another "
                    f"crystal: between that and `crystal` {different}. Name another "
                    "file."
                )
            differences = list(stored._settings.differences(settings))
            if differences:
                raise ValueError(
                    f"`path` {str(path)!r} holds a mean field that was solved "
                    f"with {'; '.join(differences)}. Name another file, or ask for "
                    "the stored settings."
                )
            if closed_shell:
                check_closed_shell(crystal, settings, stored.gap)
            # Energies do not depend on the vacuum that was named, groups do.
            same = with_changes(stored.crystal, vacuum=crystal.vacuum)
            return dataclasses.replace(stored, crystal=same)
        if path is not None:
            # Before the minutes of work rather than after them.
            path.parent.mkdir(parents=True, exist_ok=True)
        solution = hartree_fock(crystal, settings, closed_shell, max_cycles, progress)
        up, down = (
            tuple(_GaussianSum(**vars(gaussians)) for gaussians in orbitals.gaussians)
            for orbitals in (solution.up, solution.down)
        )
        occupation = Occupation((solution.up.kpoints, solution.down.kpoints))
        solved = cls(
            crystal, occupation, solution.energy, solution.gap, (up, down), settings
        )
        if path is not None:
            solved.save(path)
        return solved

    @property
    def real(self) -> bool:
        """Whether it has real orbitals."""
        return not any(
            np.iscomplexobj(g.weights) for sums in self.expansion for g in sums
        )

    @full_precision()
    @checked
    def orbitals(
        self, electrons: Electrons, *, real: bool | None = None
    ) -> tuple[Inexact[Array, "up up"], Inexact[Array, "down down"]]:
        r"""The matrices whose determinants are the Hartree-Fock wave function.

        **Arguments:**

        - `electrons`: positions in Bohr, (electrons, 3), spin-up first.
        - `real`: whether the orbitals are real. Of two real orbitals at k and -k the
            earlier one is $\sqrt 2\, \mathrm{Re}\, \phi$ and the later one
            $\sqrt 2\, \mathrm{Im}\, \phi$ for the Bloch orbital $\phi$ at the k of
            the earlier one. If `False` they are Bloch orbitals. By default real if the
            mean field has real orbitals.

        **Returns:**

        `(up, down)`: rows are the electrons of that spin, columns the occupied
        orbitals in the order of `occupation`. Normalized to one electron in a primitive
        cell.

        **Raises:** `ValueError` if they are to be real and the mean field has no real
        orbitals.
        """
        if real:
            check_real_orbitals(self)
        n_up = self.occupation.cart_kpoints[0].shape[0]
        channels = (electrons[:n_up], electrons[n_up:])
        real = self.real if real is None else real
        up, down = (
            self._channel(points, spin, real) for spin, points in enumerate(channels)
        )
        return up, down

    def _channel(
        self, points: Float[Array, "points 3"], spin: int, real: bool
    ) -> Inexact[Array, "points orbitals"]:
        dtype = points.dtype
        lattice = jnp.asarray(self.crystal.lattice.vectors)
        # In cells; by the lattice as given, before any rounding to a smaller dtype.
        inverse = jnp.linalg.inv(lattice).astype(dtype)
        kpoints = self.occupation.cart_kpoints[spin]
        frac_k = (jnp.asarray(kpoints) @ lattice.T / (2 * np.pi)).astype(dtype)
        cell = jnp.round(jax.lax.stop_gradient(points) @ inverse)
        home = points - cell @ lattice.astype(dtype)
        values = [gaussians(home) for gaussians in self.expansion[spin]]
        values = functools.reduce(operator.add, values)
        turns = cell @ frac_k.T
        angle = 2 * np.pi * (turns - jnp.round(turns))
        if not self.real:
            return values * jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
        partner = conjugates(self.crystal, kpoints)
        assert partner is not None
        here = np.arange(len(partner))
        paired = partner != here
        if np.any(paired):
            # Re and Im of one orbital times a phase; its angle at -k is the negative.
            turned = values * jnp.cos(angle) - values[:, partner] * jnp.sin(angle)
            values = jnp.where(paired[None], turned, values * jnp.cos(angle))
        else:
            values = values * jnp.cos(angle)
        if real:
            return values
        scale = np.where(paired, np.sqrt(0.5), 1.0)
        sign = np.where(paired, np.where(here < partner, 1.0, -1.0), 0.0)
        one = values[:, np.minimum(here, partner)] * jnp.asarray(scale[None], dtype)
        two = values[:, np.maximum(here, partner)] * jnp.asarray(
            (scale * sign)[None], dtype
        )
        return jax.lax.complex(one, two)

    @checked
    def save(self, path: str | os.PathLike) -> None:
        """Writes the mean field, with its crystal, to one file that is complete or not
        there.

        **Arguments:**

        - `path`: of the file; conventionally ending in `.npz`.

        **Raises:** `ValueError` for arguments of the wrong kind.
        """
        path = pathlib.Path(path)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            unfinished.write_bytes(self._packed())
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _packed(self) -> bytes:
        crystal = self.crystal
        arrays = {
            "lattice": crystal.lattice.vectors,
            "positions": crystal.cart_positions,
            "matrix": crystal.matrix,
            "twist": crystal.twist,
            "energy": np.float64(self.energy),
            "gap": np.float64(self.gap),
        }
        for spin, sums in enumerate(self.expansion):
            arrays[f"kpoints_{spin}"] = self.occupation.cart_kpoints[spin]
            for g in sums:
                for name in ("exponents", "centers", "weights"):
                    arrays[f"{name}_{spin}_{g.l}"] = getattr(g, name)
        header = {
            "format": _FORMAT,
            "species": crystal.species,
            "electrons": crystal.electrons,
            "vacuum": crystal.vacuum,
            "potentials": [
                dataclasses.asdict(one) for one in crystal.pseudopotential.values()
            ],
            **{name: getattr(self._settings, name) for name in NAMES},
            "momenta": [[g.l for g in sums] for sums in self.expansion],
        }
        file = io.BytesIO()
        np.savez(file, header=np.array(json.dumps(header)), **arrays)
        return file.getvalue()

    @classmethod
    @checked
    def load(cls, path: str | os.PathLike) -> "MeanField":
        """Reads a file of [`eqsym.MeanField.save`][], without solving anything.

        **Arguments:**

        - `path`: of the file.

        **Raises:** `ValueError` that names the file, if it is damaged or was not
        written by `save`; `FileNotFoundError`.
        """
        with open(path, "rb") as file:
            try:
                return cls._unpacked(file)
            except _OtherFormat as error:
                raise ValueError(
                    f"`path`: {os.fspath(path)!r} is of another version of eqsym: its "
                    f"format is {str(error)!r}, expected {_FORMAT!r}. Solve again with "
                    "`MeanField.solve` and another `path`."
                ) from error
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
    def _unpacked(cls, file: BinaryIO) -> "MeanField":
        with np.load(file, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
        header = json.loads(str(stored["header"]))
        if header["format"] != _FORMAT:
            raise _OtherFormat(header["format"])
        n_up, n_down = header["electrons"]
        given: dict[str, EffectiveCorePotential | None]
        given = dict.fromkeys(header["species"])
        for one in header["potentials"]:
            one["terms"] = tuple(map(tuple, one["terms"]))
            given[one["element"]] = EffectiveCorePotential(**one)
        build = functools.partial(
            Crystal,
            stored["lattice"],
            header["species"],
            cart_positions=stored["positions"],
            unit="bohr",
            supercell=stored["matrix"],
            twist=stored["twist"],
            vacuum=header["vacuum"],
            pseudopotential=given,
        )
        charge = sum(build().electrons) - n_up - n_down
        crystal = build(charge=charge, spin=n_up - n_down)
        up, down = (
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
        settings = Settings(crystal, *(header[name] for name in NAMES))
        energy, gap = float(stored["energy"]), float(stored["gap"])
        return cls(crystal, occupation, energy, gap, (up, down), settings)


def check_real_orbitals(mean_field: MeanField) -> None:
    """**Raises:** `ValueError` that says what to do, if there are no real orbitals."""
    if not mean_field.real:
        check_real(mean_field.crystal, mean_field.occupation.cart_kpoints)
        raise ValueError(
            "`real` must be False or None: the orbitals of this mean field at k and -k "
            "are not conjugates of each other, or not real at a k that is its own "
            "negative. Solve with `unrestricted=False` or other `moments`."
        )
