"""KFAC against dense Fisher matrices, and against what SPRING reaches."""

import dataclasses
import functools
import itertools
from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._training import kfac
from eqsym._training.optimizer import factorized
from eqsym._wavefunction.linear import Linear
from toys import dense_scores, flat, hydrogen, Lattice, stacked, walkers, waves


_OTHERS = np.array([0.1, -0.2, 0.3])


class OneLayer(eqs.AbstractWavefunction):
    """A layer of which inputs depend on one electron and, if there is one row, what its
    outputs are multiplied with on the other: independent, if the electrons are. The
    other parameters are summed with functions of both."""

    crystal: eqs.Crystal
    layer: Linear
    others: jax.Array | None
    is_complex: bool = eqx.field(static=True)
    size: float = 1.0

    @property
    def crystal_momentum(self):
        return None

    def angles(self, electrons):
        return electrons @ jnp.asarray(self.crystal.lattice.reciprocal).T

    def inputs(self, electrons):
        w = self.angles(electrons)[: self.layer.rows]
        return jnp.concatenate([1 + jnp.cos(w), jnp.sin(w)[:, :1]], axis=1)

    def components(self, z, electrons):
        w = self.angles(electrons)[-1]
        factors = jnp.stack([0.3 + jnp.sin(w), 0.1 - jnp.cos(w)])[: 1 + self.is_complex]
        if self.layer.rows > 1:
            z = jnp.tanh(z)
        return self.size * (factors @ jnp.sum(z, axis=0))

    def __call__(self, electrons):
        w = self.angles(electrons)
        others = jnp.zeros(3) if self.others is None else self.others
        values = self.components(self.layer(self.inputs(electrons)), electrons)
        log = values[0] + jnp.sum(jnp.cos(w) @ others)
        if not self.is_complex:
            return eqs.LogPsi(jnp.ones(()), log)
        phase = values[1] + jnp.sum(jnp.sin(w) @ others)
        return eqs.LogPsi(jax.lax.complex(jnp.cos(phase), jnp.sin(phase)), log)


def _one_layer(rows, is_complex, use_bias):
    layer = Linear(4, 3, rows=rows, scale=0.4, use_bias=use_bias, key=jax.random.key(1))
    crystal = hydrogen(supercell=(2, 1, 1))
    return OneLayer(crystal, layer, jnp.asarray(_OTHERS), is_complex)


def _independent(crystal):
    """All pairs of places of the two electrons."""
    places = np.asarray(walkers(crystal, 6)[:, 0])
    return jnp.asarray(list(itertools.product(places, places)))


def _residual(is_complex, size, seed=0):
    rng = np.random.default_rng(seed)
    energies = rng.normal(size=size) + 1j * is_complex * rng.normal(size=size)
    energies = energies if is_complex else energies.real
    return (energies - energies.mean()) / np.sqrt(size)


@pytest.mark.parametrize(("is_complex", "use_bias"), [(False, True), (True, False)])
def test_natural_gradient_where_the_factors_are_exact(is_complex, use_bias):
    """One row whose inputs and cotangents are independent: the inverse of the Fisher
    matrix itself, block by block."""
    wavefunction = _one_layer(1, is_complex, use_bias)
    places = _independent(wavefunction.crystal)
    residual = _residual(is_complex, len(places))
    dense = dense_scores(wavefunction, places)
    gradient = dense.T @ stacked(residual)
    fisher = dense.T @ dense
    size = _OTHERS.size
    fisher[:-size, -size:] = fisher[-size:, :-size] = 0
    assert np.linalg.cond(fisher) < 1e6
    expected = -0.1 * np.linalg.solve(fisher, gradient)
    scores = eqs.Scores(wavefunction, places)
    for bound in (1e6, 1e-3):
        optimizer = eqs.Kfac(0.1, damping=1e-16, norm_bound=bound, chunk=10)
        state = optimizer.init(scores.parameters)
        update, _ = eqx.filter_jit(optimizer.step)(scores, jnp.asarray(residual), state)
        squared = expected @ fisher @ expected
        assert 1e-3 < squared < 1e6
        wanted = expected * min(1, np.sqrt(bound / squared))
        np.testing.assert_allclose(flat(update), wanted, rtol=1e-4)


@eqx.filter_jit
def _factors(wavefunction, electrons):
    a = wavefunction.inputs(electrons)
    return a, jax.jacobian(wavefunction.components)(wavefunction.layer(a), electrons)


def _moments(wavefunction, places):
    """Martens, Grosse (2015), (1) and Grosse, Martens (2016), theorem 1: by loops."""
    rows = wavefunction.layer.rows
    inputs, cotangents, mean = 0, 0, 0
    for electrons in places:
        a, d = (np.asarray(x) for x in _factors(wavefunction, electrons))
        for i in range(rows):
            one = np.append(a[i], 1)
            inputs += np.outer(one, one) / rows / len(places)
            for c in range(len(d)):
                cotangents += np.outer(d[c, i], d[c, i]) / len(places)
        mean += np.sum(d, axis=1) / np.sqrt(rows) / len(places)
    return inputs, cotangents, mean


