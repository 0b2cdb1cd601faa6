"""The Coulomb energy against Madelung constants, PySCF and its own invariances."""

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from pyscf.pbc import gto

from eqsym import Crystal, Ewald, Lattice
from eqsym._hamiltonian.ewald import ewald_energy


def lih(**kwargs) -> Crystal:
    return Crystal.rock_salt("Li", "H", a=4.08, unit="angstrom", **kwargs)


def graphene(**kwargs) -> Crystal:
    return Crystal.graphene(a=4.65, vacuum=50.0, unit="bohr", **kwargs)


def skewed(**kwargs) -> Crystal:
    lattice = [[5.0, 0.3, 0.1], [4.2, 4.4, 0.0], [-2.0, 3.0, 6.5]]
    frac = [[0.1, 0.2, 0.3], [0.6, 0.55, 0.7]]
    return Crystal(lattice, ("Li", "H"), frac_positions=frac, unit="bohr", **kwargs)


CRYSTALS = {
    "rock salt": lih(),
    "charged": lih(charge=2),
    "negative": lih(charge=-2, spin=2),
    "graphene": graphene(),
    "skewed": skewed(),
    "left-handed": skewed(supercell=[[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "supercell": skewed(supercell=[[1, 1, 0], [-1, 1, 0], [1, 0, 1]]),
    "chain": Crystal.hydrogen_chain(spacing=1.8, vacuum=25.0, atoms=4, unit="bohr"),
}


def configuration(crystal: Crystal, seed: int = 0):
    """Electrons around the nuclei and, some, anywhere."""
    rng = np.random.default_rng(seed)
    count = sum(crystal.electrons)
    at = rng.integers(len(crystal.supercell_positions), size=count)
    close = crystal.supercell_positions[at] + rng.normal(size=(count, 3))
    anywhere = rng.uniform(size=(count, 3)) @ crystal.supercell.vectors
    return np.where(rng.uniform(size=(count, 1)) < 0.7, close, anywhere)


def reference(crystal: Crystal, electrons, **kwargs) -> float:
    """All charges at once in float64, a code path without JAX."""
    positions = np.concatenate([crystal.supercell_positions, electrons])
    charges = np.concatenate([crystal.supercell_charges, -np.ones(len(electrons))])
    return ewald_energy(crystal.supercell, positions, charges, **kwargs)


def energy(ewald: Ewald, electrons) -> float:
    return float(eqx.filter_jit(ewald)(jnp.asarray(electrons)))


@functools.cache
def compiled(name: str):
    return jax.jit(jax.vmap(Ewald(CRYSTALS[name])))


def brute_force(lattice: Lattice, positions, charges, alpha: float) -> float:
    """The formula of the docstring, term by term over boxes of images and waves."""
    box = np.array(list(itertools.product(range(-7, 8), repeat=3)), dtype=float)
    total = 0.0
    for i, j in itertools.product(range(len(charges)), repeat=2):
        for image in box @ lattice.vectors:
            r = np.linalg.norm(positions[i] - positions[j] + image)
            if r > 1e-9:
                total += charges[i] * charges[j] * math.erfc(alpha * r) / r / 2
    for wave in box @ lattice.reciprocal:
        square = wave @ wave
        if square > 0:
            factor = abs(np.sum(charges * np.exp(1j * positions @ wave))) ** 2
            weight = np.exp(-square / (4 * alpha**2)) / square
            total += 2 * np.pi / lattice.volume * weight * factor
    total -= alpha / np.sqrt(np.pi) * np.sum(charges**2)
    return total - np.pi * np.sum(charges) ** 2 / (2 * lattice.volume * alpha**2)


# Energy of one ion pair times the nearest distance: tabulated to all digits given.
@pytest.mark.parametrize(
    "lattice, frac, nearest, constant",
    [
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0]], 0.5, 1.0, 1.74756459463318),
        ([[2, 0, 0], [0, 2, 0], [0, 0, 2]], 0.5, math.sqrt(3), 1.76267477307099),
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0]], 0.25, math.sqrt(3) / 2, 1.63805505338879),
    ],
    ids=["NaCl", "CsCl", "zinc blende"],
)
def test_madelung_constants_of_ionic_crystals(lattice, frac, nearest, constant):
    vectors = 2.0 * np.array(lattice, dtype=float)
    crystal = Crystal(vectors, ("H",), cart_positions=[[0, 0, 0]], unit="bohr")
    electron = frac * np.sum(vectors, axis=0)
    expected = -constant / (2.0 * nearest)
    got = energy(Ewald(crystal, precision=1e-12), electron[None])
    assert got == pytest.approx(expected, abs=1e-11)
    assert energy(Ewald(crystal), electron[None]) == pytest.approx(expected, abs=1e-7)


