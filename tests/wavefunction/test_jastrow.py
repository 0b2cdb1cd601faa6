"""Jastrow factor: cusps, smoothness, symmetry, and the function inside."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._training.taps import split_linears
from eqsym._wavefunction import one_moved
from toys import waves


_RANGES = (0.7, 1.3)


def _crystal(**kwargs):
    kwargs = {"spin": 2} | kwargs
    return eqs.Crystal.rock_salt("Li", "H", a=7.6, unit="bohr", **kwargs)


def _occupation(crystal):
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    return eqs.Occupation(tuple(k[np.arange(n) % len(k)] for n in crystal.electrons))


@functools.cache
def _factor():
    """Three electrons up, one down."""
    return eqs.Jastrow(waves(_crystal()), ranges=_RANGES)


@functools.cache
def _log_factor():
    factor = _factor()
    return jax.jit(jax.vmap(lambda electrons: factor.log_factor(electrons)))


def _electrons(seed, count=None):
    crystal = _crystal()
    shape = (4, 3) if count is None else (count, 4, 3)
    frac = np.random.default_rng(seed).uniform(-1.0, 2.0, shape)
    return crystal.supercell.to_cartesian(frac)


def _naive(electrons):
    """The sum over all images, of the formula."""
    vectors = _crystal().supercell.vectors
    images = np.array(list(itertools.product(range(-4, 5), repeat=3))) @ vectors
    limit = min(np.linalg.norm(images[np.any(images != 0, axis=1)], axis=1)) / 2
    total = 0.0
    for i, j in itertools.combinations(range(4), 2):
        alike = (i < 3) == (j < 3)
        slope, length = (0.25, _RANGES[0]) if alike else (0.5, _RANGES[1])
        r = np.linalg.norm(electrons[i] - electrons[j] + images, axis=1)
        r = r[r < limit]
        total -= np.sum(slope * length**2 / (length + r) * (1 - r**2 / limit**2) ** 3)
    return total


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_is_a_sum_over_images_with_the_symmetry_of_the_crystal(seed):
    crystal, electrons = _crystal(), _electrons(seed)
    group = _group()
    rotations = np.asarray(group.cart_rotations)
    shifts = np.asarray(group.cart_translations)
    images = np.einsum("gxy,ey->gex", rotations, electrons) + shifts[:, None]
    # One electron in another cell, too.
    other = electrons.copy()
    other[1] += crystal.supercell.vectors[seed % 3]
    found = _log_factor()(jnp.asarray(np.concatenate([[other], images])))
    np.testing.assert_allclose(found, _naive(electrons), rtol=1e-10, atol=1e-12)


@functools.cache
def _group():
    return eqs.SpaceGroup.of(_crystal())


def test_slopes_at_contact_and_smooth_at_the_end():
    crystal, factor = _crystal(), _factor()
    limit = np.linalg.norm(crystal.supercell.vectors, axis=1).min() / 2
    electrons, direction = jnp.asarray(_electrons(0)), jnp.asarray([0.6, 0.0, 0.8])

    def moved(distance, other):
        place = electrons[0] + distance * direction
        return factor.log_factor(electrons.at[other].set(place))

    for other, slope in ((1, 0.25), (3, 0.5)):
        along = functools.partial(moved, other=other)
        # What the other pairs add is smooth at contact.
        jump = jax.grad(along)(1e-9) - jax.grad(along)(-1e-9)
        np.testing.assert_allclose(jump, 2 * slope, rtol=1e-6)
        first, second = jax.grad(along), jax.grad(jax.grad(along))
        for f in (along, first, second):
            np.testing.assert_allclose(f(limit - 1e-7), f(limit + 1e-7), atol=1e-5)


def _meeting(wavefunction, other):
    """Local energies as an electron comes close to another one."""
    hamiltonian = eqs.Hamiltonian(wavefunction.crystal)
    electrons = jnp.asarray(_electrons(3))
    steps = jnp.asarray([1e-2, 1e-3, 1e-4])
    direction = jnp.asarray([0.36, 0.48, 0.8])
    places = electrons[:1] + steps[:, None] * direction[None]
    walkers = jax.vmap(lambda place: electrons.at[other].set(place))(places)
    energy = jax.vmap(lambda x: hamiltonian.local_energy(wavefunction, x).total)
    return np.asarray(eqx.filter_jit(energy)(walkers)).real


@pytest.mark.parametrize("other", [1, 3])
def test_local_energies_stay_finite_as_electrons_meet(other):
    crystal = _crystal()
    network = eqs.AttentionNet(
        crystal,
        _occupation(crystal),
        width=8,
        heads=2,
        layers=1,
        pair_width=4,
        key=jax.random.key(0),
    )
    # 1/r is 100, 1000 and 10,000 Ha.
    steps = np.diff(_meeting(eqs.Jastrow(network), other))
    assert abs(steps[1]) < 0.2 * abs(steps[0]) + 1e-3 < 3
    assert np.diff(_meeting(network, other))[1] > 5000


def test_what_is_inside_is_seen(lih):
    """By moved electrons, derivatives by weights, pretraining and averaged orbitals."""
    network = eqs.SolidNet(
        lih.crystal,
        lih.occupation,
        widths=((6, 4), (6, 4)),
        determinants=1,
        key=jax.random.key(0),
    )
    factor = eqs.Jastrow(network)
    walkers = eqs.initial_walkers(lih.crystal, 16, key=jax.random.key(1))
    electrons, place = walkers[0], walkers[1, 0]
    one = jnp.asarray([0.0, 0.0, 1.0, 0.0])
    moved = eqx.filter_jit(lambda f: one_moved(f, electrons)(one, place))(factor)
    expected = factor(electrons.at[2].set(place))
    np.testing.assert_allclose(moved.log, expected.log, rtol=1e-12)
    layers = [split_linears(f, None, 1)[0] for f in (network, factor)]
    assert len(layers[0]) == len(layers[1]) > 5

    losses = []
    fitted, _ = eqs.Pretraining(lih, 20)(
        factor,
        walkers,
        key=jax.random.key(2),
        callback=lambda step, loss: losses.append(loss),
    )
    assert losses[-1] < losses[0]
    assert isinstance(fitted, eqs.Jastrow)
    np.testing.assert_array_equal(fitted.ranges, factor.ranges)

    inversion = eqs.SpaceGroup(
        lih.crystal, [np.eye(3, dtype=int), -np.eye(3, dtype=int)], np.zeros((2, 3))
    )
    average = eqs.GroupAverage(inversion)
    found = eqx.filter_jit(eqs.SymmetrizedOrbitals(factor, average))
    bare = eqs.SymmetrizedOrbitals(network, average)(electrons)
    log = bare.log + factor.log_factor(electrons)
    np.testing.assert_allclose(found(electrons).log, log, rtol=1e-12)
    np.testing.assert_allclose(found(-electrons).log, log, rtol=1e-9)


def test_errors():
    crystal = _crystal()
    factor = _factor()
    average = eqs.GroupAverage(_group().subgroup([0]))
    for twice in (factor, eqs.Symmetrized(factor, average)):
        with pytest.raises(ValueError, match="has a `Jastrow` factor already"):
            eqs.Jastrow(twice)
    for ranges in ((1.0,), (1.0, 0.0), (1.0, np.nan)):
        with pytest.raises(ValueError, match="`ranges` must be two positive lengths"):
            eqs.Jastrow(waves(crystal), ranges=ranges)
