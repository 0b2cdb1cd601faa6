"""A wave function taken apart by the irreducible representations of a group."""

import os
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Inexact

from .._core import Integer
from .._group import character_table, SpaceGroup
from .._hamiltonian import AbstractHamiltonian
from .._symmetrizer import check_projection
from .._wavefunction import AbstractWavefunction
from .arguments import check_kinds
from .chain_mixing import Mixing
from .chains import Chains
from .energies import sampled
from .estimate import Estimate, is_present, jackknife
from .orbit import AbstractOrbitEstimate, OrbitSample, OrbitSampler
from .tables import AbstractLabeled, AbstractResult, Column, Table, with_unit


# Sectors on one line.
_SHOWN = 3


class Sector(AbstractLabeled):
    """The part of a wave function that belongs to one irreducible representation;
    [`eqsym.Sectors`][] describes the fields."""

    label: str
    dimension: int
    weight: Estimate
    energy: Estimate | None
    difference: Estimate | None

    def _summary(self) -> str:
        return (
            f"{self.label}, dimension={self.dimension}, weight={self.weight}, "
            f"energy={with_unit(self.energy)}, minus plain={with_unit(self.difference)}"
        )


class Sectors(AbstractResult):
    r"""A wave function f taken apart by the irreps of a group; see
    [`eqsym.sectors`][]. It prints as a table, and `found["A1"]` is the sector with
    this label.

    - `sectors`: one for each irrep, in the order of [`eqsym.irreps`][].
    - `energy`: of the whole wave function, in Hartree per primitive cell.
    - `samples`: number of configurations.
    - `invalid_samples`: configurations left out because an energy was not finite, see
        [`eqsym.Evaluation`][].
    - `mixing`: whether the chains have mixed, as in [`eqsym.Evaluation`][].

    A sector, the part $P_\rho f$, has the fields

    - `label`, `dimension`: of the irrep.
    - `weight`: its share $|P_\rho f|^2 / |f|^2$; the shares add up to 1.
    - `energy`: in Hartree per primitive cell; `None` if the weight is not positive by
        three standard errors.
    - `difference`: this energy minus the energy of f, with the error of the paired
        difference; `None` likewise.
    """

    sectors: tuple[Sector, ...]
    energy: Estimate
    samples: int
    invalid_samples: int
    mixing: Mixing

    def __getitem__(self, label: str) -> Sector:
        for sector in self.sectors:
            if sector.label == label:
                return sector
        names = ", ".join(sector.label for sector in self.sectors)
        raise KeyError(f"{label!r} is none of the sectors {names}.")

    def _table(self) -> Table:
        parts, count = self.sectors, 1 + len(self.sectors)
        energies = [self.energy, *(part.energy for part in parts)]
        differences = ["", *(part.difference for part in parts)]
        rhat, mixed = self.mixing.energy_rhat, self.mixing.mixed
        found = (
            Column("dimension", "d", ["", *(part.dimension for part in parts)]),
            Column("weight", "weight", [1.0, *(part.weight for part in parts)], True),
            Column("energy", "energy [Ha]", energies, True),
            Column("difference", "minus plain [Ha]", differences, True),
            Column(None, "R-hat", [self.mixing, *[""] * len(parts)]),
            Column("rhat", None, [rhat] * count),
            Column("mixed", None, [mixed] * count),
            Column("samples", None, [self.samples] * count),
            Column("invalid_samples", None, [self.invalid_samples] * count),
        )
        return Table(("plain", *(part.label for part in parts)), found)

    def _summary(self) -> str:
        heavy = sorted(self.sectors, key=lambda part: -part.weight.mean)[:_SHOWN]
        weights = ", ".join(f"{part.label} {part.weight}" for part in heavy)
        return (
            f"plain={self.energy} Ha, {len(self.sectors)} sectors, largest weights "
            f"{weights}"
        )


class _SectorMoments(NamedTuple):
    """Energies in excess of the reference, of f and of its projections, and the shares
    of these, (irreps,)."""

    energy: Any
    projected: Any
    shares: Any


class _SectorNumbers(NamedTuple):
    """The numbers of a sector."""

    weight: Any
    energy: Any
    difference: Any