# Energies of one charge in its background, in units of 1/(edge of the cube) for sc and
# of 1/(radius of the sphere that holds one charge) for all: -1.760118884, -1.791858511
# and -1.791747230 Rydberg/r_s for sc, bcc and fcc, R. A. Coldwell-Horsfall and A. A.
# Maradudin, J. Math. Phys. 1, 395 (1960).
@pytest.mark.parametrize(
    "lattice, constant",
    [
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1.760118884),
        ([[-1, 1, 1], [1, -1, 1], [1, 1, -1]], 1.791858511),
        ([[0, 1, 1], [1, 0, 1], [1, 1, 0]], 1.791747230),
    ],
    ids=["sc", "bcc", "fcc"],
)
def test_madelung_constants_of_wigner_crystals(lattice, constant):
    cell = Lattice(3.0 * np.array(lattice, dtype=float))
    radius = (3 * cell.volume / (4 * np.pi)) ** (1 / 3)
    got = ewald_energy(cell, np.zeros((1, 3)), np.ones(1))
    assert got == pytest.approx(-constant / (2 * radius), abs=2e-9)
    # Of a nucleus and two electrons on top of one another, were it not for their
    # repulsion, the long-range part is that of one charge of -1.
    crystal = Crystal(
        cell.vectors, ("H",), cart_positions=[[0, 0, 0]], unit="bohr", charge=-1
    )
    close = 1e-4 * np.array([[1.0, 0, 0], [0, 1.0, 0]])
    bare = 1e4 * (1 / math.sqrt(2) - 2)
    got = energy(Ewald(crystal), close)
    assert got - bare == pytest.approx(-constant / (2 * radius), abs=1e-6)


@pytest.mark.parametrize("charge", [0, 1])
def test_formula_term_by_term(charge):
    crystal = skewed(charge=charge)
    electrons = configuration(crystal)
    positions = np.concatenate([crystal.cart_positions, electrons])
    charges = np.concatenate([crystal.atomic_numbers, -np.ones(len(electrons))])
    expected = brute_force(crystal.lattice, positions, charges, 0.6)
    assert reference(crystal, electrons) == pytest.approx(expected, abs=1e-9)
    got = energy(Ewald(crystal), electrons)
    assert got == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    "crystal",
    [
        lih(),
        graphene(),
        Crystal.bcc("Li", a=6.6, unit="bohr"),
        skewed(),
        lih(supercell=2),
    ],
    ids=["rock salt", "graphene", "bcc", "skewed", "supercell"],
)
def test_nuclear_energy_is_that_of_pyscf(crystal):
    """Nuclei alone are a charged cell: this also compares the background."""
    cell = gto.M(
        a=crystal.supercell.vectors,
        atom=[
            (crystal.species[i % len(crystal.species)], position)
            for i, position in enumerate(crystal.supercell_positions)
        ],
        basis={"default": [[0, [1.0, 1.0]]]},
        unit="B",
        spin=None,
        precision=1e-12,
        verbose=0,
    )
    expected = cell.energy_nuc()
    assert Ewald(crystal).nuclear_energy == pytest.approx(expected, abs=1e-8)
    got = ewald_energy(
        crystal.supercell, crystal.supercell_positions, crystal.supercell_charges
    )
    assert got == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("name", CRYSTALS)
