"""Crystals made for a given group: random lattice parameters it allows, and nuclei on
the orbit of a generic point."""

import warnings

import numpy as np
import spglib

import eqsym as eqs


def database(hall_number):
    """`(rotations, frac_translations)` of a Hall number; negative ones are layer
    groups."""
    with warnings.catch_warnings():
        # spglib 2.8 announces another way to report errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = spglib.get_symmetry_from_database(hall_number)
    return found["rotations"], found["translations"]


def space_group_type(hall_number):
    """The names of a setting: `number` in the International Tables, and others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return spglib.get_spacegroup_type(hall_number)


def lattice_for(rotations, rng, size=20.0):
    """Random lattice vectors, as rows in Bohr, that integer rotations (on columns of
    fractions) leave as they are: the mean of a random metric over the group."""
    metric = np.eye(3) + 0.3 * (noise := rng.normal(size=(3, 3))) @ noise.T
    metric = np.mean(np.swapaxes(rotations, 1, 2) @ metric @ rotations, axis=0)
    vectors = np.linalg.cholesky(metric)
    return vectors * size / np.cbrt(abs(np.linalg.det(vectors)))


def crystal_for(rotations, translations, seed=0, *, size=20.0, electrons=2, **kwargs):
    """A crystal that has the operations: hydrogen nuclei on the orbit of a generic
    point, as far apart as a few tries make them, and a charge that leaves `electrons`.
    """
    rng = np.random.default_rng(seed)
    vectors = lattice_for(rotations, rng, size)

    def orbit(point):
        images = rotations @ point + translations
        return images - np.floor(images)

    def nearest(images):
        gaps = images[:, None] - images[None]
        lengths = np.linalg.norm((gaps - np.round(gaps)) @ vectors, axis=-1)
        return np.min(lengths + 1e3 * np.eye(len(images)))

    tries = [orbit(point) for point in rng.uniform(size=(50, 3))]
    images = max(tries, key=nearest)
    return eqs.Crystal(
        vectors,
        ["H"] * len(images),
        frac_positions=images,
        unit="bohr",
        charge=len(images) - electrons,
        **kwargs,
    )
