"""Observables of given configurations, against sums written out."""

import itertools

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
import group_toys


# Neither orthogonal nor symmetric, and left-handed; a general supercell.
_TRICLINIC = eqs.Crystal(
    [[0.4, 3.3, 0.0], [3.0, 0.0, 0.0], [0.2, -0.5, 3.6]],
    ["H"],
    cart_positions=[[0.3, 0.1, -0.2]],
    unit="bohr",
    supercell=[[1, 1, 0], [0, 3, 0], [0, 1, 1]],
    charge=-3,
    spin=2,
    twist=[0.13, 0.37, 0.21],
)
_SLAB = eqs.Crystal.graphene(a=4.6, vacuum=14.0, unit="bohr", charge=7, spin=1)
_CRYSTALS = {"triclinic": _TRICLINIC, "slab": _SLAB}


def _orbits(crystal, walkers=3, images=2):
    """Configurations, far outside of the supercell too, and two kinds of weights."""
    rng = np.random.default_rng(0)
    frac = rng.uniform(-2, 2, size=(walkers, images, sum(crystal.electrons), 3))
    weights = rng.uniform(size=(walkers, images, 2))
    return crystal.supercell.to_cartesian(frac), weights


_total = eqx.filter_jit(
    lambda observable, orbits, weights: observable.total(orbits, weights)
)


def _observed(observable, orbits, weights):
    """Of weighted means."""
    total = _total(observable, jnp.asarray(orbits), jnp.asarray(weights))
    return observable.result(np.asarray(total) / weights.sum((0, 1))[:, None])


def _mean(function, orbits, weights):
    values = np.array([[function(x) for x in images] for images in orbits])
    sums = np.einsum("gmk,gm...->k...", weights, values)
    return sums / weights.sum((0, 1)).reshape(-1, *[1] * (sums.ndim - 1))


def _every_observable(crystal):
    yield eqs.Density(crystal, (3, 4, 5))
    yield eqs.Density(crystal, (2, 3, 2), spins=(1, -1), supercell=True)
    yield eqs.FourierDensity(crystal, 3.5)
    yield eqs.StructureFactor(crystal, 2.0)
    yield eqs.PairCorrelation(crystal, 4)
    yield eqs.Polarization(crystal)


@pytest.mark.parametrize("name", _CRYSTALS)
@pytest.mark.parametrize(
    ("supercell", "spins"), [(False, (1, 1)), (False, (0, 1)), (True, (1, -1))]
)
def test_density_counts_electrons_at_the_nearest_grid_point(name, supercell, spins):
    crystal, shape = _CRYSTALS[name], (4, 3, 5)
    density = eqs.Density(crystal, shape, spins=spins, supercell=supercell)
    lattice = crystal.supercell if supercell else crystal.lattice
    axes = [np.arange(n) / n for n in shape]
    points = np.array(list(itertools.product(*axes))) @ lattice.vectors
    np.testing.assert_allclose(density.points.reshape(-1, 3), points)
    shifts = np.array(list(itertools.product(range(-2, 3), repeat=3)))
    images = points[:, None] + shifts @ lattice.vectors
    volume = lattice.volume / np.prod(shape)
    cells = 1 if supercell else crystal.cells

    def naive(electrons):
        counts = np.zeros(len(points))
        for i, r in enumerate(lattice.wrap(electrons)):
            nearest = np.min(np.linalg.norm(images - r, axis=-1), axis=1)
            counts[np.argmin(nearest)] += spins[i >= crystal.electrons[0]]
        return counts.reshape(shape) / (cells * volume)

    orbits, weights = _orbits(crystal)
    found = _observed(density, orbits, weights)
    np.testing.assert_allclose(found, _mean(naive, orbits, weights), atol=1e-12)
    # The number of electrons, exactly.
    number = np.dot(spins, crystal.electrons) / cells
    np.testing.assert_allclose(found.sum((1, 2, 3)) * volume, number, rtol=1e-12)


@pytest.mark.parametrize("name", _CRYSTALS)
def test_fourier_components(name):
    crystal = _CRYSTALS[name]
    fourier = eqs.FourierDensity(crystal, 3.5)
    structure = eqs.StructureFactor(crystal, 2.0)
    orbits, weights = _orbits(crystal)

    def wave(q):
        return _mean(lambda x: np.sum(np.exp(-1j * x @ q)), orbits, weights)

    def square(q):
        return _mean(lambda x: abs(np.sum(np.exp(-1j * x @ q))) ** 2, orbits, weights)

    expected = [wave(g) / crystal.cells for g in fourier.vectors]
    found = _observed(fourier, orbits, weights)
    np.testing.assert_allclose(found, np.transpose(expected), atol=1e-12)
    expected = [square(q) - abs(wave(q)) ** 2 for q in structure.vectors]
    found = _observed(structure, orbits, weights)
    electrons = sum(crystal.electrons)
    np.testing.assert_allclose(found, np.transpose(expected) / electrons, atol=1e-12)