def test_energy_of_configurations(name):
    crystal = CRYSTALS[name]
    configurations = np.stack([configuration(crystal, seed) for seed in range(3)])
    got = compiled(name)(jnp.asarray(configurations))
    expected = [reference(crystal, electrons) for electrons in configurations]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)


def test_truncation_of_the_worst_clusters():
    """All electrons next to one another, anywhere in the cell."""
    rng = np.random.default_rng(0)
    for name in ("rock salt", "graphene"):
        crystal = CRYSTALS[name]
        count = sum(crystal.electrons)
        centers = rng.uniform(size=(3, 1, 3)) @ crystal.supercell.vectors
        configurations = centers + 0.1 * rng.normal(size=(3, count, 3))
        got = compiled(name)(jnp.asarray(configurations))
        expected = [reference(crystal, electrons) for electrons in configurations]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7)


def test_slab_interacts_with_its_image_through_vacuum():
    """Far from the layer, an electron feels the average potential of the others, whose
    charge of +1 has a background: phi'' = 4 pi/V, so that the energy's is -4 pi/V."""
    crystal = graphene()
    vacuum = crystal.supercell.vectors[2, 2]
    electrons = configuration(crystal)
    heights = vacuum / 2 + np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    rows = np.repeat(electrons[None], 5, axis=0)
    rows[:, -1] = np.stack([0 * heights, 0 * heights, heights], axis=-1)
    rows[:, :-1, 2] *= 0.05
    energies = np.asarray(compiled("graphene")(jnp.asarray(rows)))
    curvature = np.diff(energies, 2) / 4.0
    expected = -4 * np.pi / crystal.supercell.volume
    np.testing.assert_allclose(curvature, expected, rtol=1e-3)


def test_non_diagonal_supercell_is_a_large_primitive_cell():
    small = CRYSTALS["supercell"]
    large = Crystal(
        small.supercell.vectors,
        small.species * small.cells,
        cart_positions=small.supercell_positions,
        unit="bohr",
    )
    electrons = configuration(small)[None]
    got = jax.jit(jax.vmap(Ewald(large)))(jnp.asarray(electrons))
    expected = compiled("supercell")(jnp.asarray(electrons))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-7)


def test_energy_is_extensive():
    """Electrons repeated with the cell: twice the cell, twice the energy."""
    one, two = lih(), lih(supercell=(1, 1, 2))
    electrons = configuration(one)
    repeated = (electrons[None] + two.translations[:, None]).reshape(-1, 3)
    single = energy(Ewald(one), electrons)
    double = energy(Ewald(two), repeated)
    assert double == pytest.approx(2 * single, abs=2e-7)


