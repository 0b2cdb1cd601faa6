"""Crystals as files have them: numbers with few digits, noise, conventional cells."""

import ase.build
import numpy as np

import eqsym as eqs


def rounded_graphene(digits=4, **kwargs):
    """Thirds of the cell written with few digits."""
    exact = eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr")
    frac = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0]]
    return eqs.Crystal(
        exact.lattice.vectors,
        exact.species,
        frac_positions=np.round(frac, digits),
        unit="bohr",
        **kwargs,
    )


def rounded_lattice_graphene():
    """Cartesian numbers with five digits."""
    a = 2.46067
    lattice = [[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 15.0]]
    frac = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0]]
    return eqs.Crystal(
        np.round(lattice, 5), ["C", "C"], frac_positions=frac, unit="angstrom"
    )


def rounded_beryllium(**kwargs):
    """Hexagonal close packing, all numbers with four digits."""
    lattice = [[2.2858, 0, 0], [-1.1429, 1.9796, 0], [0, 0, 3.5843]]
    frac = [[0.3333, 0.6667, 0.25], [0.6667, 0.3333, 0.75]]
    species = ["Be", "Be"]
    return eqs.Crystal(lattice, species, frac_positions=frac, unit="angstrom", **kwargs)


def salt_cube(*, noise=0.0, seed=0, repeat=(1, 1, 1), **kwargs):
    """The conventional cube of lithium hydride, nuclei off by `noise` (Angstrom)."""
    atoms = ase.build.bulk("LiH", "rocksalt", a=4.02, cubic=True) * repeat
    rng = np.random.default_rng(seed)
    atoms.positions += noise * rng.normal(size=atoms.positions.shape)
    return eqs.Crystal(
        atoms.cell[:],
        atoms.get_chemical_symbols(),
        cart_positions=atoms.positions,
        unit="angstrom",
        **kwargs,
    )


# With the operations found to 1e-5 Bohr and those that are meant, the precision at
# which these appear, and how far nuclei are from their places (Bohr).
ROUNDED = {
    "thirds": (rounded_graphene, 8, 24, "P6/mmm", 1e-3, 3e-4),
    "lattice": (rounded_lattice_graphene, 8, 24, "P6/mmm", 1e-4, 1e-9),
    "beryllium": (rounded_beryllium, 4, 24, "P6_3/mmc", 1e-3, 3e-4),
    "noise": (lambda: salt_cube(noise=1e-3), 1, 192, "Fm-3m", 1e-2, 6e-3),
}
