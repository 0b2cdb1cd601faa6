"""Strategies of training: what is sampled, which batch, at which price, and when."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

import eqsym as eqs
import flags
from eqsym._symmetrizer import SubsetAverage
from eqsym._training.strategy import NoState
from toys import Cut, grid, hydrogen, Lattice, walkers, waves


_CRYSTAL = hydrogen()
_GROUP = eqs.SpaceGroup.of(_CRYSTAL)
_SKEW = waves(_CRYSTAL, a=(0.3, 0.2, -0.1), c=(0.2, -0.1, 0.3))
_STRATEGIES = {
    "plain": eqs.PlainTraining(),
    "DA": eqs.AugmentedTraining(_GROUP, 2),
    "DA, unweighted": eqs.AugmentedTraining(_GROUP, 2, weighted=False),
    "GA": eqs.SymmetrizedTraining(
        eqs.GroupAverage(_GROUP), functools.partial(eqs.Symmetrized, operation_chunk=16)
    ),
    "GA, subset": eqs.SymmetrizedTraining(eqs.RandomSubset(_GROUP, 4)),
    "P": eqs.ProjectedTraining(eqs.GroupAverage(_GROUP)),
    "P, all amplitudes": eqs.ProjectedTraining(
        eqs.GroupAverage(_GROUP), orbit_points=48
    ),
}


def _vmc(strategy, optimizer=None, **kwargs):
    optimizer = eqs.Optax(optax.sgd(0.1)) if optimizer is None else optimizer
    return eqs.VMC(
        Lattice(_CRYSTAL),
        eqs.Metropolis(3, width=1.0),
        optimizer,
        strategy=strategy,
        **kwargs,
    )


def _state(vmc, wavefunction=_SKEW, count=12, seed=0):
    return vmc.init(
        wavefunction, walkers(_CRYSTAL, count, seed), key=jax.random.key(seed)
    )


@functools.cache
def _stepped(name):
    vmc = _vmc(_STRATEGIES[name])
    state = _state(vmc)
    return vmc, state, *eqx.filter_jit(vmc.step)(state)


@pytest.mark.parametrize("name", _STRATEGIES)
def test_parameters_are_those_of_the_bare_function(name):
    _, state, following, seen = _stepped(name)
    assert jax.tree.structure(following) == jax.tree.structure(state)
    assert isinstance(following.wavefunction, type(_SKEW))
    assert np.any(following.wavefunction.a != state.wavefunction.a)
    assert seen.invalid_energies == seen.dropped_terms == seen.rejected_update == 0


@pytest.mark.parametrize("name", ["DA", "P"])
def test_walkers_without_a_weight_are_left_out(name):
    """Where an image of them has no amplitude."""
    vmc = _vmc(_STRATEGIES[name])
    start = Cut(_SKEW)
    state = _state(vmc, start, 60)
    following, seen = eqx.filter_jit(vmc.step)(state)
    batch = eqx.filter_jit(_STRATEGIES[name].batch)(
        start, following.sampler.walkers, following.strategy
    )
    missing = ~np.isfinite(batch.weights)
    assert seen.invalid_energies == np.sum(missing) and 0 < np.sum(missing) < len(
        missing
    )
    assert seen.rejected_update == 0
    for value in jax.tree.leaves((seen, following.wavefunction.inside.a)):
        assert np.all(np.isfinite(value))
    assert np.any(following.wavefunction.inside.a != _SKEW.a)


@pytest.mark.parametrize("name", ["GA", "GA, subset"])
def test_symmetrized_step_is_the_step_of_the_symmetrized_function(name):
    """The walkers, energies and update of training the drawn function itself; one draw
    serves all of them."""
    vmc, state, following, seen = _stepped(name)
    drawn = following.strategy
    view = eqs.Symmetrized(_SKEW, drawn.symmetrizer)
    plain = _vmc(None)
    start = eqx.tree_at(
        lambda s: (s.wavefunction, s.strategy, s.sampler),
        plain.init(view, walkers(_CRYSTAL, 12), key=jax.random.key(1)),
        (view, NoState(), state.sampler),
    )
    expected, statistics = eqx.filter_jit(plain.step)(start)
    np.testing.assert_allclose(following.sampler.walkers, expected.sampler.walkers)
    for one, other in zip(
        jax.tree.leaves(seen), jax.tree.leaves(statistics), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    trained = expected.wavefunction.wavefunction
    np.testing.assert_allclose(following.wavefunction.a, trained.a, rtol=1e-9)
    np.testing.assert_allclose(following.wavefunction.c, trained.c, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), replace=st.booleans())
def test_draws(seed, replace):
    key = jax.random.key(seed)
    subset = eqs.RandomSubset(_GROUP, 30, replace=replace).draw(key)
    assert subset.operations.shape == (30,)
    if not replace:
        assert len(set(subset.operations.tolist())) == 30
    assert set(subset.operations.tolist()) <= set(range(_GROUP.order))
    x = walkers(_CRYSTAL, 1, seed)[0]
    orbit = subset.orbit(x)
    np.testing.assert_allclose(jnp.sum(orbit.weights), 1)
    np.testing.assert_allclose(
        orbit.images, _GROUP.apply_inverse(x)[subset.operations], atol=1e-12
    )


def test_subsets_average_to_the_group():
    """Over all draws of one operation without replacement the mean of P f is that over
    the group; each operation is drawn, at a rate that a chi-square test with error rate
    1e-4 accepts."""
    random = eqs.RandomSubset(_GROUP, 1)
    keys = jax.random.split(jax.random.key(0), 4800)
    drawn = jax.vmap(lambda key: random.draw(key).operations[0])(keys)
    counts = np.bincount(np.asarray(drawn), minlength=_GROUP.order)
    assert np.sum((counts - 100) ** 2 / 100) < scipy.stats.chi2.isf(1e-4, 47)
    x = walkers(_CRYSTAL, 1)[0]

    @jax.jit
    @jax.vmap
    def of_one(i):
        return eqs.Symmetrized(_SKEW, SubsetAverage(_GROUP, i[None]))(x).log

    values = np.exp(of_one(jnp.arange(_GROUP.order)))
    whole = eqx.filter_jit(eqs.Symmetrized(_SKEW, eqs.GroupAverage(_GROUP)))(x)
    np.testing.assert_allclose(np.mean(values), np.exp(whole.log))


def test_every_step_has_a_new_draw():
    vmc, state, following, _ = _stepped("GA, subset")
    again, _ = eqx.filter_jit(vmc.step)(following)
    draws = [
        s.strategy.symmetrizer.operations.tolist() for s in (state, following, again)
    ]
    assert draws[0] != draws[1] != draws[2]
    # Drawn before the step, so that what its walkers were sampled from is on record.
    drawn = following.strategy
    view = vmc.strategy.view(_SKEW, drawn)
    expected = eqx.filter_jit(vmc.sampler.step)(view, state.sampler)
    np.testing.assert_allclose(following.sampler.walkers, expected.walkers)


@pytest.mark.parametrize("replace", [False, True])
def test_augmented_batch(replace):
    strategy = eqs.AugmentedTraining(_GROUP, 5, replace=replace, chunk=4)
    state = strategy.init(_SKEW, key=jax.random.key(3))
    x = walkers(_CRYSTAL, 8)
    batch = jax.jit(strategy.batch)(_SKEW, x, state)
    assert batch.walkers.shape == (40, 1, 3)
    orbits = jax.jit(jax.vmap(_GROUP.apply))(x)
    amplitudes = np.exp(2 * jax.jit(jax.vmap(jax.vmap(_SKEW)))(orbits).log)
    own = np.exp(2 * jax.jit(jax.vmap(_SKEW))(batch.walkers).log)
    for i, image in enumerate(np.asarray(batch.walkers)):
        orbit = np.asarray(orbits)[i // 5]
        assert np.min(np.max(np.abs(orbit - image), axis=(1, 2))) < 1e-12
        weight = own[i] / np.mean(amplitudes[i // 5])
        np.testing.assert_allclose(batch.weights[i], weight)
    images = np.asarray(batch.walkers).reshape(8, 5, 3)
    distinct = [len(np.unique(np.round(some, 9), axis=0)) for some in images]
    assert replace == any(n < 5 for n in distinct)
    bare = eqs.AugmentedTraining(_GROUP, 5, replace=replace, weighted=False)
    unweighted = bare.batch(_SKEW, x, state)
    assert unweighted.weights is None
    np.testing.assert_array_equal(unweighted.walkers, batch.walkers)


def test_importance_weights_make_augmented_energies_variational():
    """By quadrature: moved walkers of |f|^2 with weights have the energy of f, without
    weights that of no function; here it is off by much."""
    places = grid(_CRYSTAL, 12)
    hamiltonian = Lattice(_CRYSTAL)
    local = jax.jit(jax.vmap(lambda x: hamiltonian.local_energy(_SKEW, x).total))

    @jax.jit
    @jax.vmap
    def on_orbit(x):
        # All images, which is what random ones are in the mean.
        images = _GROUP.apply(x)
        return _SKEW(x).log, jax.vmap(_SKEW)(images).log, local(images)

    log, logs, energies = map(np.asarray, on_orbit(places))
    density = np.exp(2 * log)
    density /= np.sum(density)
    energy = np.sum(density * np.asarray(local(places)))
    weights = np.exp(2 * logs)
    weights /= np.mean(weights, axis=1, keepdims=True)
    total = np.sum(density * np.mean(weights, axis=1))
    weighted = np.sum(density * np.mean(weights * energies, axis=1)) / total
    np.testing.assert_allclose(weighted, energy, rtol=1e-9)
    unweighted = np.sum(density * np.mean(energies, axis=1))
    assert abs(unweighted - energy) > 0.01

    # And the training step reports the weighted one, for any walkers.
    vmc, _, following, seen = _stepped("DA")
    strategy = vmc.strategy
    batch = eqx.filter_jit(strategy.batch)(
        _SKEW, following.sampler.walkers, following.strategy
    )
    expected = np.average(local(batch.walkers), weights=batch.weights)
    np.testing.assert_allclose(seen.energy, expected)
    share = np.sum(batch.weights) ** 2 / np.sum(batch.weights**2) / len(batch.weights)
    np.testing.assert_allclose(seen.effective_share, share)


@pytest.mark.parametrize("optimizer", ["sgd", "spring"])
def test_weighted_gradient(optimizer):
    """2 Re E_w[(O - <O>_w) (E - <E>_w)], from the definition."""
    rules = {
        "sgd": eqs.Optax(optax.sgd(1.0)),
        "spring": eqs.Spring.min_sr(1.0, norm_bound=1e9),
    }
    vmc = _vmc(_STRATEGIES["DA"], rules[optimizer], clip=1e9)
    state = _state(vmc)
    following, _ = eqx.filter_jit(vmc.step)(state)
    strategy = vmc.strategy
    batch = eqx.filter_jit(strategy.batch)(
        _SKEW, following.sampler.walkers, following.strategy
    )
    shares = np.asarray(batch.weights / jnp.sum(batch.weights))
    local = lambda x: vmc.hamiltonian.local_energy(_SKEW, x).total
    energies = np.asarray(jax.jit(jax.vmap(local))(batch.walkers))

    def rows(parameters):
        a, c = parameters
        f = eqx.tree_at(lambda f: (f.a, f.c), _SKEW, (a, c))
        return jax.vmap(f)(batch.walkers).log

    scores = np.concatenate(jax.jit(jax.jacrev(rows))((_SKEW.a, _SKEW.c)), axis=1)
    centered = scores - shares @ scores
    residual = energies - shares @ energies
    update = -2 * centered.T @ (shares * residual)
    if optimizer == "spring":
        rooted = np.sqrt(shares)[:, None] * centered
        gram = rooted.T @ rooted
        shift = 1e-3 + np.finfo(float).eps * np.trace(gram)
        update = np.linalg.solve(gram + shift * np.eye(6), update / 2)
    found = np.concatenate(
        [following.wavefunction.a - _SKEW.a, following.wavefunction.c - _SKEW.c]
    )
    np.testing.assert_allclose(found, update, rtol=1e-6)


def test_another_strategy_adopts_the_state():
    """Walkers, optimizer and parameters go on; the strategy draws by its own key."""
    spring = eqs.Spring(0.1, norm_bound=1e-2)
    plain, average = (
        _vmc(_STRATEGIES[name], spring) for name in ("plain", "GA, subset")
    )
    state, _ = eqx.filter_jit(plain.step)(_state(plain))
    key = jax.random.key(7)
    adopted = average.adopt(state, key=key)
    drawn = average.strategy.init(_SKEW, key=key)
    assert eqx.tree_equal(adopted.strategy, drawn)
    for name in ("wavefunction", "sampler", "optimizer", "step", "scale"):
        assert getattr(adopted, name) is getattr(state, name)
    following, seen = eqx.filter_jit(average.step)(adopted)
    assert (int(following.step), int(following.optimizer.count)) == (2, 2)
    assert seen.rejected_update == 0
    back = plain.adopt(following, key=key)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    other = eqs.SpaceGroup.of(hydrogen(supercell=(2, 1, 1)))
    with pytest.raises(ValueError, match="crystal"):
        _vmc(eqs.AugmentedTraining(other)).adopt(state, key=key)


def test_equilibration_samples_what_is_trained():
    vmc, state, _, _ = _stepped("GA")
    moved = eqx.filter_jit(vmc.equilibrate)(state)
    view = eqs.Symmetrized(_SKEW, eqs.GroupAverage(_GROUP))
    expected = eqx.filter_jit(vmc.sampler.step)(view, state.sampler)
    np.testing.assert_allclose(moved.sampler.walkers, expected.walkers)
    np.testing.assert_array_equal(moved.wavefunction.a, state.wavefunction.a)
    assert int(moved.step) == 0


def test_cost():
    costs = {name: s.cost(moves=10) for name, s in _STRATEGIES.items()}
    assert costs == {
        "plain": eqs.Cost(11, 1, 1),
        "DA": eqs.Cost(11 + 48, 2, 2),
        "DA, unweighted": eqs.Cost(11, 2, 2),
        "GA": eqs.Cost(11 * 48, 48, 48),
        "GA, subset": eqs.Cost(11 * 4, 4, 4),
        "P": eqs.Cost(11 + 2, 2, 2),
        "P, all amplitudes": eqs.Cost(11 + 48, 2, 2),
    }
    domain = eqs.FundamentalDomain.of(_GROUP)
    some = eqs.SymmetrizedTraining(eqs.Canonicalization(domain, max_terms=5))
    assert some.cost(10) == eqs.Cost(55, 5, 5)
    one = eqs.SymmetrizedTraining(eqs.RandomCanonicalization(domain))
    assert one.cost(10) == eqs.Cost(11, 1, 1)


def test_dropped_images_are_counted():
    domain = eqs.FundamentalDomain.of(_GROUP)
    symmetrizer = eqs.Canonicalization(domain, max_terms=1)
    vmc = _vmc(eqs.SymmetrizedTraining(symmetrizer))
    following, seen = eqx.filter_jit(vmc.step)(_state(vmc))
    weights = jax.jit(jax.vmap(symmetrizer.weights))(following.sampler.walkers)
    assert seen.dropped_terms == np.sum(np.asarray(weights) > 0) - 12 > 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: eqs.AugmentedTraining(_GROUP, 0),
            "`copies` must be at least 1, got 0",
        ),
        (
            lambda: eqs.AugmentedTraining(_GROUP, 49),
            "`copies` must be at most the 48 operations",
        ),
        (
            lambda: eqs.AugmentedTraining(_GROUP, chunk=0),
            "`chunk` must be at least 1 walker",
        ),
        (lambda: eqs.RandomSubset(_GROUP, 0), "`size` must be at least 1, got 0"),
        (lambda: eqs.RandomSubset(_GROUP, 49), "`size` must be at most the 48"),
        (
            lambda: eqs.SymmetrizedOrbitals(_SKEW, eqs.GroupAverage(_GROUP)),
            "averages the orbitals of a network .* got the wave function `Waves`",
        ),
    ],
)
def test_errors(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


@pytest.mark.parametrize(
    "strategy",
    [
        lambda group: eqs.AugmentedTraining(group),
        lambda group: eqs.ProjectedTraining(eqs.GroupAverage(group)),
        lambda group: eqs.SymmetrizedTraining(eqs.GroupAverage(group)),
        lambda group: eqs.SymmetrizedTraining(eqs.RandomSubset(group, 2)),
    ],
)
def test_a_group_of_another_crystal_is_refused(strategy):
    other = eqs.Crystal.bcc("H", a=5.0, unit="bohr")
    vmc = _vmc(strategy(eqs.SpaceGroup.of(other)))
    with pytest.raises(ValueError, match="of `lattice` differs by"):
        _state(vmc)


def test_random_parts_of_a_group_that_leaves_nothing_are_refused():
    """Twisted so that the primitive translations in the supercell are -1."""
    crystal = hydrogen(supercell=(2, 1, 1), twist=(0.5, 0, 0))
    group = eqs.SpaceGroup.of(crystal).with_translations()

    class Twisted(eqs.AbstractWavefunction):
        crystal: eqs.Crystal
        a: jax.Array

        @property
        def crystal_momentum(self):
            return 0.5 * self.crystal.lattice.reciprocal[0]

        def __call__(self, electrons):
            return eqs.LogPsi(jnp.ones(()), jnp.sum(self.a * electrons))

    wavefunction = Twisted(crystal, jnp.ones(3))
    for symmetrizer in (
        eqs.GroupAverage(group),
        eqs.RandomSubset(group, 2),
        eqs.RandomCanonicalization(eqs.FundamentalDomain.of(group)),
    ):
        with pytest.raises(ValueError, match="zero everywhere"):
            eqs.SymmetrizedTraining(symmetrizer).init(
                wavefunction, key=jax.random.key(0)
            )


def _symmetrizations(group):
    domain = eqs.FundamentalDomain.of(group)
    canonical = eqs.Canonicalization(domain, max_terms=2)
    # Of the whole group, an untrained network has too small an invariant part for four
    # walkers to see it. Of two operations both are seen.
    inversion = np.flatnonzero(np.trace(group.frac_rotations, axis1=1, axis2=2) == -3)
    return {
        "DA": eqs.AugmentedTraining(group, 2),
        "GA": eqs.SymmetrizedTraining(
            eqs.GroupAverage(group),
            functools.partial(eqs.Symmetrized, operation_chunk=4),
        ),
        "GA, subset": eqs.SymmetrizedTraining(eqs.RandomSubset(group, 2)),
        "P": eqs.ProjectedTraining(eqs.GroupAverage(group.generated_by(inversion))),
        "SC": eqs.SymmetrizedTraining(canonical),
        "SC, random": eqs.SymmetrizedTraining(eqs.RandomCanonicalization(domain)),
    }


@pytest.mark.slow
def test_networks_train_with_every_strategy():
    """A few steps of a small network with each: finite, no update rejected, and the
    parameters change."""
    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    group = eqs.SpaceGroup.of(crystal)
    gamma = eqs.Occupation(tuple(np.zeros((n, 3)) for n in crystal.electrons))
    network = eqs.SolidNet(
        crystal, gamma, widths=((8, 3),), determinants=1, key=jax.random.key(0)
    )
    x = eqs.initial_walkers(crystal, 4, key=jax.random.key(1))
    for label, strategy in _symmetrizations(group).items():
        vmc = eqs.VMC(
            eqs.Hamiltonian(crystal),
            eqs.Metropolis(2),
            eqs.Spring(0.05),
            strategy=strategy,
        )
        state = vmc.init(network, x, key=jax.random.key(2))
        # So short a training is compilation.
        step = eqx.filter_jit(vmc.step, compiler_options=flags.options())
        for _ in range(2):
            state, seen = step(state)
            assert np.isfinite(seen.energy), label
            assert seen.rejected_update == 0, label
        weights = state.wavefunction.layers[0].own.weight
        assert np.any(weights != network.layers[0].own.weight), label