@given(
    alpha=st.floats(0.3, 1.5),
    seed=st.integers(0, 100),
    name=st.sampled_from(["skewed", "charged"]),
)
@settings(max_examples=20)
def test_energy_does_not_depend_on_alpha(alpha, seed, name):
    crystal = CRYSTALS[name]
    electrons = configuration(crystal, seed)
    energies = [reference(crystal, electrons, alpha=a) for a in (alpha, None)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def test_alpha_of_the_class_is_free():
    crystal = skewed(charge=1)
    electrons = configuration(crystal)
    expected = reference(crystal, electrons)
    for alpha in (0.4, 0.9):
        ewald = Ewald(crystal, alpha=alpha)
        assert ewald.alpha == alpha
        assert energy(ewald, electrons) == pytest.approx(expected, abs=1e-7)


integers = st.integers(-3, 3)


@given(
    shift=st.tuples(integers, integers, integers),
    electron=st.integers(0, 3),
    seed=st.integers(0, 100),
    name=st.sampled_from(["skewed", "rock salt"]),
)
def test_supercell_translation_of_an_electron(shift, electron, seed, name):
    crystal = CRYSTALS[name]
    moved = configuration(crystal, seed)
    here = jnp.asarray(moved)[None]
    moved[electron] += np.array(shift) @ crystal.supercell.vectors
    before, after = compiled(name)(here), compiled(name)(jnp.asarray(moved)[None])
    # Rounding, of up to 1e-15 in distances as short as 0.01.
    np.testing.assert_allclose(after, before, rtol=1e-9)


@st.composite
def unimodular(draw):
    """Products of shears and a reflection."""
    matrix = np.diag([draw(st.sampled_from([1, -1])), 1, 1])
    for _ in range(4):
        i, j = draw(st.permutations(range(3)))[:2]
        shear = np.eye(3, dtype=int)
        shear[i, j] = draw(st.integers(-4, 4))
        matrix = shear @ matrix
    return matrix


@given(matrix=unimodular(), seed=st.integers(0, 100))
@settings(max_examples=20)
def test_basis_of_the_lattice_does_not_matter(matrix, seed):
    crystal = CRYSTALS["skewed"]
    other = Lattice(matrix @ crystal.lattice.vectors)
    electrons = configuration(crystal, seed)
    positions = np.concatenate([crystal.cart_positions, electrons])
    charges = np.concatenate([crystal.atomic_numbers, -np.ones(len(electrons))])
    got = ewald_energy(other, positions, charges)
    assert got == pytest.approx(reference(crystal, electrons), abs=1e-9)


def test_basis_of_the_class_does_not_matter():
    """Skewed so much that wrapping fractions alone would miss the nearest image."""
    crystal = skewed(supercell=[[1, 4, 0], [0, 1, 0], [3, -5, -1]])
    electrons = configuration(crystal)[None]
    got = jax.jit(jax.vmap(Ewald(crystal)))(jnp.asarray(electrons))
    expected = compiled("skewed")(jnp.asarray(electrons))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("name", ["rock salt", "graphene"])
def test_single_precision(name):
    """The error is a few units in the last place of the largest terms, here 1e2 to 1e3
    Hartree for electrons close to nuclei; 1e-4 Hartree bounds it."""
    crystal = CRYSTALS[name]
    rows = np.stack([configuration(crystal, seed) for seed in range(20)])
    single = jnp.asarray(rows, jnp.float32)
    got = compiled(name)(single)
    assert got.dtype == jnp.float32
    expected = compiled(name)(single.astype(jnp.float64))
    error = np.abs(np.asarray(got, np.float64) - np.asarray(expected))
    assert np.max(error) < 1e-4 and np.median(error) < 1e-5


def test_single_precision_on_both_sides_of_a_layer():
    """Electrons below the nuclei are at the upper end of a cell of 50 Bohr."""
    crystal = graphene()
    rng = np.random.default_rng(3)
    at = rng.permuted(np.tile(np.arange(12) % 2, (200, 1)), axis=1)
    rows = crystal.cart_positions[at] + 0.2 * rng.normal(size=(200, 12, 3))
    rows[..., 2] %= crystal.lattice.vectors[2, 2]
    single = jnp.asarray(rows, jnp.float32)
    error = compiled("graphene")(single).astype(jnp.float64)
    error -= compiled("graphene")(single.astype(jnp.float64))
    assert abs(np.mean(error)) < 1e-5
    assert np.sqrt(np.mean(error**2)) < 5e-5


@pytest.mark.parametrize(
    "crystal, most",
    [(graphene(), 800), (lih(), 300), (graphene(supercell=(3, 3, 1)), 2500)],
    ids=["graphene", "rock salt", "graphene 3x3"],
)
def test_sums_are_short(crystal, most):
    ewald = Ewald(crystal)
    assert np.count_nonzero(ewald.weights) < most
    assert len(ewald.images) < 60


def test_cell_longer_than_wide_has_few_waves():
    """The number of waves must not follow from the shortest height of the cell."""
    for vacuum in (20.0, 50.0, 100.0):
        crystal = Crystal.graphene(a=4.65, vacuum=vacuum, unit="bohr")
        assert np.count_nonzero(Ewald(crystal).weights) < 1000


def test_bad_arguments_are_named():
    for alpha in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="`alpha`"):
            Ewald(lih(), alpha=alpha)
    for precision in (0.0, 2.0):
        with pytest.raises(ValueError, match="`precision`"):
            Ewald(lih(), precision=precision)
    with pytest.raises(ValueError, match="`electrons`"):
        Ewald(lih())(jnp.zeros((3, 3)))
