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


def _shared(moves, exchange, hop, **kwargs):
    """A sampler with these shares as arrays: compiled once for all of them."""
    return eqx.tree_at(
        lambda sampler: (sampler.exchange, sampler.hop),
        eqs.Metropolis(moves, **kwargs),
        (jnp.asarray(exchange), jnp.asarray(hop)),
    )


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


# Three atoms in a row, with room between them; two electrons are up and one is down.
_ROW = eqs.Crystal(
    4.0 * np.eye(3),
    ["H"],
    frac_positions=[[0.2, 0.5, 0.5]],
    unit="bohr",
    supercell=(3, 1, 1),
)


class Islands(eqs.AbstractWavefunction):
    """An amplitude for each assignment of electrons to atoms, 0 between the atoms."""

    crystal: eqs.Crystal
    logs: Float[Array, "3 3 3"]

    crystal_momentum = None

    def __call__(self, electrons):
        x = electrons[:, 0] / 4.0
        away = jnp.max(jnp.abs(x % 1 - 0.2))
        atoms = jnp.floor(x).astype(int) % 3
        log = self.logs[atoms[0], atoms[1], atoms[2]]
        return eqs.LogPsi(jnp.ones(()), jnp.where(away < 0.1, log, -jnp.inf))


def _accepted(density, moves):
    """The accepted share of moves between assignments, in equilibrium: every one of
    `moves`, a table of neighbors, is as likely."""
    p, q = density[:, None], density[moves]
    return np.sum(p * np.minimum(1, q / p)) / moves.shape[1]


@pytest.mark.parametrize(
    ("exchange", "hop"), [(0.5, 0.0), (0.0, 0.5), (0.2, 0.3)], ids=str
)
def test_exchanges_and_hops_sample_all_assignments(exchange, hop):
    """From one assignment of electrons to atoms to $|\\psi|^2$, and the acceptances are
    those of equilibrium. 3000 independent chains. Exchanges alone keep every atom at
    one electron. A chi-square test at 0.1 %, and acceptances of one step, 3000
    walkers with at least 4 moves of a kind, within 4 standard errors: less than 0.2 %
    false alarms among keys."""
    logs = np.random.default_rng(0).normal(scale=0.5, size=(3, 3, 3))
    wavefunction = Islands(_ROW, jnp.asarray(logs))
    assert _ROW.electrons == (2, 1)
    start = jnp.tile(jnp.asarray(_ROW.supercell_positions), (3000, 1, 1))
    sampler = _shared(20, exchange, hop)
    state = sampler.init(wavefunction, start, key=jax.random.key(2))
    state = _run(sampler, wavefunction, state, 6)
    atoms = np.floor(np.asarray(state.walkers)[:, :, 0] / 4.0).astype(int)
    found = np.bincount(np.ravel_multi_index(tuple(atoms.T), (3, 3, 3)), minlength=27)

    states = np.indices((3, 3, 3)).reshape(3, -1)
    kept = np.array([len(set(column)) == 3 for column in states.T]) | (hop > 0)
    density = np.where(kept, np.exp(2 * logs.ravel()), 0)
    density /= density.sum()
    assert np.all(found[~kept] == 0)
    expected = 3000 * density[kept]
    assert scipy.stats.chisquare(found[kept], expected).pvalue > 1e-3

    number = lambda atoms: np.ravel_multi_index(tuple(atoms), (3, 3, 3))
    exchanges = [number(states[order]) for order in ([2, 1, 0], [0, 2, 1])]
    hops = [
        number((states + np.eye(3, dtype=int)[i][:, None] * step) % 3)
        for i in range(3)
        for step in (1, 2)
    ]
    for share, moves, accepted in (
        (exchange, exchanges, state.exchange_acceptance),
        (hop, hops, state.hop_acceptance),
    ):
        if share == 0:
            assert accepted == 0
            continue
        exact = _accepted(density[kept], _renumbered(np.array(moves).T, kept))
        # Moves of one chain are correlated: as if each chain had made only one.
        assert abs(accepted - exact) < 4 * np.sqrt(exact * (1 - exact) / 3000)


def _renumbered(moves, kept):
    return (np.cumsum(kept) - 1)[moves[kept]]


