"""Averaged orbitals and draws of operations; random subsets are tested with the
strategies."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import eqsym as eqs
from eqsym._symmetrizer.subsets import draw_with_identity
from toys import hydrogen, small_network


@functools.cache
def _network(twisted=False, full_determinant=True):
    crystal = eqs.Crystal.graphene(
        a=4.65,
        vacuum=12.0,
        unit="bohr",
        charge=9,
        spin=1,
        twist=(1 / 3, 1 / 3, 0) if twisted else (0, 0, 0),
    )
    k = np.tile(crystal.frac_kpoints @ crystal.lattice.reciprocal, (2, 1))
    return eqs.SolidNet(
        crystal,
        eqs.Occupation((k[:2], k[:1])),
        widths=((8, 3),),
        determinants=2,
        full_determinant=full_determinant,
        key=jax.random.key(0),
    )


def _configuration(seed=1):
    crystal = _network().crystal
    frac = np.random.default_rng(seed).uniform(size=(3, 3))
    return jnp.asarray(crystal.lattice.to_cartesian(frac))


@functools.cache
def _orbitals(twisted, full_determinant):
    return jax.jit(jax.vmap(_network(twisted, full_determinant).orbitals))


def _same(one, other):
    np.testing.assert_allclose(one.log, other.log, rtol=1e-9)
    np.testing.assert_allclose(one.sign, other.sign, rtol=0, atol=1e-9)


@pytest.mark.parametrize("full_determinant", [True, False])
@pytest.mark.parametrize("twisted", [False, True])
@pytest.mark.parametrize("average_phases", [True, False])
def test_is_the_determinant_of_averaged_orbitals(
    twisted, full_determinant, average_phases
):
    network = _network(twisted, full_determinant)
    group = eqs.SpaceGroup.of(network.crystal)
    averaged = eqs.SymmetrizedOrbitals(
        network, eqs.GroupAverage(group), average_phases=average_phases
    )
    x = _configuration()
    kpoints = [np.asarray(k) for k in network.occupation.cart_kpoints]
    both = np.concatenate(kpoints) if full_determinant else None
    total = [0, 0]
    images = group.apply_inverse(x)
    blocks = map(np.asarray, _orbitals(twisted, full_determinant)(images))
    for image, *spins in zip(np.asarray(images), *blocks, strict=True):
        for spin, rows in enumerate(spins):
            if not average_phases:
                some = slice(0, 2) if spin == 0 else slice(2, 3)
                k = kpoints[spin] if both is None else both
                rows = rows * np.exp(1j * ((np.asarray(x) - image)[some] @ k.T))
            total[spin] = total[spin] + rows / group.order
    if full_determinant:
        expected = np.sum(np.linalg.det(np.concatenate(total, axis=1)))
    else:
        expected = np.sum(np.linalg.det(total[0]) * np.linalg.det(total[1]))
    found = eqx.filter_jit(averaged)(x)
    value = np.asarray(found.sign) * np.exp(np.asarray(found.log))
    np.testing.assert_allclose(value, expected, rtol=1e-8)


@pytest.mark.parametrize("twisted", [False, True])
def test_symmetries(twisted):
    """Invariant under the group, antisymmetric, and with the twist of the network."""
    network = _network(twisted)
    group = eqs.SpaceGroup.of(network.crystal)
    averaged = eqx.filter_jit(eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(group)))
    x = _configuration()
    value = averaged(x)
    for image in group.apply(x)[1::5]:
        _same(averaged(image), value)
    exchanged = averaged(x[jnp.array([1, 0, 2])])
    _same(exchanged, eqs.LogPsi(-value.sign, value.log))
    lattice = network.crystal.lattice
    moved = averaged(x.at[0].add(lattice.vectors[0] - 2 * lattice.vectors[1]))
    phase = np.exp(2j * np.pi * network.crystal.twist @ [1, -2, 0])
    expected = np.asarray(value.sign) * (phase if twisted else 1)
    _same(moved, eqs.LogPsi(jnp.asarray(expected), value.log))


def test_trains():
    network = _network()
    group = eqs.SpaceGroup.of(network.crystal)
    strategy = eqs.SymmetrizedTraining(
        eqs.RandomSubset(group, 2),
        functools.partial(eqs.SymmetrizedOrbitals, average_phases=False),
    )
    vmc = eqs.VMC(
        eqs.Hamiltonian(network.crystal),
        eqs.Metropolis(2),
        eqs.Spring(0.1),
        strategy=strategy,
    )
    walkers = eqs.initial_walkers(network.crystal, 6, key=jax.random.key(1))
    state = vmc.init(network, walkers, key=jax.random.key(2))
    following, seen = eqx.filter_jit(vmc.step)(state)
    assert np.isfinite(seen.energy) and seen.rejected_update == 0
    weights = [s.wavefunction.layers[0].own.weight for s in (state, following)]
    assert np.any(weights[0] != weights[1])


def test_errors():
    network = _network()
    other = eqs.SpaceGroup.of(eqs.Crystal.bcc("H", a=5.0, unit="bohr"))
    with pytest.raises(ValueError, match="of `lattice` differs by"):
        eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(other))


def test_draws_with_the_identity():
    """The identity first, others each at most once; every set as often, at a rate that
    a chi-square test with error rate 1e-4 accepts."""
    group = eqs.SpaceGroup.of(hydrogen())
    # Not the first operation here.
    group = group.subgroup(np.roll(np.arange(group.order), 5))
    identity = int(np.flatnonzero(np.all(group.frac_rotations == np.eye(3), (1, 2)))[0])
    keys = jax.random.split(jax.random.key(0), 2350)
    drawn = np.asarray(jax.vmap(lambda key: draw_with_identity(key, group, 5))(keys))
    assert identity == group.identity != 0
    assert np.all(drawn[:, 0] == identity)
    assert all(len(set(row)) == 5 for row in drawn.tolist())
    counts = np.delete(np.bincount(drawn[:, 1:].ravel(), minlength=48), identity)
    # Draws without replacement scatter less than those of a multinomial.
    limit = 43 / 46 * scipy.stats.chi2.isf(1e-4, 46)
    assert np.sum((counts - 200) ** 2 / 200) < limit


def test_orbitals_on_which_the_group_does_not_multiply():
    """Diamond at X: glide planes meet orbitals that they multiply by -1, though the
    determinant of 12 of them has the momentum 0."""
    crystal = eqs.Crystal.diamond("C", a=6.74, unit="bohr", twist=(0.5, 0.5, 0))
    k = np.tile(crystal.frac_kpoints @ crystal.lattice.reciprocal, (6, 1))
    network = small_network(crystal, k, k)
    momentum = crystal.lattice.vectors @ network.crystal_momentum
    np.testing.assert_allclose(np.exp(1j * momentum), 1)
    group = eqs.SpaceGroup.of(crystal)
    eqs.Symmetrized(network, eqs.GroupAverage(group))
    with pytest.raises(ValueError, match=r"k-point \[0.5, 0.5, 0.0\].* exp\(.*1 i pi"):
        eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(group))
    # As published, without phases; and about a point that all operations fix.
    eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(group), average_phases=False)
    eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(group.point_part()))
    shifts = eqs.SpaceGroup.of(crystal).with_translations()
    assert shifts.order == group.order


def test_orbitals_whose_average_is_zero():
    crystal = eqs.Crystal.bcc("H", a=5.0, unit="bohr", supercell=(2, 1, 1), spin=2)
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    network = small_network(crystal, k, k[:0])
    group = eqs.SpaceGroup.of(crystal)
    eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(group))
    with pytest.raises(ValueError, match="averages of orbitals .* are zero"):
        every = eqs.GroupAverage(group.with_translations())
        eqs.SymmetrizedOrbitals(network, every)


def test_orbitals_that_are_odd_under_a_translation():
    """Their sum with characters that are odd too is not zero; with others it is."""
    crystal = eqs.Crystal.bcc("H", a=5.0, unit="bohr", supercell=(2, 1, 1))
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    even, odd = (small_network(crystal, x, x) for x in (k[:1], k[1:]))
    group = eqs.SpaceGroup.of(crystal)
    whole = group.with_translations()
    # The identity, then the translation, come first of their cosets.
    change = [group.order, 0]
    projections = [
        eqs.IrrepProjection(whole, irrep)
        for irrep in eqs.irreps(whole)
        if np.allclose(irrep.characters[change], (-1, 1))
    ]
    assert projections
    eqs.SymmetrizedOrbitals(odd, projections[0])
    with pytest.raises(ValueError, match="averages of orbitals .* are zero"):
        eqs.SymmetrizedOrbitals(even, projections[0])


def test_momentum_is_not_known_without_all_translations():
    """In a group modulo the supercell weights of images have its translations only."""
    crystal = eqs.Crystal.bcc("H", a=5.0, unit="bohr", supercell=(2, 1, 1))
    k = crystal.frac_kpoints[:1] @ crystal.lattice.reciprocal
    network = small_network(crystal, k, k)
    whole = eqs.SpaceGroup.of(crystal).with_translations()
    for group, known in ((whole, True), (whole.point_part(), False)):
        symmetrizer = eqs.Canonicalization(eqs.FundamentalDomain.of(group))
        for averaged in (
            eqs.Symmetrized(network, symmetrizer),
            eqs.SymmetrizedOrbitals(network, symmetrizer, average_phases=False),
        ):
            assert (averaged.crystal_momentum is not None) == known