@pytest.mark.parametrize("name", _CRYSTALS)
def test_one_of_every_pair_of_wave_vectors(name):
    crystal = _CRYSTALS[name]
    for observable, lattice in (
        (eqs.FourierDensity(crystal, 3.5), crystal.lattice),
        (eqs.StructureFactor(crystal, 2.0), crystal.supercell),
    ):
        half = observable.vectors
        found = np.concatenate([half, -half, np.zeros((1, 3))])
        reach = range(-14, 15)
        every = np.array(list(itertools.product(reach, repeat=3))) @ lattice.reciprocal
        every = every[np.linalg.norm(every, axis=1) <= observable.max_q]
        assert len(every) == len(found) > 10
        key = lambda rows: rows[np.lexsort(np.round(rows, 6).T)]
        np.testing.assert_allclose(key(found), key(every), atol=1e-9)
        assert np.all(np.diff(np.linalg.norm(half, axis=1)) > -1e-9)


@pytest.mark.parametrize("name", _CRYSTALS)
@pytest.mark.parametrize("spins", [None, (0, 0), (0, 1), (1, 1)])
def test_pair_correlation_counts_pairs(name, spins):
    crystal = _CRYSTALS[name]
    shifts = crystal.supercell.points_within(30.0)
    shortest = np.linalg.norm(shifts[1])
    correlation = eqs.PairCorrelation(crystal, 5, spins=spins)
    np.testing.assert_allclose(correlation.r_max, shortest / 2)
    np.testing.assert_allclose(correlation.edges, np.linspace(0, shortest / 2, 6))
    channel = np.repeat([0, 1], crystal.electrons)
    a, b = (channel == s if spins else channel >= 0 for s in spins or (0, 0))

    def naive(electrons):
        counts, electrons = np.zeros(5), crystal.supercell.wrap(electrons)
        for i, j in itertools.product(np.flatnonzero(a), np.flatnonzero(b)):
            if i != j:
                gaps = electrons[i] - electrons[j] + shifts
                r = np.min(np.linalg.norm(gaps, axis=1))
                counts += np.histogram(r, correlation.edges)[0]
        return counts

    # Images of a walker are at the same distances.
    orbits, weights = _orbits(crystal, walkers=20)
    orbits = orbits[:, :1] + np.array([0.0, 0.7])[:, None, None]
    shells = 4 / 3 * np.pi * np.diff(correlation.edges**3)
    uniform = a.sum() * b.sum() * shells / crystal.supercell.volume
    expected = _mean(naive, orbits, weights) / uniform
    found = _observed(correlation, orbits, weights)
    assert np.max(expected) > 0
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("name", _CRYSTALS)
def test_polarization(name):
    crystal = _CRYSTALS[name]
    orbits, weights = _orbits(crystal)
    found = _observed(eqs.Polarization(crystal), orbits, weights)

    def naive(electrons):
        frac = electrons @ np.linalg.inv(crystal.supercell.vectors)
        return np.exp(2j * np.pi * np.sum(frac, axis=0))

    np.testing.assert_allclose(found, _mean(naive, orbits, weights), atol=1e-12)


@pytest.mark.parametrize("name", _CRYSTALS)
def test_electrons_may_move_by_vectors_of_the_supercell(name):
    crystal = _CRYSTALS[name]
    orbits, weights = _orbits(crystal)
    integers = np.random.default_rng(1).integers(-2, 3, size=orbits.shape)
    moved = orbits + integers @ crystal.supercell.vectors
    for observable in _every_observable(crystal):
        expected = _observed(observable, orbits, weights)
        found = _observed(observable, moved, weights)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        # And in single precision.
        single = [jnp.asarray(v, jnp.float32) for v in (moved, weights)]
        total = _total(observable, *single)
        assert total.dtype in (jnp.float32, jnp.complex64)
        found = observable.result(np.asarray(total) / weights.sum((0, 1))[:, None])
        np.testing.assert_allclose(found, expected, atol=2e-4)


