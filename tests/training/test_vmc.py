"""One training step: residuals, gradient, statistics."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._training.statistics import residual_of, shares_of
from toys import Counting, grid, hydrogen, Lattice, small_network, walkers, waves


def _naive_residual(energies, clip):
    """Clipped to `clip` mean absolute deviations from the median, then centered; real
    and imaginary parts apart; without what is not finite."""
    if np.iscomplexobj(energies):
        real, clipped = _naive_residual(energies.real, clip)
        return real + 1j * _naive_residual(energies.imag, clip)[0], clipped
    kept = energies[np.isfinite(energies)]
    median = np.median(kept)
    bound = clip * np.mean(np.abs(kept - median))
    limited = np.clip(energies, median - bound, median + bound)
    mean = np.mean(limited[np.isfinite(energies)])
    residual = np.where(np.isfinite(energies), limited - mean, 0.0)
    return residual / np.sqrt(len(kept)), np.mean(np.abs(kept - median) > bound)


def _equal_residual(energies, clip):
    return residual_of(energies, shares_of(energies, None), clip)


@pytest.mark.parametrize("bad", [(), (np.nan,), (np.nan, np.inf, -np.inf)])
@pytest.mark.parametrize("is_complex", [False, True])
def test_residual(is_complex, bad):
    rng = np.random.default_rng(0)
    energies = rng.standard_cauchy(41) - 8
    energies[: len(bad)] = bad
    if is_complex:
        both = np.zeros(41, complex)
        both.real = energies
        both.imag = np.where(np.isfinite(energies), rng.standard_cauchy(41), energies)
        energies = both
    found, clipped = _equal_residual(jnp.asarray(energies), 2.0)
    expected, share = _naive_residual(energies, 2.0)
    assert 0 < share < 0.5
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(clipped, share)
    assert np.all(found[: len(bad)] == 0)


def test_residual_of_nothing_to_clip():
    found, clipped = _equal_residual(jnp.full(5, -3.0), 5.0)
    np.testing.assert_array_equal(found, np.zeros(5))
    assert clipped == 0
    found, _ = _equal_residual(jnp.full(3, jnp.nan), 5.0)
    np.testing.assert_array_equal(found, np.zeros(3))


def _vmc(crystal, optimizer, hamiltonian=None, **kwargs):
    hamiltonian = Lattice(crystal) if hamiltonian is None else hamiltonian
    return eqs.VMC(hamiltonian, eqs.Metropolis(3, width=1.0), optimizer, **kwargs)


def _flat(wavefunction):
    return jax.flatten_util.ravel_pytree(eqs.partition(wavefunction)[0])


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("is_complex", [False, True])
def test_step(is_complex, chunk):
    """Gradient 2 Re E[conj(O - <O>)(E_clip - <E_clip>)], at the walkers moved to; means
    from energies that are not clipped, per primitive cell."""
    crystal = hydrogen(supercell=(2, 1, 1))
    wavefunction = waves(
        crystal, b=(0.3, -0.2, 0.1) if is_complex else None, c=(0.4, 0.2, 0.3)
    )
    vmc = _vmc(crystal, eqs.Optax(optax.sgd(1.0)), clip=1.0, chunk=chunk)
    state = vmc.init(wavefunction, walkers(crystal, 10), key=jax.random.key(0))
    following, seen = eqx.filter_jit(vmc.step)(state)

    expected = eqx.filter_jit(vmc.sampler.step)(wavefunction, state.sampler)
    np.testing.assert_allclose(following.sampler.walkers, expected.walkers)
    local = lambda x: vmc.hamiltonian.local_energy(wavefunction, x)
    energies = jax.jit(jax.vmap(local))(expected.walkers)
    total = np.asarray(energies.total)
    residual, clipped = _naive_residual(total, 1.0)
    assert clipped > 0
    flat, unravel = _flat(wavefunction)
    rest = eqs.partition(wavefunction)[1]

    def rows(flat):
        psi = jax.vmap(eqs.combine(unravel(flat), rest))(expected.walkers)
        return psi.log, psi.phase

    log, phase = map(np.asarray, jax.jit(jax.jacrev(rows))(flat))
    scores = log + 1j * phase
    centered = scores - scores.mean(axis=0)
    gradient = 2 * np.real(np.conj(centered).T @ residual) / np.sqrt(10)
    np.testing.assert_allclose(
        _flat(following.wavefunction)[0], flat - gradient, rtol=1e-9
    )
    assert int(following.step) == 1
    np.testing.assert_allclose(seen.energy, np.mean(total.real) / 2)
    np.testing.assert_allclose(
        seen.imaginary_energy, np.mean(np.imag(total)) / 2, atol=1e-12
    )
    np.testing.assert_allclose(seen.kinetic, np.mean(energies.kinetic.real) / 2)
    np.testing.assert_allclose(seen.potential, np.mean(energies.potential) / 2)
    variance = np.mean(np.abs(total - total.real.mean()) ** 2) / 4
    np.testing.assert_allclose(seen.variance, variance)
    np.testing.assert_allclose(seen.clipped_share, clipped)
    np.testing.assert_allclose(seen.acceptance, expected.acceptance)
    assert seen.invalid_energies == 0


class Holed(Lattice):
    """No local energy in a part of the cell."""

    def local_energy(self, wavefunction, electrons, *, key=None):
        found = super().local_energy(wavefunction, electrons)
        inside = electrons[0, 0] % 4.0 < 1
        return eqs.LocalEnergy(
            found.kinetic, jnp.where(inside, jnp.nan, found.potential)
        )


@pytest.mark.parametrize("optimizer", [eqs.Spring(), eqs.Optax(optax.adam(1e-2))])
def test_invalid_walkers_are_counted_and_left_out(optimizer):
    wavefunction = waves()
    crystal = wavefunction.crystal
    vmc = _vmc(crystal, optimizer, Holed(crystal))
    state = vmc.init(wavefunction, walkers(crystal, 60), key=jax.random.key(0))
    following, seen = eqx.filter_jit(vmc.step)(state)
    x = following.sampler.walkers[:, 0, 0] % 4.0
    assert seen.invalid_energies == np.sum(x < 1) > 0
    for value in jax.tree.leaves((seen, _flat(following.wavefunction)[0])):
        assert np.all(np.isfinite(value))
    valid = following.sampler.walkers[x >= 1]
    local = lambda x: vmc.hamiltonian.local_energy(wavefunction, x).total
    energies = jax.jit(jax.vmap(local))(valid)
    np.testing.assert_allclose(seen.energy, np.mean(energies))


def test_training_finds_the_best_wave_function():
    """Against the minimum over the parameters of energies by quadrature."""
    wavefunction = waves(a=(1.2, -0.4, 0.1))
    crystal = wavefunction.crystal
    hamiltonian = Lattice(crystal, depth=2.0)
    places = grid(crystal, 12)

    @eqx.filter_jit
    def energy(a):
        trial = eqx.tree_at(lambda f: f.a, wavefunction, jnp.broadcast_to(a, (3,)))
        density = jnp.exp(2 * jax.vmap(trial)(places).log)
        found = jax.vmap(lambda x: hamiltonian.local_energy(trial, x).total)(places)
        return jnp.sum(density * found) / jnp.sum(density)

    # The three directions are alike.
    best = min((float(energy(jnp.asarray(a))), a) for a in np.arange(0.0, 2.0, 0.05))
    assert energy(wavefunction.a) > best[0] + 0.5
    vmc = _vmc(crystal, eqs.Spring(0.2, norm_bound=0.05))
    vmc = eqx.tree_at(lambda v: v.hamiltonian, vmc, hamiltonian)
    state = vmc.init(wavefunction, walkers(crystal, 100), key=jax.random.key(0))
    step = eqx.filter_jit(vmc.step)
    for _ in range(60):
        state, _ = step(state)
    assert energy(state.wavefunction.a) < best[0] + 0.01
    np.testing.assert_allclose(state.wavefunction.a, best[1], atol=0.15)


def test_training_a_network_lowers_the_energy():
    """Two electrons; local energies of the real Hamiltonian. The first and last energy
    are tens of standard errors apart."""
    crystal = eqs.Crystal(
        5.0 * np.eye(3),
        ["H", "H"],
        cart_positions=[[0, 0, 0], [1.4, 0, 0]],
        unit="bohr",
    )
    gamma = np.zeros((1, 3))
    wavefunction = small_network(crystal, gamma, gamma, (8, 3))
    vmc = eqs.VMC(
        eqs.Hamiltonian(crystal),
        eqs.Metropolis(5),
        eqs.Spring(0.1, norm_bound=1e-2),
    )
    place, chain = jax.random.split(jax.random.key(1))
    state = vmc.init(
        wavefunction, eqs.initial_walkers(crystal, 100, key=place), key=chain
    )
    step = eqx.filter_jit(vmc.step)
    energies, errors = [], []
    for _ in range(60):
        state, seen = step(state)
        energies.append(float(seen.energy))
        errors.append(np.sqrt(float(seen.variance) / 100))
    first, last = np.mean(energies[:10]), np.mean(energies[-10:])
    assert last < first - 0.2
    assert np.mean(errors[-10:]) < 0.5 * np.mean(errors[:10])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(clip=0.0), "`clip` must be positive, got 0.0"),
        (dict(chunk=0), "`chunk` must be at least 1 walker, got 0"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        _vmc(hydrogen(), eqs.Spring(), **change)


def test_refuses_what_does_not_fit():
    vmc = _vmc(hydrogen(), eqs.Spring())
    key, other = jax.random.key(0), hydrogen(supercell=(2, 1, 1))
    with pytest.raises(ValueError, match="must have the same crystal"):
        vmc.init(waves(other), walkers(other, 2), key=key)
    with pytest.raises(ValueError, match="`walkers` must have shape"):
        vmc.init(waves(), walkers(other, 2), key=key)


def test_step_is_compiled_by_jax_too():
    """It asks for a hash, which modules with arrays of numpy do not have."""
    vmc = _vmc(hydrogen(), eqs.Spring())
    state = vmc.init(waves(), walkers(hydrogen(), 4), key=jax.random.key(0))
    one, other = jax.jit(vmc.step).lower(state), eqx.filter_jit(vmc.step).lower(state)
    assert jax.tree.structure(one.out_info) == jax.tree.structure(
        jax.eval_shape(vmc.step, state)
    )
    assert one.as_text().count("func.func") == other.as_text().count("func.func")
    # Compiled once for one VMC, whichever way it is asked for.
    assert vmc.step == vmc.step and hash(vmc.step) == hash(vmc.step)
    assert vmc.step != vmc.equilibrate
    assert "One training step" in eqs.VMC.step.__doc__


class Infinite(eqs.AbstractOptimizer):
    """Updates that are not finite in every other step."""

    def init(self, parameters):
        return Counting()

    def step(self, scores, residual, state):
        even = state.count % 2 == 0
        size = jnp.where(even, 0.1, jnp.inf)
        update = jax.tree.map(lambda x: size * jnp.ones_like(x), scores.parameters)
        return update, Counting(jnp.where(even, state.count + 1, state.count))


def test_updates_that_are_not_finite_are_rejected():
    wavefunction = waves()
    crystal = wavefunction.crystal
    vmc = _vmc(crystal, Infinite())
    state = vmc.init(wavefunction, walkers(crystal, 10), key=jax.random.key(0))
    step = eqx.filter_jit(vmc.step)
    first, seen = step(state)
    assert seen.rejected_update == 0
    np.testing.assert_allclose(first.wavefunction.a, wavefunction.a + 0.1)
    second, seen = step(first)
    assert seen.rejected_update == 1
    np.testing.assert_array_equal(second.wavefunction.a, first.wavefunction.a)
    assert second.optimizer.count == first.optimizer.count == 1
    assert np.any(second.sampler.walkers != first.sampler.walkers)


def test_pseudopotentials_in_training():
    """The same state gives the same numbers; another step turns the points of
    quadratures anew."""
    crystal = eqs.Crystal.bcc(
        "Na", a=4.23, unit="angstrom", pseudopotential="ccecp", supercell=(2, 1, 1)
    )
    wavefunction = waves(crystal, c=(0.4, 0.2, 0.3))
    hamiltonian = eqs.Hamiltonian(crystal, kinetic=eqs.HessianLaplacian())
    vmc = _vmc(crystal, eqs.Optax(optax.sgd(0.0)), hamiltonian, chunk=4)
    step = eqx.filter_jit(vmc.step)
    state = vmc.init(wavefunction, walkers(crystal, 8), key=jax.random.key(0))
    following, one = step(state)
    _, same = step(state)
    # The walkers of the step before, so that only the key is another one.
    _, turned = step(eqx.tree_at(lambda s: s.sampler, following, state.sampler))
    assert one.pseudopotential == same.pseudopotential != 0
    assert one.kinetic == turned.kinetic
    assert one.pseudopotential != turned.pseudopotential
    total = one.kinetic + one.potential + one.pseudopotential
    np.testing.assert_allclose(one.energy, total, rtol=1e-12)
