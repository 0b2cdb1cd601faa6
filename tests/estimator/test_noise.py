"""Gradient noise: against the exact variance of sample covariances."""

import dataclasses

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float, Int

import eqsym as eqs
from toys import grid, hydrogen, Lattice, waves


class _State(eqs.AbstractSamplerState):
    walkers: Float[Array, "walkers electrons 3"]
    acceptance: Float[Array, ""]
    exchange_acceptance: Float[Array, ""]
    hop_acceptance: Float[Array, ""]
    replaced_walkers: Int[Array, ""]
    key: jax.Array


class Independent(eqs.AbstractSampler[_State]):
    """Independent draws of |psi|^2 among the points of a grid: walkers and quadrature
    on the same points have the same distribution exactly."""

    places: Float[Array, "points electrons 3"]

    def init(self, wavefunction, walkers, *, key):
        none = jnp.zeros(())
        return _State(walkers, jnp.ones(()), none, none, jnp.zeros((), int), key)

    def step(self, wavefunction, state):
        key, subkey = jax.random.split(state.key)
        log = 2 * jax.vmap(lambda x: wavefunction(x).log)(self.places)
        chosen = jax.random.categorical(subkey, log, shape=state.walkers.shape[:1])
        return eqx.tree_at(
            lambda s: (s.walkers, s.key), state, (self.places[chosen], key)
        )


CRYSTAL = hydrogen()
PLACES = grid(CRYSTAL, 6)
START = waves(c=(0.4, -0.1, 0.2))


def _vmc(optimizer=None, **kwargs):
    optimizer = eqs.Optax(optax.sgd(0.1)) if optimizer is None else optimizer
    return eqs.VMC(
        Lattice(CRYSTAL, depth=1.0),
        Independent(PLACES),
        optimizer,
        clip=1e9,
        **kwargs,
    )


def _state(vmc, count, wavefunction=START):
    return vmc.init(wavefunction, PLACES[:count], key=jax.random.key(0))


def _noise(vmc, count, *, seed=0, wavefunction=START, repeats=400):
    return eqs.gradient_noise(
        vmc,
        _state(vmc, count, wavefunction),
        key=jax.random.key(seed),
        repeats=repeats,
        spacing=0,
        burn_in=0,
    )


def _exact(wavefunction, count):
    """The gradient by quadrature, and the summed variances of its estimate 2 (n-1)/n
    s_i from n independent walkers, with the sample covariance s_i of score i and
    local energy: $Var[s] = \\mu_{22}/n - (n-2) \\mu_{11}^2 / (n (n-1)) +
    \\mu_{20} \\mu_{02} / (n (n-1))$ with central moments (Kendall and Stuart)."""
    local = lambda x: Lattice(CRYSTAL, depth=1.0).local_energy(wavefunction, x).total
    energy = jax.jit(jax.vmap(local))(PLACES)
    parameters, rest = eqs.partition(wavefunction)
    flat, unravel = jax.flatten_util.ravel_pytree(parameters)
    logs = lambda flat: jax.vmap(eqs.combine(unravel(flat), rest))(PLACES).log
    scores, log = jax.jit(lambda flat: (jax.jacrev(logs)(flat), logs(flat)))(flat)
    density = np.exp(2 * np.asarray(log))
    p = np.asarray(density / density.sum())
    e = np.asarray(energy.real) - p @ np.asarray(energy.real)
    o = np.asarray(scores) - p @ np.asarray(scores)
    covariance, n = p @ (o * e[:, None]), count
    variance = (
        p @ (o * e[:, None]) ** 2 / n
        - (n - 2) / (n * (n - 1)) * covariance**2
        + (p @ o**2) * (p @ e**2) / (n * (n - 1))
    )
    share = 2 * (n - 1) / n
    return np.linalg.norm(share * covariance), np.sum(share**2 * variance)


@pytest.mark.parametrize("count", [16, 64])
def test_deviation_of_the_gradient_is_exact(count):
    """Within 4 of its own standard errors, which are about 4 %: a wrong alarm once in
    15,000 keys."""
    norm, variance = _exact(START, count)
    found = _noise(_vmc(), count)
    assert (found.walkers, found.repeats, found.rejected) == (count, 400, 0)
    deviation = found.gradient.deviation
    assert 0.01 < deviation.error / deviation.mean < 0.08
    assert abs(deviation.mean - np.sqrt(variance)) < 4 * deviation.error
    assert abs(found.gradient.norm - norm) < 4 * np.sqrt(variance / 400)
    # Plain gradient descent: the update is the gradient times its rate.
    np.testing.assert_allclose(found.update.deviation.mean, 0.1 * deviation.mean)
    np.testing.assert_allclose(found.update.deviation.error, 0.1 * deviation.error)
    np.testing.assert_allclose(found.update.norm, 0.1 * found.gradient.norm)


def test_error_bars_are_as_wide_as_the_scatter():
    """Of 40 keys. The scatter of 40 numbers is known to 11 %: 40 % off once in 3000."""
    vmc = _vmc()
    found = [_noise(vmc, 16, seed=i, repeats=30).gradient for i in range(40)]
    scatter = np.std([f.deviation.mean for f in found], ddof=1)
    errors = np.sqrt(np.mean([f.deviation.error**2 for f in found]))
    assert 0.6 < scatter / errors < 1.4