# Cubic, hexagonal, with screws and glides, centered, rhombohedral, monoclinic.
_HALL = (-106, -58, 9, 62, 115, 202, 435, 458, 488, 501)


@settings(max_examples=8)
@given(st.sampled_from(_HALL), st.sampled_from([1.9, 4.1]))
def test_grid_for_a_group_is_taken_to_itself(hall_number, spacing):
    rotations, translations = group_toys.database(hall_number)
    crystal = group_toys.crystal_for(rotations, translations)
    group = eqs.SpaceGroup.from_hall_number(crystal, hall_number)
    density = eqs.Density.for_group(group, spacing)
    shape = np.array(density.shape)
    lengths = np.linalg.norm(crystal.lattice.vectors, axis=1)
    assert np.all(lengths / shape <= spacing + 1e-9)

    images = np.einsum("gij,...j->g...i", group.cart_rotations, density.points)
    images = images + group.cart_translations[:, None, None, None]
    numbers = crystal.lattice.to_fractional(images) * shape
    np.testing.assert_allclose(numbers, np.round(numbers), atol=1e-6)

    # So that what is averaged over the group is invariant, to rounding.
    rng = np.random.default_rng(0)
    electrons = jnp.asarray(crystal.lattice.to_cartesian(rng.uniform(size=(2, 3))))
    orbit = group.apply_inverse(electrons)[None]
    weights = np.full((1, group.order, 1), 1 / group.order)
    (found,) = _observed(density, orbit, weights)
    assert np.max(found) > 0
    for places in np.round(numbers).astype(int) % shape:
        np.testing.assert_allclose(found[tuple(np.moveaxis(places, -1, 0))], found)


def test_grid_for_a_group_along_single_vectors():
    crystal = eqs.Crystal.graphene(a=4.6, vacuum=20.0, unit="bohr")
    group = eqs.SpaceGroup.of(crystal)
    # 0.3 Bohr takes 16 points: thirds of the lattice vectors need a multiple of 3 only
    # if translations have them.
    density = eqs.Density.for_group(group, (0.3, 0.5, np.inf), spins=(1, -1))
    assert density.shape == (16, 16, 1)
    assert density.spins == (1, -1) and not density.supercell
    moved = eqs.Crystal(
        crystal.lattice.vectors,
        ["C", "C"],
        frac_positions=[[0, 0, 0], [1 / 3, 2 / 3, 0]],
        unit="bohr",
        supercell=(2, 2, 1),
    )
    density = eqs.Density.for_group(eqs.SpaceGroup.of(moved), (0.3, 0.5, np.inf))
    assert density.shape == (18, 18, 1)
    density = eqs.Density.for_group(
        eqs.SpaceGroup.of(moved), (0.35, 0.5, 5.0), supercell=True
    )
    assert density.shape == (30, 30, 4)


def test_wrong_arguments():
    crystal = _SLAB
    for shape in ((3, 3), (3, 0, 3), (3.0, 3, 3)):
        with pytest.raises(ValueError, match="`shape` must be three positive"):
            eqs.Density(crystal, shape)
    for kind in (eqs.FourierDensity, eqs.StructureFactor):
        with pytest.raises(ValueError, match="`max_q` must be at least"):
            kind(crystal, 0.1)
    largest = 4.6 / 2
    for r_max in (-1.0, 0.0, 1.001 * largest):
        with pytest.raises(ValueError, match="`r_max` must be positive and at most"):
            eqs.PairCorrelation(crystal, 3, r_max=r_max)
    eqs.PairCorrelation(crystal, 3, r_max=largest)
    with pytest.raises(ValueError, match="`bins` must be at least 1"):
        eqs.PairCorrelation(crystal, 0)
    with pytest.raises(ValueError, match="`spins` must be"):
        eqs.PairCorrelation(crystal, 3, spins=(1, 0))
    lonely = eqs.Crystal(
        4 * np.eye(3), ["H"], cart_positions=np.zeros((1, 3)), unit="bohr"
    )
    with pytest.raises(ValueError, match="has no such pairs"):
        eqs.PairCorrelation(lonely, 3)
    group = eqs.SpaceGroup.of(crystal)
    with pytest.raises(ValueError, match="`spacing` must be one or three positive"):
        eqs.Density.for_group(group, 0.0)
    odd = eqs.Crystal(
        4 * np.eye(3), ["H"], cart_positions=[[0.3172, 0, 0]], unit="bohr"
    )
    with pytest.raises(ValueError, match="Move the origin of the crystal"):
        eqs.Density.for_group(eqs.SpaceGroup.of(odd), 0.5)