def test_hops_are_as_likely_in_both_directions():
    """Also between atoms whose regions are not shifted copies of each other: a uniform
    density, whose distribution along the axis is known. A KS test at 0.1 %."""
    crystal = eqs.Crystal(
        [[4.0, 0, 0], [1.0, 4.0, 0], [0.5, 1.0, 4.0]],
        ["H", "H"],
        cart_positions=[[0, 0, 0], [1.5, 0, 0]],
        unit="bohr",
        spin=2,
    )
    sampler = eqs.Metropolis(10, width=0.05, exchange=0.0, hop=0.9)
    wavefunction = waves(crystal, a=(0.0, 0.0, 0.0))
    start = walkers(crystal, 3000)
    state = sampler.init(wavefunction, start, key=jax.random.key(3))
    state = _run(sampler, wavefunction, state, 2)
    assert 0.2 < state.hop_acceptance < 0.9
    frac = np.asarray(state.walkers) @ np.linalg.inv(crystal.supercell.vectors)
    for axis in range(3):
        assert scipy.stats.kstest(frac[:, :, axis].ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("crystal", "made"),
    [
        (hydrogen(), (False, False)),
        (hydrogen(charge=-1), (True, False)),
        (hydrogen(supercell=(2, 1, 1), spin=-2), (False, True)),
    ],
    ids=("one electron", "one nucleus", "one spin"),
)
def test_moves_that_the_crystal_does_not_admit_are_normal_ones(crystal, made):
    """As if the share had been 0."""
    wavefunction = waves(crystal)
    start = walkers(crystal, 200)

    def after_a_step(exchange, hop):
        sampler = _shared(1, exchange, hop)
        state = sampler.init(wavefunction, start, key=jax.random.key(0))
        return _run(sampler, wavefunction, state, 1)

    found = after_a_step(0.4, 0.3)
    assert (found.exchange_acceptance > 0, found.hop_acceptance > 0) == made
    expected = after_a_step(0.4 * made[0], 0.3 * made[1])
    assert eqx.tree_equal(found, expected)


def test_width_and_shares_stay_if_no_move_of_the_kind_was_made():
    """One walker makes one move in a step: one kind of the three."""
    wavefunction = waves(hydrogen(supercell=(2, 1, 1)))
    sampler = eqs.Metropolis(1, exchange=0.4, hop=0.4)
    start = walkers(wavefunction.crystal, 1)
    state = sampler.init(wavefunction, start, key=jax.random.key(0))
    shares = lambda state: (
        state.acceptance,
        state.exchange_acceptance,
        state.hop_acceptance,
    )
    step, seen = eqx.filter_jit(sampler.step), set()
    for _ in range(30):
        before = eqx.tree_at(shares, state, (jnp.asarray(0.3),) * 3)
        state = step(wavefunction, before)
        (kind,) = (i for i, share in enumerate(shares(state)) if share != 0.3)
        # The density is the same after an exchange, or a hop between the two atoms.
        assert shares(state)[kind] == 1 or (kind, shares(state)[0]) == (0, 0)
        factor = np.exp(state.acceptance - sampler.target) if kind == 0 else 1
        np.testing.assert_allclose(state.width, before.width * factor)
        seen.add((kind, int(shares(state)[kind])))
    assert seen == {(0, 0), (0, 1), (1, 1), (2, 1)}


@pytest.fixture(scope="module")
def stretched():
    """The restricted determinant of a hydrogen chain with atoms 10 Bohr apart: every
    electron is at either atom, whatever the other one does."""
    crystal = eqs.Crystal.hydrogen_chain(spacing=10.0, vacuum=25.0, unit="bohr")
    return eqs.MeanField.solve(
        crystal, basis="sto-3g", exp_to_discard=None, progress=False
    )