class _SectorsNumbers(NamedTuple):
    """The energy of the whole wave function, and its sectors."""

    energy: Any
    sectors: tuple[_SectorNumbers, ...]


class _SectorSample(AbstractOrbitEstimate):
    orbit: OrbitSampler

    @property
    def names(self) -> tuple[str, ...]:
        return "energy", "symmetry"

    def moments(self, orbit: OrbitSample) -> _SectorMoments:
        above = orbit.above.total
        return _SectorMoments(
            orbit.plain @ above, orbit.projected @ above, orbit.shares
        )

    def compared(
        self, moments: _SectorMoments
    ) -> list[Inexact[np.ndarray, " walkers"]]:
        return [moments.energy, np.sum(np.real(moments.shares) ** 2, axis=1)]


def sectors(
    wavefunction: AbstractWavefunction,
    hamiltonian: AbstractHamiltonian,
    group: SpaceGroup,
    chains: Chains,
    *,
    orbit_points: Integer | None = None,
    local_energies: Integer = 2,
    path: str | os.PathLike | None = None,
) -> Sectors:
    r"""Says which symmetry a wave function has: weights and energies of its parts in
    all irreducible representations of a group, in one pass over walkers of the wave
    function itself.

    As in [`eqsym.post_hoc`][], which is about the trivial representation: with the
    projection $f_\rho = P_\rho f$, $p = |G|^{-1} \sum_g |f(g^{-1}x)|^2$ and images y
    of the walkers,

    $$\frac{|f_\rho|^2}{|f|^2} = E[|f_\rho(y)|^2 / p], \quad
    E_\rho = \frac{E[\overline{f_\rho(y)} (H f)(y) / p]}{E[|f_\rho(y)|^2 / p]} .$$

    The |G| amplitudes of an orbit give all projections at all of its points. The energy
    of a sector is an upper bound on the lowest level of that symmetry. See
    [Symmetry sectors](../sectors.md).

    **Arguments:** as for [`eqsym.post_hoc`][]. All points of the orbit by default: with
    a part of them, small weights are noisy and can come out negative.

    **Returns:**

    A weight for each irrep, and an energy if the weight is not zero,
    [`eqsym.Sectors`][].

    **Raises:** as [`eqsym.evaluate`][] does, and `ValueError` for fewer than two
    orbit points or one local energy, and if the operations do not act on f as a group,
    see [`eqsym.Symmetrized`][].
    """
    check_kinds(
        wavefunction=wavefunction,
        hamiltonian=hamiltonian,
        group=group,
        chains=chains,
        path=path,
    )
    group.check_crystal(wavefunction.crystal)
    table = character_table(group)
    # Something is left of f in one irrep or another: the regular representation.
    regular = np.sum([i.dimension * i.characters for i in table.irreps], axis=0).real
    check_projection(wavefunction, group, regular)
    sample = _SectorSample(
        OrbitSampler(
            wavefunction,
            hamiltonian,
            group,
            np.array([i.dimension * i.characters for i in table.irreps]),
            orbit_points=orbit_points,
            local_energies=local_energies,
        )
    )
    samples = sampled("sectors", sample, wavefunction, hamiltonian, chains, path)
    reference, cells = samples.reference, wavefunction.crystal.cells
    zero = float(reference.kinetic + reference.potential) / cells

    def results(means: _SectorMoments) -> _SectorsNumbers:
        plain = np.real(means.energy) / cells
        shares, numerators = np.real(means.shares), np.real(means.projected)
        with np.errstate(divide="ignore", invalid="ignore"):
            energies = numerators / shares / cells
        parts = [
            _SectorNumbers(share, energy + zero, energy - plain)
            for share, energy in zip(shares.T, energies.T, strict=True)
        ]
        return _SectorsNumbers(plain + zero, tuple(parts))

    found: _SectorsNumbers = jackknife(samples.means, results, samples.origin)
    parts = []
    for irrep, part in zip(table.irreps, found.sectors, strict=True):
        if not is_present(part.weight):
            part = _SectorNumbers(part.weight, None, None)
        parts.append(Sector(irrep.label, irrep.dimension, *part))
    return Sectors(
        tuple(parts), found.energy, samples.valid, samples.invalid, samples.mixing
    )
