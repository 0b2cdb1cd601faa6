"""Energies with error bars: against quadrature, exact eigenstates and known chains."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import eqsym as eqs
from eqsym._estimator.estimate import jackknife
from toys import Cut, grid, hydrogen, Lattice, walkers, waves


def _chains(rng, experiments, chains, steps, rho=0.9):
    """AR(1) with mean 0, stationary from the start; means over each chain."""
    x = rng.normal(size=(experiments, chains, 2))
    total = np.zeros_like(x)
    for _ in range(steps):
        x = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)
        total += x
    return total / steps


def test_jackknife_covers_correlated_chains():
    """2 standard errors of 20 chains cover the truth in 94 % of experiments (Student's
    t with 19 degrees of freedom), for a mean and for a ratio of means. Among 2000
    experiments that is 93.95 +- 0.5 %: 4 standard deviations either way are 0.01 %
    false alarms. Errors that took all samples for independent would cover a third."""
    rng = np.random.default_rng(0)
    means = _chains(rng, 2000, chains=20, steps=30) + np.array([1.0, 5.0])

    def both(m):
        return list(m["x"].T), list((m["x"] / m["y"]).T)

    x, y = np.moveaxis(means, (2, 1), (0, 1))
    for estimates, truth in zip(
        jackknife({"x": x, "y": y}, both), (1.0, 0.2), strict=True
    ):
        hits = [abs(e.mean - truth) < 2 * e.error for e in estimates]
        assert abs(np.mean(hits) - 0.9395) < 0.0213


def test_jackknife_of_a_mean_is_the_textbook_error():
    x = np.random.default_rng(0).normal(size=7)
    found = jackknife(x, lambda m: m)
    np.testing.assert_allclose(found.mean, x.mean())
    np.testing.assert_allclose(found.error, x.std(ddof=1) / np.sqrt(7))


def test_jackknife_removes_bias_to_first_order():
    """The square of a mean is biased by variance / n, exactly removed."""
    x = np.random.default_rng(0).normal(size=(5, 20000)) + 1
    found = [each.mean for each in jackknife(x, lambda m: list(m.T**2))]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found) - 1) < 4 * error < 0.1


def test_one_chain_has_no_error_bar():
    with pytest.raises(ValueError, match="at least 2 walkers"):
        jackknife(np.zeros(1), lambda m: m)


class PlaneWave(eqs.AbstractWavefunction):
    crystal: eqs.Crystal

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        k = jnp.asarray(self.crystal.lattice.reciprocal[0])
        phase = jnp.sum(electrons @ k)
        return eqs.LogPsi(
            jax.lax.complex(jnp.cos(phase), jnp.sin(phase)), jnp.zeros(())
        )


def test_eigenstates_have_no_variance():
    crystal = hydrogen(supercell=(2, 1, 1))
    found = eqs.evaluate(
        PlaneWave(crystal),
        Lattice(crystal, depth=0.0),
        eqs.Chains(
            walkers(crystal, 4),
            key=jax.random.key(0),
            steps=2,
            burn_in=1,
            progress=False,
        ),
    )
    # Two electrons in two cells.
    expected = 0.5 * (2 * np.pi / 4) ** 2
    np.testing.assert_allclose(found.energy.mean, expected, rtol=1e-12)
    np.testing.assert_allclose(found.kinetic.mean, expected, rtol=1e-12)
    assert abs(found.variance.mean) < 1e-20
    assert found.energy.error < 1e-14
    assert (found.samples, found.invalid_samples, found.symmetry) == (8, 0, None)


# Without the symmetry of the cube, neither in the modulus nor in the phase. Complex:
# the weight of the symmetric part is then no longer a ratio of positive functions.
_CASES = {
    "real": dict(a=(0.6, 0.2, -0.3), c=(0.2, 0.0, 0.4)),
    "complex": dict(a=(0.5, 0.2, -0.2), b=(0.3, -0.4, 0.2), c=(0.1, 0.2, 0.0)),
}


@functools.cache
def _case(name):
    wavefunction = waves(**_CASES[name])
    group = eqs.SpaceGroup.of(wavefunction.crystal)
    assert group.order == 48
    return wavefunction, Lattice(wavefunction.crystal), group


def _quadrature(wavefunction, hamiltonian):
    """Norm, energy and variance of the local energy."""
    places = grid(wavefunction.crystal)
    local_energy = jax.vmap(lambda x: hamiltonian.local_energy(wavefunction, x).total)
    energies = np.asarray(eqx.filter_jit(local_energy)(places))
    density = np.exp(2 * np.asarray(jax.vmap(wavefunction)(places).log))
    norm = np.mean(density)
    energy = np.mean(density * energies) / norm
    assert abs(energy.imag) < 1e-9
    variance = np.mean(density * np.abs(energies) ** 2) / norm - energy.real**2
    return norm, energy.real, variance


@functools.cache
def _exact(name):
    """Of f and of P f."""
    wavefunction, hamiltonian, group = _case(name)
    averaged = eqs.Symmetrized(wavefunction, eqs.GroupAverage(group))
    return _quadrature(wavefunction, hamiltonian), _quadrature(averaged, hamiltonian)


def _within(estimate, expected, most):
    """Fixed key; 0.3 % false alarms among keys. `most` keeps the error bar honest."""
    assert abs(estimate.mean - expected) < 3 * estimate.error
    assert estimate.error < most


_SETTINGS = dict(burn_in=15, sampler=eqs.Metropolis(10, width=1.0), progress=False)


@pytest.mark.parametrize("name", sorted(_CASES))
def test_evaluate(name, caplog):
    wavefunction, hamiltonian, group = _case(name)
    (norm, energy, variance), (p_norm, _, _) = _exact(name)
    found = eqs.evaluate(
        wavefunction,
        hamiltonian,
        eqs.Chains(
            walkers(wavefunction.crystal, 300),
            key=jax.random.key(0),
            steps=20,
            chunk=None if name == "real" else 100,
            **_SETTINGS,
        ),
        symmetrizer=eqs.GroupAverage(group),
    )
    _within(found.energy, energy, 0.02)
    _within(found.variance, variance, 0.05)
    weight = p_norm / norm
    # For a projector.
    _within(found.symmetry, weight - weight**2, 0.05)
    np.testing.assert_allclose(
        found.kinetic.mean + found.potential.mean, found.energy.mean, atol=1e-6
    )
    assert abs(found.imaginary.mean) <= 3 * found.imaginary.error
    assert (found.samples, found.invalid_samples) == (6000, 0)
    # Whatever the start was, 15 steps are enough, and the chains mix: no false alarm.
    assert found.mixing.mixed and found.mixing.burn_in == 15
    assert 1 <= found.mixing.energy_rhat < 1.05 and found.mixing.symmetry_rhat < 1.1
    assert caplog.messages == []


class Holed(Lattice):
    """No finite energy where the first coordinate, in Bohr and in the cell, is below
    an end."""

    end: Float[Array, ""] = eqx.field(default_factory=lambda: jnp.zeros(()))
    value: Float[Array, ""] = eqx.field(default_factory=lambda: jnp.zeros(()))

    def local_energy(self, wavefunction, electrons, *, key=None):
        found = super().local_energy(wavefunction, electrons)
        inside = electrons[0, 0] % 4.0 < self.end
        return eqs.LocalEnergy(
            found.kinetic, jnp.where(inside, self.value, found.potential)
        )


def _holed(end, value):
    wavefunction, _, _ = _case("real")
    return eqs.evaluate(
        wavefunction,
        Holed(wavefunction.crystal, end=jnp.asarray(end), value=jnp.asarray(value)),
        eqs.Chains(
            walkers(wavefunction.crystal, 40).at[:, :, 0].set(2.0),
            key=jax.random.key(0),
            steps=20,
            burn_in=0,
            sampler=eqs.Metropolis(10, width=1.0),
            progress=False,
        ),
    )


def test_samples_without_energy_are_counted(caplog):
    """A warning says how many, and so does the table."""
    found = _holed(1.0, np.nan)
    count = found.invalid_samples
    assert count > 0
    assert f"{count} of 800 samples ({count / 8:.2g} %) had no finite" in caplog.text
    head, row = str(eqs.table({"f": found})).splitlines()
    assert head.endswith("left out") and row.endswith(f" {count}")
    complete = dataclasses.replace(found, invalid_samples=0)
    assert "left out" not in str(eqs.table({"f": complete}))
    assert found.samples + found.invalid_samples == 800
    assert np.isfinite(found.energy.mean)


def test_no_energy_at_all():
    """Found out after 10 of 20 steps."""
    with pytest.raises(FloatingPointError, match="40 of 40 walkers .* of 10 steps"):
        _holed(5.0, np.inf)


class Conveyor(eqs.AbstractSampler):
    """Takes all walkers along x by so many Bohr a step."""

    speed: float

    def init(self, wavefunction, walkers, *, key):
        return eqs.Metropolis().init(wavefunction, walkers, key=key)

    def step(self, wavefunction, state):
        step = self.speed * jnp.asarray([[[1.0, 0.0, 0.0]]])
        return eqx.tree_at(lambda s: s.walkers, state, state.walkers + step)


def _still(bad):
    """Walkers that do not move, so many of them where there is no energy."""
    wavefunction, _, _ = _case("real")
    places = walkers(wavefunction.crystal, 40).at[:, :, 0].set(2.0)
    return eqs.evaluate(
        wavefunction,
        Holed(wavefunction.crystal, end=jnp.asarray(1.0), value=jnp.asarray(jnp.nan)),
        eqs.Chains(
            places.at[:bad, :, 0].set(0.5),
            key=jax.random.key(0),
            steps=20,
            burn_in=0,
            sampler=Conveyor(0.0),
            progress=False,
        ),
    )


def test_walkers_without_energy_are_left_out(caplog):
    """The others are as if they were alone; so many are counted. It takes more than
    half of them to stop."""
    found = _still(20)
    assert (found.samples, found.invalid_samples) == (400, 400)
    assert "20 of 40 walkers never had a finite local energy" in caplog.text
    wavefunction, hamiltonian, _ = _case("real")
    places = walkers(wavefunction.crystal, 40).at[:, :, 0].set(2.0)[20:]
    energies = jax.vmap(lambda x: hamiltonian.local_energy(wavefunction, x).total)(
        places
    )
    np.testing.assert_allclose(found.energy.mean, np.mean(energies), rtol=1e-10)
    spread = np.std(energies, ddof=1) / np.sqrt(20)
    np.testing.assert_allclose(found.energy.error, spread, rtol=1e-10)
    with pytest.raises(FloatingPointError, match="21 of 40 walkers .* of 10 steps"):
        _still(21)


class Wells(eqs.AbstractWavefunction):
    """Places along every edge of the cell, which no normal move connects."""

    crystal: eqs.Crystal

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        w = electrons @ jnp.asarray(self.crystal.lattice.reciprocal.T)
        return eqs.LogPsi(jnp.ones(()), 12 * jnp.sum(jnp.cos(2 * w)))


def _in_wells(share):
    crystal = hydrogen()
    count = round(40 * share)
    return eqs.evaluate(
        Wells(crystal),
        Lattice(crystal, depth=100.0),
        eqs.Chains(
            jnp.zeros((40, 1, 3)).at[:count, :, 0].set(2.0),
            key=jax.random.key(0),
            steps=20,
            burn_in=10,
            sampler=eqs.Metropolis(10, width=0.2),
            progress=False,
        ),
    )


def test_walkers_in_two_wells_have_not_mixed(caplog):
    """The mean is what the start makes it, and the error bar is as small as ever."""
    alone, half = _in_wells(0.0), _in_wells(0.5)
    assert alone.mixing.mixed
    (message,) = caplog.messages
    assert "Split R-hat is" in message and "for the energy" in message
    assert half.mixing.energy_rhat > half.mixing.bound + 0.1
    gap = f"energy {half.mixing.energy_rhat:.2f} > {half.mixing.bound:.2f}"
    assert gap in str(half)
    assert not half.mixing.drifts and half.mixing.burn_in == 10
    assert abs(half.energy.mean - alone.energy.mean) > 4 * half.energy.error
    assert half.to_dict()["mixing"]["energy_rhat"] == half.mixing.energy_rhat


@functools.cache
def _short_moves(start, burn_in, steps):
    """An evaluation and its messages, from walkers in a plane of the cell, where the
    wave function is small, or from walkers of |psi|^2."""
    wavefunction, hamiltonian, _ = _case("real")
    places = walkers(wavefunction.crystal, 400)
    if start == "plane":
        places = places.at[:, :, 0].set(2.0)
    else:
        sampler = eqs.Metropolis(20, width=1.0)
        state = sampler.init(wavefunction, places, key=jax.random.key(3))
        for _ in range(20):
            state = eqx.filter_jit(sampler.step)(wavefunction, state)
        places = state.walkers
    return eqs.evaluate(
        wavefunction,
        hamiltonian,
        eqs.Chains(
            places,
            key=jax.random.key(0),
            steps=steps,
            burn_in=burn_in,
            sampler=eqs.Metropolis(2, width=0.3, target=0.9),
            progress=False,
        ),
    )


def test_burn_in_is_extended_until_the_walkers_are_in_equilibrium(caplog):
    caplog.set_level("INFO", "eqsym")
    found = _short_moves("plane", 6, 20)
    assert 6 < found.mixing.burn_in < 60 and found.mixing.burn_in % 6 == 0
    assert f"took {found.mixing.burn_in} steps instead of 6" in caplog.text
    assert not found.mixing.drifts
    caplog.clear()
    # With walkers that are in equilibrium it is as long as it was asked to be, and with
    # one step nothing can be told.
    assert _short_moves("equilibrium", 6, 20).mixing.burn_in == 6
    assert "instead of" not in caplog.text
    assert _short_moves("plane", 1, 20).mixing.burn_in == 1


def test_walkers_that_drift_are_reported(caplog):
    found = _short_moves("plane", 0, 20)
    assert found.mixing.drifts and found.mixing.burn_in == 0
    assert "the walkers were not in equilibrium" in caplog.text
    assert "drifts" in str(found)


def test_burn_in_ends_at_its_limit(caplog):
    wavefunction, hamiltonian, _ = _case("real")
    found = eqs.evaluate(
        wavefunction,
        hamiltonian,
        eqs.Chains(
            walkers(wavefunction.crystal, 40).at[:, :, 0].set(2.0),
            key=jax.random.key(0),
            steps=20,
            burn_in=2,
            sampler=Conveyor(0.02),
            progress=False,
        ),
    )
    assert found.mixing.burn_in == 20
    assert "still drifts after 20 steps, 10 times `burn_in`" in caplog.messages[0]


@pytest.mark.parametrize(("burn_in", "where"), [(1, "burn-in"), (0, "sampling")])
def test_walkers_that_are_replaced_are_reported(caplog, burn_in, where):
    """Walkers that cannot move, two of them where there is no amplitude."""
    wavefunction, hamiltonian, _ = _case("real")
    places = walkers(wavefunction.crystal, 6).at[:, 0, 0].set(2.0)
    found = eqs.evaluate(
        Cut(wavefunction),
        hamiltonian,
        eqs.Chains(
            places.at[:2, 0, 0].set(0.5),
            key=jax.random.key(0),
            steps=2,
            burn_in=burn_in,
            sampler=eqs.Metropolis(1, width=1e-4),
            progress=False,
        ),
    )
    assert found.invalid_samples == 0
    (message,) = caplog.messages
    assert message.startswith(f"evaluate, {where}: 2 walkers without a finite")
    assert ("error bars too small" in message) == (burn_in == 0)


def test_same_key_same_numbers():
    assert _holed(0.0, 0.0) == _holed(0.0, 0.0)


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (-8.51784, 0.0021, "-8.5178(21)"),
        (-8.51784, 0.21, "-8.52(21)"),
        (123.4, 21.0, "123(21)"),
        (0.0, 0.0, "0(0)"),
        (0.1234, 0.000999, "0.1234(10)"),
        (0.99999998, 1.2e-9, "0.9999999800(12)"),
        (1.5e-9, 2e-10, "1.50e-09(2e-10)"),
    ],
)
def test_printed_errors(mean, error, text):
    assert str(eqs.Estimate(mean, error)) == text


def test_errors():
    wavefunction, hamiltonian, _ = _case("real")
    other = hydrogen(twist=(0.5, 0.0, 0.0))
    chains = eqs.Chains(
        walkers(wavefunction.crystal, 2), key=jax.random.key(0), progress=False
    )
    with pytest.raises(ValueError, match="must have the same crystal"):
        eqs.evaluate(wavefunction, Lattice(other), chains)
    places = walkers(hydrogen(supercell=(2, 1, 1)), 2)
    with pytest.raises(ValueError, match="`walkers` must have shape"):
        eqs.evaluate(
            wavefunction, hamiltonian, dataclasses.replace(chains, walkers=places)
        )


def test_chains(unchecked):
    """Complete once constructed, with whole numbers of any kind, and checked again when
    changed."""
    places, key = walkers(hydrogen(), 3), jax.random.key(0)
    chains = eqs.Chains(places, key=key)
    assert (chains.steps, chains.burn_in, chains.chunk) == (100, 20, None)
    assert eqx.tree_equal(chains.sampler, eqs.Metropolis())
    more = dataclasses.replace(chains, steps=np.int64(7), sampler=eqs.Metropolis(3))
    assert type(more.steps) is int and more.walkers is places and more.key is key
    assert (more.steps, more.burn_in, more.sampler.moves) == (7, 20, 3)
    for change, expected in (
        (dict(steps=0), "`steps` must be at least 1, got 0"),
        (dict(burn_in=-1), "`burn_in` must not be negative, got -1"),
        (dict(chunk=0), "`chunk` must be at least 1 walker, got 0"),
        (dict(walkers=places[:1]), "`walkers` must be at least 2, .* got 1"),
        (dict(walkers=places[0]), "`walkers` must be positions"),
        (dict(walkers=places[..., :2]), "`walkers` must be positions"),
    ):
        with pytest.raises(ValueError, match=expected):
            dataclasses.replace(chains, **change)