@pytest.mark.parametrize("is_complex", [False, True])
def test_moving_averages_and_damping(is_complex):
    """Two rows, over several steps, with all matrices written down."""
    decay, damping, rate = 0.8, 1e-2, 0.1
    optimizer = eqs.Kfac(
        optax.exponential_decay(rate, 1, 0.5),
        decay=decay,
        damping=damping,
        norm_bound=optax.exponential_decay(1e-3, 1, 0.25),
    )
    wavefunction = _one_layer(2, is_complex, True)
    state = optimizer.init(eqs.partition(wavefunction)[0])
    step = eqx.filter_jit(optimizer.step)
    seen, others, size = [], [], _OTHERS.size
    for n in range(3):
        places = walkers(wavefunction.crystal, 12, seed=n)
        residual = _residual(is_complex, 12, n)
        dense = dense_scores(wavefunction, places)
        gradient = dense.T @ stacked(residual)
        seen.append(_moments(wavefunction, places))
        others.append((dense.T @ dense)[-size:, -size:])
        weights = decay ** np.arange(n, -1, -1)
        a, g, mean = (
            np.average(x, axis=0, weights=weights) for x in zip(*seen, strict=True)
        )
        pi = np.sqrt(np.trace(a) / len(a) / (np.trace(g) / len(g)))
        metric = np.kron(
            g + np.sqrt(damping) / pi * np.eye(len(g)),
            a + np.sqrt(damping) * pi * np.eye(len(a)),
        )
        for one in mean:
            u = np.kron(one, a[-1])
            metric -= np.outer(u, u)
        weight, bias = np.split(gradient[:-size], [12])
        both = np.concatenate([weight.reshape(3, 4), bias[:, None]], axis=1)
        found = np.linalg.solve(metric, both.reshape(-1)).reshape(3, 5)
        block = np.average(others, axis=0, weights=weights) + damping * np.eye(size)
        direction = np.concatenate(
            [
                found[:, :-1].reshape(-1),
                found[:, -1],
                np.linalg.solve(block, gradient[-size:]),
            ]
        )
        largest = np.sqrt(1e-3 * 0.25**n / (direction @ gradient))
        expected = -min(rate * 0.5**n, largest) * direction
        update, state = step(
            eqs.Scores(wavefunction, places), jnp.asarray(residual), state
        )
        np.testing.assert_allclose(flat(update), expected, rtol=1e-7)
        parameters, rest = eqs.partition(wavefunction)
        wavefunction = eqs.combine(eqx.apply_updates(parameters, update), rest)


def _updates(wavefunction, optimizer, steps=2):
    """Of the walkers of `toys`, whose residuals are real."""
    scores = eqs.Scores(wavefunction, walkers(wavefunction.crystal, 12))
    state, found = optimizer.init(scores.parameters), []
    step = eqx.filter_jit(optimizer.step)
    for seed in range(steps):
        residual = jnp.asarray(_residual(not scores.is_real, 12, seed))
        update, state = step(scores, residual, state)
        found.append(flat(update))
    return np.array(found), state


def test_diagonal_of_many_parameters(monkeypatch):
    wavefunction = _one_layer(1, False, True)
    places, residual = walkers(wavefunction.crystal, 12), _residual(False, 12)
    dense = dense_scores(wavefunction, places)[:, -3:]
    monkeypatch.setattr(kfac, "_LARGEST_BLOCK", 2)
    found, state = _updates(wavefunction, eqs.Kfac(0.1, norm_bound=1e6), steps=1)
    assert state.others.shape == (3,)
    expected = -0.1 * (dense.T @ residual) / (np.sum(dense**2, axis=0) + 1e-3)
    np.testing.assert_allclose(found[0, -3:], expected, rtol=1e-7)


def test_no_other_parameters():
    """Neither with a layer that nothing depends on, which stays as it is."""
    wavefunction = _one_layer(2, False, True)
    without = dataclasses.replace(wavefunction, others=None)
    found, state = _updates(without, eqs.Kfac())
    assert state.others.shape == (0, 0)
    assert np.all(np.linalg.norm(found, axis=1) > 0)
    # The layer does not see the others.
    optimizer = eqs.Kfac(norm_bound=1e6)
    expected = _updates(wavefunction, optimizer)[0][:, :-3]
    np.testing.assert_allclose(_updates(without, optimizer)[0], expected)
    dead = dataclasses.replace(without, size=0.0)
    np.testing.assert_array_equal(_updates(dead, eqs.Kfac())[0], 0)


def test_no_residual_no_step():
    wavefunction = _one_layer(1, False, True)
    scores = eqs.Scores(wavefunction, walkers(wavefunction.crystal, 12))
    optimizer = eqs.Kfac()
    update, _ = eqx.filter_jit(optimizer.step)(
        scores, jnp.zeros(12), optimizer.init(scores.parameters)
    )
    np.testing.assert_array_equal(flat(update), 0)