def test_is_the_sample_variance_of_stored_updates():
    vmc = _vmc(eqs.Optax(optax.sgd(1.0)))
    found = _noise(vmc, 4, seed=3, repeats=5).update
    state = vmc.init(START, PLACES[:4], key=jax.random.key(3))
    step, vectors = eqx.filter_jit(vmc.step), []
    before = jax.flatten_util.ravel_pytree(eqs.partition(START)[0])[0]
    for _ in range(5):
        state, _ = step(state)
        after = eqs.partition(state.wavefunction)[0]
        vectors.append(jax.flatten_util.ravel_pytree(after)[0] - before)
        state = eqx.tree_at(lambda s: s.wavefunction, state, START)
    variance = np.sum(np.var(vectors, axis=0, ddof=1))
    np.testing.assert_allclose(found.deviation.mean, np.sqrt(variance), rtol=1e-9)
    square = np.sum(np.mean(vectors, axis=0) ** 2) - variance / 5
    np.testing.assert_allclose(found.norm, np.sqrt(square), rtol=1e-9)


def test_exact_eigenstate_has_no_noise():
    class Free(Lattice):
        """No potential: a constant is an eigenstate."""

        def local_energy(self, wavefunction, electrons, *, key=None):
            found = super().local_energy(wavefunction, electrons)
            return dataclasses.replace(found, potential=jnp.zeros(()))

    vmc = eqs.VMC(Free(CRYSTAL), Independent(PLACES), eqs.Spring.min_sr(0.1))
    constant = waves(a=(0, 0, 0), c=(0, 0, 0))
    found = eqs.gradient_noise(
        vmc,
        _state(vmc, 16, constant),
        key=jax.random.key(0),
        repeats=5,
        spacing=1,
        burn_in=1,
    )
    for scatter in (found.gradient, found.update):
        assert scatter.norm < 1e-12
        assert scatter.deviation.mean < 1e-12


def test_augmentation_with_images_lowers_the_noise_of_a_symmetric_function():
    """The images of walkers of a symmetric function are walkers of it. With all 48, the
    gradient is the average over the orbit, which has a smaller variance, and with one
    random image nothing changes."""
    wavefunction = waves(a=(0.5, 0.5, 0.5))
    group = eqs.SpaceGroup.of(CRYSTAL)
    _, variance = _exact(wavefunction, 16)
    plain = np.sqrt(variance)
    for copies, weighted in ((1, True), (48, False)):
        vmc = _vmc(strategy=eqs.AugmentedTraining(group, copies, weighted=weighted))
        found = _noise(vmc, 16, wavefunction=wavefunction, repeats=200)
        deviation = found.gradient.deviation
        if copies == 1:
            assert abs(deviation.mean - plain) < 4 * deviation.error
        else:
            assert deviation.mean < plain - 5 * deviation.error


def test_momentum_of_the_checkpoint_is_in_the_update_and_does_not_scatter():
    vmc = _vmc(eqs.Optax(optax.sgd(0.1, momentum=0.5)))
    state = _state(vmc, 16)
    # A direction of 6 parameters, each 100.
    state = eqx.tree_at(
        lambda s: s.optimizer, state, jax.tree.map(lambda x: x + 100, state.optimizer)
    )
    found = eqs.gradient_noise(
        vmc, state, key=jax.random.key(0), repeats=20, spacing=0, burn_in=0
    )
    np.testing.assert_allclose(
        found.update.deviation.mean, 0.1 * found.gradient.deviation.mean
    )
    expected = 0.1 * 0.5 * 100 * np.sqrt(6)
    assert abs(found.update.norm - expected) < 0.1 * found.gradient.norm + 0.1


class Holed(Lattice):
    """No local energy in a part of the cell."""

    def local_energy(self, wavefunction, electrons, *, key=None):
        found = super().local_energy(wavefunction, electrons)
        hole = electrons[0, 0] < 1
        return eqs.LocalEnergy(found.kinetic, jnp.where(hole, jnp.nan, found.potential))


def test_batches_without_a_gradient_are_counted():
    vmc = eqs.VMC(Holed(CRYSTAL), Independent(PLACES), eqs.Optax(optax.sgd(0.1)))
    state = _state(vmc, 1)
    settings = dict(key=jax.random.key(0), spacing=0, burn_in=0)
    found = eqs.gradient_noise(vmc, state, repeats=30, **settings)
    assert 0 < found.rejected < 25
    nowhere = eqx.tree_at(lambda v: v.sampler.places, vmc, jnp.zeros((4, 1, 3)))
    with pytest.raises(FloatingPointError, match="0 of 5 batches"):
        eqs.gradient_noise(nowhere, state, repeats=5, **settings)


def test_bad_settings():
    vmc = _vmc()
    state = _state(vmc, 4)
    for bad in ({"repeats": 2}, {"spacing": -1}, {"burn_in": -1}):
        with pytest.raises(ValueError, match=f"`{next(iter(bad))}` must"):
            eqs.gradient_noise(vmc, state, key=jax.random.key(0), **bad)
