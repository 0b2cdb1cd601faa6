"""Metropolis sampling: distribution, adaptation, first walkers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jaxtyping import Array, Float

import eqsym as eqs
from toys import hydrogen, walkers, waves


# Neither orthogonal nor symmetric; two electrons of one spin in a supercell.
_SKEWED = eqs.Crystal(
    [[3.0, 0.0, 0.0], [0.9, 3.3, 0.0], [0.2, -1.1, 3.6]],
    ["H"],
    frac_positions=[[0, 0, 0]],
    unit="bohr",
    supercell=[[1, 1, 0], [0, 2, 0], [0, 0, 1]],
    spin=2,
)


def _run(sampler, wavefunction, state, steps):
    step = eqx.filter_jit(sampler.step)
    for _ in range(steps):
        state = step(wavefunction, state)
    return state


def test_distribution():
    """|psi|^2 = prod_il exp(2 a_l cos w_il): each fraction of the primitive vectors has
    a von Mises distribution, independent of all others. One sample of each of 3000
    independent chains, all started in one corner; six tests at 0.1 % each, so 0.6 %
    false alarms among keys."""
    a = (0.8, 0.3, -0.5)
    wavefunction = waves(_SKEWED, a=a)
    sampler = eqs.Metropolis(20, width=0.5)
    start = 0.1 + 0 * walkers(_SKEWED, 3000)
    state = _run(
        sampler,
        wavefunction,
        sampler.init(wavefunction, start, key=jax.random.key(1)),
        20,
    )
    frac = np.asarray(state.walkers) @ np.linalg.inv(_SKEWED.lattice.vectors)
    angles = 2 * np.pi * (frac - np.round(frac))
    for l in range(3):
        law = scipy.stats.vonmises(2 * abs(a[l]))
        moved = angles[..., l] if a[l] > 0 else angles[..., l] % (2 * np.pi) - np.pi
        for i in range(2):
            assert scipy.stats.kstest(moved[:, i], law.cdf).pvalue > 1e-3
    # All of the supercell, not only a primitive cell of it: one of the two cosets is as
    # likely as the other.
    inside = np.asarray(state.walkers) @ np.linalg.inv(_SKEWED.supercell.vectors)
    assert np.all((inside > -1e-9) & (inside < 1 + 1e-9))
    share = np.mean(np.round(frac - angles / (2 * np.pi)).astype(int)[..., 1] % 2)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(6000)


@pytest.mark.parametrize("width", [0.01, 30.0])
@pytest.mark.parametrize("target", [0.35, 0.6])
def test_width_adapts(width, target):
    wavefunction = waves(a=(3.0, 2.0, 4.0))
    sampler = eqs.Metropolis(20, width=width, target=target)
    start = walkers(wavefunction.crystal, 400)
    state = sampler.init(wavefunction, start, key=jax.random.key(0))
    np.testing.assert_allclose(state.width, width)
    state = _run(sampler, wavefunction, state, 25)
    assert abs(state.acceptance - target) < 0.03


def test_width_is_bounded_by_the_cell():
    wavefunction = waves(a=(0.0, 0.0, 0.0))
    sampler = eqs.Metropolis(2)
    start = walkers(wavefunction.crystal, 5)
    state = sampler.init(wavefunction, start, key=jax.random.key(0))
    state = _run(sampler, wavefunction, state, 15)
    assert state.acceptance == 1
    assert np.isclose(state.width, 4.0)


def test_keys_decide():
    wavefunction = waves()
    sampler = eqs.Metropolis(2)
    start = walkers(wavefunction.crystal, 5)
    states = [
        _run(sampler, wavefunction, sampler.init(wavefunction, start, key=key), 2)
        for key in map(jax.random.key, (0, 0, 1))
    ]
    np.testing.assert_array_equal(states[0].walkers, states[1].walkers)
    assert not np.any(states[0].walkers == states[2].walkers)
    again = _run(sampler, wavefunction, states[0], 1)
    assert not np.any(again.walkers == states[0].walkers)
    assert states[0].walkers.dtype == start.dtype
    single = start.astype(jnp.float32)
    state = sampler.init(wavefunction, single, key=jax.random.key(0))
    state = _run(sampler, wavefunction, state, 1)
    assert {x.dtype for x in (state.walkers, state.width, state.acceptance)} == {
        np.dtype(np.float32)
    }


class Holed(eqs.AbstractWavefunction):
    """Uniform; `value` where x is less than 1."""

    crystal: eqs.Crystal
    value: Float[Array, ""]

    crystal_momentum = None

    def __call__(self, electrons):
        x = electrons[0, 0] % 4.0
        return eqs.LogPsi(jnp.ones(()), jnp.where(x < 1, self.value, 0.0))


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
def test_walkers_leave_and_avoid_what_is_no_amplitude(value):
    wavefunction = Holed(hydrogen(), jnp.asarray(value))
    sampler = eqs.Metropolis(10, width=1.0)
    start = walkers(wavefunction.crystal, 200)
    assert np.any(start[:, 0, 0] < 1)
    state = sampler.init(wavefunction, start, key=jax.random.key(0))
    state = _run(sampler, wavefunction, state, 4)
    assert np.all(state.walkers[:, 0, 0] >= 1 - 1e-9)
    assert state.replaced == 0


@pytest.mark.parametrize("value", [np.nan, -np.inf, np.inf])
@pytest.mark.parametrize("inside", [(1, 2, 5), (0,), (0, 1, 2, 3, 4), ()])
def test_walkers_that_cannot_leave_are_replaced(value, inside):
    """By copies of the next one, around the end; and counted."""
    wavefunction = Holed(hydrogen(), jnp.asarray(value))
    sampler = eqs.Metropolis(2, width=1e-4)
    start = np.array(walkers(wavefunction.crystal, 6))
    start[:, 0, 0] = 2.0 + 0.1 * np.arange(6)
    start[list(inside), 0, 0] = 0.5
    state = sampler.init(wavefunction, jnp.asarray(start), key=jax.random.key(0))
    state = _run(sampler, wavefunction, state, 1)
    assert state.replaced == len(inside)
    outside = [i for i in range(6) if i not in inside]
    for i in range(6):
        source = next(j % 6 for j in range(i, i + 6) if j % 6 in outside)
        np.testing.assert_array_equal(state.walkers[i], state.walkers[source])
        np.testing.assert_allclose(state.walkers[i], start[source], atol=2e-3)


def test_walkers_stay_where_none_has_an_amplitude():
    """And the width does not shrink to nothing meanwhile."""
    wavefunction = Holed(hydrogen(), jnp.asarray(np.nan))
    sampler = eqs.Metropolis(2, width=1e-2)
    start = jnp.full((4, 1, 3), 0.5)
    state = sampler.init(wavefunction, start, key=jax.random.key(0))
    state = _run(sampler, wavefunction, state, 30)
    np.testing.assert_array_equal(state.walkers, start)
    assert (state.replaced, state.acceptance) == (0, 0)
    assert np.isclose(state.width, 1e-4)


@pytest.mark.parametrize(
    "shape", [(4, 2, 3), (4, 1, 2), (4, 3), (0, 1, 3), (4, 1, 1, 3)]
)
def test_refuses_walkers_of_another_shape(shape):
    wavefunction = waves()
    message = r"`walkers` must have shape \(walkers, 1, 3\) with at least one walker"
    with pytest.raises((ValueError, TypeError)) as caught:
        eqs.Metropolis().init(wavefunction, jnp.zeros(shape), key=jax.random.key(0))
    # Where the rank is wrong, the runtime type checker of the tests is first.
    if len(shape) == 3 and shape[2] == 3:
        assert caught.match(message)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(moves=0), "`moves` must be at least 1, got 0"),
        (dict(width=0.0), "`width` must be positive"),
        (dict(target=1.0), "`target` must be between 0 and 1"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        eqs.Metropolis(**kwargs)


def _counts(crystal, spread=1e-3):
    """Spin-up and spin-down electrons at every nucleus, (walkers, 2, nuclei)."""
    placed = np.asarray(
        eqs.initial_walkers(crystal, 4, key=jax.random.key(0), spread=spread)
    )
    assert placed.shape == (4, sum(crystal.electrons), 3)
    apart = placed[:, :, None] - crystal.supercell_positions
    distance = np.linalg.norm(apart, axis=-1)
    assert np.all(np.min(distance, axis=-1) < 10 * spread)
    at = np.eye(distance.shape[-1])[np.argmin(distance, axis=-1)]
    n_up = crystal.electrons[0]
    return np.stack([at[:, :n_up].sum(axis=1), at[:, n_up:].sum(axis=1)], axis=1)


@pytest.mark.parametrize("supercell", [1, (2, 1, 1)])
@pytest.mark.parametrize("species", [("Li", "H"), ("C", "N")])
def test_every_nucleus_gets_its_electrons(species, supercell):
    crystal = eqs.Crystal.rock_salt(*species, a=7.7, unit="bohr", supercell=supercell)
    counts = _counts(crystal)
    assert np.all(counts.sum(axis=1) == crystal.supercell_charges)
    assert np.max(np.abs(counts[:, 0] - counts[:, 1])) <= 1
    assert np.all(counts.sum(axis=2) == crystal.electrons)


@pytest.mark.parametrize("charge", [-3, -1, 1, 3])
@pytest.mark.parametrize("polarised", [False, True])
def test_charged_and_polarised(charge, polarised):
    electrons = 4 - charge
    spin = electrons if polarised else None
    crystal = eqs.Crystal.rock_salt(
        "Li", "H", a=7.7, unit="bohr", charge=charge, spin=spin
    )
    counts = _counts(crystal)
    assert np.all(counts.sum(axis=2) == crystal.electrons)
    off = counts.sum(axis=1) - crystal.supercell_charges
    assert np.all(off * np.sign(-charge) >= 0)
    assert np.max(np.abs(off)) <= 2


def test_clouds():
    """Normal around the nucleus, and different electrons of a spin at it in different
    walkers. Tests with 0.1 and 0.006 % false alarms among keys."""
    crystal = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
    first, other, again = (
        np.asarray(eqs.initial_walkers(crystal, 500, key=jax.random.key(k), spread=0.1))
        for k in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)
    distance = np.linalg.norm(first[:, :, None] - crystal.positions, axis=-1)
    nearest = crystal.positions[np.argmin(distance, axis=-1)]
    law = scipy.stats.norm(scale=0.1).cdf
    assert scipy.stats.kstest(np.ravel(first - nearest), law).pvalue > 1e-3
    # Both spin-up electrons are at lithium, and one of the spin-down ones.
    at_lithium = np.argmin(distance, axis=-1) == 0
    assert np.all(at_lithium[:, :2])
    assert np.all(np.sum(at_lithium[:, 2:], axis=1) == 1)
    assert abs(np.mean(at_lithium[:, 2]) - 0.5) < 4 * 0.5 / np.sqrt(500)


def test_refuses_no_walkers():
    with pytest.raises(ValueError, match="`count` must be at least 1 walker, got 0"):
        eqs.initial_walkers(hydrogen(), 0, key=jax.random.key(0))