def test_singular_factors_in_single_precision():
    """Four equal inputs of thousands: what rounding makes of their products is not
    positive, and what is added grows until it is."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, 1)) * np.ones(300) + 1e-6 * rng.normal(size=300)
    noise = rng.normal(size=(300, 300))
    matrix = 1e8 * (vectors @ vectors.T / 300 - 1e-5 * (noise + noise.T))
    single = jnp.asarray(matrix, jnp.float32)
    shift = np.finfo(np.float32).eps * np.trace(matrix)

    @jax.jit
    def factors(x):
        def shifts(tries):
            return [jnp.full((1, 1), shift, x.dtype) * 10.0 ** tries.astype(x.dtype)]

        return factorized([x[None]], shifts)

    ((factor,),), retries = factors(single)
    assert 1 <= retries <= 8
    shift *= 10.0 ** int(retries)
    np.testing.assert_allclose(
        factor @ factor.T, matrix + shift * np.eye(300), atol=1e-6 * np.trace(matrix)
    )


@pytest.mark.slow
def test_resumed_bit_for_bit(tmp_path):
    wavefunction = _one_layer(2, False, True)
    vmc = eqs.VMC(Lattice(wavefunction.crystal), eqs.Metropolis(1), eqs.Kfac(), chunk=4)
    run = functools.partial(
        eqs.run,
        vmc,
        wavefunction,
        walkers=walkers(wavefunction.crystal, 12),
        key=jax.random.key(1),
        progress=False,
    )
    run(steps=2, path=tmp_path)
    states: Any = run(steps=4, path=tmp_path).state, run(steps=4).state
    found, expected = states
    assert (expected.step, expected.optimizer.count) == (4, 4)
    for x, y in zip(
        *(jax.tree.leaves((s.wavefunction, s.optimizer)) for s in (found, expected)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_what_is_not_finite_is_not_kept():
    """The step is rejected without more tries, and the moments stay what they were."""
    wavefunction = _one_layer(1, False, True)
    places = walkers(wavefunction.crystal, 12)
    vmc = eqs.VMC(Lattice(wavefunction.crystal), eqs.Metropolis(1), eqs.Kfac())
    state = vmc.init(wavefunction, places, key=jax.random.key(0), check=False)
    step = eqx.filter_jit(vmc.step)
    after, statistics = step(state)
    assert (statistics.rejected_update, statistics.solver_retries) == (0, 0)
    assert np.any(flat(after.wavefunction) != flat(wavefunction))
    infinite = jnp.full_like(after.optimizer.others, np.inf)
    bad = eqx.tree_at(lambda s: s.optimizer.others, after, infinite)
    last, statistics = step(bad)
    assert (statistics.rejected_update, statistics.solver_retries) == (1, 0)
    np.testing.assert_array_equal(flat(last.wavefunction), flat(after.wavefunction))
    np.testing.assert_array_equal(
        last.optimizer.layers[0].inputs, after.optimizer.layers[0].inputs
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(decay=1.0), r"`decay` must be in \[0, 1\), got 1.0"),
        (dict(decay="0.9"), "`decay` must be a number, at least 0"),
        (dict(damping=0.0), "`damping` must be positive, got 0.0"),
        (dict(norm_bound=0.0), "`norm_bound` must be positive"),
        (dict(norm_bound=None), "`norm_bound` must be a number, or a function"),
        (dict(learning_rate=-0.1), "`learning_rate` must not be negative"),
        (dict(chunk=0), "`chunk` must be at least 1"),
    ],
)
def test_settings(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        eqs.Kfac(**change)


def test_wave_functions_without_layers():
    """Told before anything is computed, and what to do instead."""
    crystal = hydrogen()
    group = eqs.SpaceGroup(crystal, [np.eye(3), -np.eye(3)], np.zeros((2, 3)))
    average = eqs.SymmetrizedTraining(eqs.GroupAverage(group))
    places, key = walkers(crystal, 4), jax.random.key(0)
    plain = eqs.VMC(Lattice(crystal), eqs.Metropolis(1), eqs.Kfac())
    message = r"linear layers .* got none in a Waves. (.|\n)*Use `eqs.Spring\(\)`"
    with pytest.raises(ValueError, match=message):
        plain.init(waves(crystal), places, key=key)
    with pytest.raises(ValueError, match=message):
        eqs.Kfac().init(eqs.partition(waves(crystal))[0])

    layer = Linear(4, 3, rows=1, scale=0.4, use_bias=True, key=key)
    network = OneLayer(crystal, layer, None, False)
    message = "must not be `Kfac` if another function .* Use `eqs.Spring"
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plain, strategy=average).init(network, places, key=key)
    state = plain.init(network, places, key=key, check=False)
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(plain, strategy=average).adopt(state, key=key)
    with pytest.raises(ValueError, match=message):
        eqs.run(plain, network, steps=9, walkers=4, key=key, stages=[(5, average)])
    with pytest.raises(ValueError, match=message):
        optimizer: Any = eqs.Kfac()
        viewed = eqs.Scores(network, places, view=lambda f: f)
        optimizer.step(viewed, jnp.zeros(4), state.optimizer)