@pytest.mark.parametrize("together", [False, True])
def test_atoms_far_apart_share_their_spins_and_charges(stretched, together):
    """The energy is the one that PySCF found, from the walkers that the library draws
    and from walkers that all have the same spins at the same atoms. Without exchanges
    and hops they keep what they start with, and the energy is 0.3 Ha too low. Farther
    off than 4 standard errors with 0.01 % of all keys."""
    assert abs(stretched.energy - -0.61605) < 1e-4
    place, chain = jax.random.split(jax.random.key(0))
    crystal = stretched.crystal
    start = eqs.initial_walkers(crystal, 500, key=place)
    if together:
        cloud = jax.random.normal(place, start.shape)
        start = jnp.asarray(crystal.cart_positions)[None] + cloud
    found = eqs.evaluate(
        eqs.HartreeFock(stretched),
        eqs.Hamiltonian(crystal),
        eqs.Chains(start, key=chain, steps=40, progress=False),
    )
    assert found.energy.error < 0.012
    assert abs(found.energy.mean - stretched.energy) < 4 * found.energy.error


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
    shares = state.acceptance, state.exchange_acceptance, state.hop_acceptance
    assert {x.dtype for x in (state.walkers, state.width, *shares)} == {
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
    assert state.replaced_walkers == 0


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
    assert state.replaced_walkers == len(inside)
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
    assert (state.replaced_walkers, state.acceptance) == (0, 0)
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
        (dict(width=0.0), "`width` must be a positive length"),
        (dict(target=1.0), "`target` must be between 0 and 1"),
        (dict(exchange=-0.1), "`exchange` must be a share of the moves, .* got -0.1"),
        (dict(hop=1.0), "`hop` must be a share of the moves, .* got 1.0"),
        (dict(hop=np.nan), "`hop` must be a share of the moves, .* got nan"),
        (dict(exchange=0.4, hop=0.6), "together must be less than 1, .* 0.4 and 0.6"),
    ],
)
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        eqs.Metropolis(**kwargs)


def _counts(crystal, count=4, spread=1e-3):
    """Spin-up and spin-down electrons at every nucleus, (walkers, 2, nuclei)."""
    placed = np.asarray(
        eqs.initial_walkers(crystal, count, key=jax.random.key(0), spread=spread)
    )
    assert placed.shape == (count, sum(crystal.electrons), 3)
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
@pytest.mark.parametrize("polarized", [False, True])
def test_charged_and_polarized(charge, polarized):
    electrons = 4 - charge
    spin = electrons if polarized else None
    crystal = eqs.Crystal.rock_salt(
        "Li", "H", a=7.7, unit="bohr", charge=charge, spin=spin
    )
    counts = _counts(crystal, 50)
    assert np.all(counts.sum(axis=2) == crystal.electrons)
    off = counts.sum(axis=1) - crystal.supercell_charges
    assert np.all(off * np.sign(-charge) >= 0)
    # From, or to, each nucleus once before any twice; hydrogen has only one to give.
    most = 2 if abs(charge) == 3 else 1
    assert np.max(np.abs(off)) == most
    assert len(np.unique(off, axis=0)) == (1 if charge == 3 else 2)


def test_every_walker_draws_its_spins():
    """Four hydrogen atoms in a chain: two of them have a spin-up electron, any two, as
    often as others. A chi-square test at 0.1 %."""
    crystal = eqs.Crystal.hydrogen_chain(spacing=3.0, vacuum=9.0, atoms=4, unit="bohr")
    counts = _counts(crystal, 600)
    assert np.all(counts.sum(axis=1) == 1)
    _, found = np.unique(counts[:, 0], axis=0, return_counts=True)
    assert len(found) == 6
    assert scipy.stats.chisquare(found).pvalue > 1e-3


def test_clouds():
    """Normal around the nucleus, and different electrons of a spin at it in different
    walkers. Tests with 0.1 and twice 0.006 % false alarms among keys."""
    crystal = eqs.Crystal.rock_salt("Li", "H", a=7.7, unit="bohr")
    first, other, again = (
        np.asarray(eqs.initial_walkers(crystal, 500, key=jax.random.key(k), spread=0.1))
        for k in (0, 1, 0)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.any(first == other)
    distance = np.linalg.norm(first[:, :, None] - crystal.cart_positions, axis=-1)
    nearest = crystal.cart_positions[np.argmin(distance, axis=-1)]
    law = scipy.stats.norm(scale=0.1).cdf
    assert scipy.stats.kstest(np.ravel(first - nearest), law).pvalue > 1e-3
    # A pair at lithium, and the spins of its third electron and of the one at hydrogen
    # are opposite: of each spin, one or two electrons are at lithium.
    at_lithium = (np.argmin(distance, axis=-1) == 0).reshape(-1, 2, 2)
    up, down = np.moveaxis(at_lithium.sum(axis=2), 1, 0)
    assert np.all(up + down == 3)
    assert abs(np.mean(up == 2) - 0.5) < 4 * 0.5 / np.sqrt(500)
    single = np.concatenate([at_lithium[up == 1, 0], at_lithium[down == 1, 1]])
    assert abs(np.mean(single[:, 0]) - 0.5) < 4 * 0.5 / np.sqrt(500)


def test_refuses_no_walkers():
    with pytest.raises(ValueError, match="`count` must be at least 1 walker, got 0"):
        eqs.initial_walkers(hydrogen(), 0, key=jax.random.key(0))
