"""KFAC against dense Fisher matrices, and against what SPRING reaches."""

import itertools

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._wavefunction.linear import Linear
from toys import hydrogen, walkers


class OneLayer(eqs.AbstractWavefunction):
    """A layer of which inputs depend on one electron and, if there is one row, what its
    outputs are multiplied with on the other: independent, if the electrons are. The
    other parameters are summed with functions of both."""

    crystal: eqs.Crystal
    layer: Linear
    others: jax.Array
    is_complex: bool = eqx.field(static=True)

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
        return factors @ jnp.sum(z, axis=0)

    def __call__(self, electrons):
        w = self.angles(electrons)
        values = self.components(self.layer(self.inputs(electrons)), electrons)
        log = values[0] + jnp.sum(jnp.cos(w) @ self.others)
        if not self.is_complex:
            return eqs.LogPsi(jnp.ones(()), log)
        phase = values[1] + jnp.sum(jnp.sin(w) @ self.others)
        return eqs.LogPsi(jax.lax.complex(jnp.cos(phase), jnp.sin(phase)), log)


def _one_layer(rows, is_complex, use_bias):
    layer = Linear(4, 3, rows=rows, scale=0.4, use_bias=use_bias, key=jax.random.key(1))
    crystal = hydrogen(supercell=(2, 1, 1))
    return OneLayer(crystal, layer, jnp.asarray([0.1, -0.2, 0.3]), is_complex)


def _independent(crystal):
    """All pairs of places of the two electrons."""
    places = np.asarray(walkers(crystal, 6)[:, 0])
    return jnp.asarray(list(itertools.product(places, places)))


def _residual(is_complex, size, seed=0):
    rng = np.random.default_rng(seed)
    energies = rng.normal(size=size) + 1j * is_complex * rng.normal(size=size)
    energies = energies if is_complex else energies.real
    return (energies - energies.mean()) / np.sqrt(size)


def _flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def _dense(wavefunction, places):
    """The centered score matrix, real parts first."""
    parameters, rest = eqs.partition(wavefunction)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)

    def rows(flat):
        psi = jax.vmap(eqs.combine(unravel(flat), rest))(places)
        return jnp.stack([psi.log] if psi.is_real else [psi.log, psi.phase])

    jacobian = np.asarray(jax.jacrev(rows)(flat))
    centered = jacobian - np.mean(jacobian, axis=1, keepdims=True)
    return centered.reshape(-1, flat.size) / np.sqrt(len(places))


def _stacked(values):
    return np.concatenate([values.real, values.imag][: 1 + np.iscomplexobj(values)])


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("is_complex", [False, True])
def test_natural_gradient_where_the_factors_are_exact(is_complex, use_bias):
    """One row whose inputs and cotangents are independent: the inverse of the Fisher
    matrix itself, block by block."""
    wavefunction = _one_layer(1, is_complex, use_bias)
    places = _independent(wavefunction.crystal)
    residual = _residual(is_complex, len(places))
    dense = _dense(wavefunction, places)
    gradient = dense.T @ _stacked(residual)
    fisher = dense.T @ dense
    size = wavefunction.others.size
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
        np.testing.assert_allclose(_flat(update), wanted, rtol=1e-4)


def _moments(wavefunction, places):
    """Martens, Grosse (2015), (1) and Grosse, Martens (2016), theorem 1: by loops."""
    rows = wavefunction.layer.rows
    inputs, cotangents, mean = 0, 0, 0
    for electrons in places:
        a = wavefunction.inputs(electrons)
        d = jax.jacobian(wavefunction.components)(wavefunction.layer(a), electrons)
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
    seen, others, size = [], [], wavefunction.others.size
    for n in range(3):
        places = walkers(wavefunction.crystal, 12, seed=n)
        residual = _residual(is_complex, 12, n)
        dense = _dense(wavefunction, places)
        gradient = dense.T @ _stacked(residual)
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
        np.testing.assert_allclose(_flat(update), expected, rtol=1e-7)
        parameters, rest = eqs.partition(wavefunction)
        wavefunction = eqs.combine(eqx.apply_updates(parameters, update), rest)
