"""Averaging after training: against quadrature and direct sampling."""

import functools
import gc
import json
import tracemalloc

import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Complex

import eqsym as eqs
from eqsym._core import progress as progress_module
from eqsym._estimator.estimate import jackknife
from eqsym._estimator.orbit import OrbitSampler
from eqsym._hamiltonian import LocalEnergy
from eqsym._training.sampler import MetropolisState
from toys import hydrogen, Lattice, walkers, waves


class Trigonometric(eqs.AbstractWavefunction):
    """Two particles on a torus: `sum_t c_t exp(i n_t . w)` for integers n_t, with
    phases w of x and y of both, or the real part of it. It has nodes."""

    crystal: eqs.Crystal
    coefficients: Complex[Array, " terms"]
    real: bool = eqx.field(static=True)
    waves: tuple[tuple[int, int, int, int], ...] = eqx.field(static=True)

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        reciprocal = jnp.asarray(self.crystal.lattice.reciprocal[:2], electrons.dtype)
        angles = jnp.asarray(self.waves, electrons.dtype) @ jnp.ravel(
            electrons @ reciprocal.T
        )
        value = self.coefficients @ jax.lax.complex(jnp.cos(angles), jnp.sin(angles))
        if self.real:
            value = value.real
            return eqs.LogPsi(jnp.sign(value), jnp.log(jnp.abs(value)))
        size = jnp.abs(value)
        return eqs.LogPsi(value / size.astype(value.dtype), jnp.log(size))


_WAVES = (
    (0, 0, 0, 0),
    (1, 0, 0, 0),
    (0, -1, 0, 0),
    (0, 0, 0, 1),
    (1, 0, -1, 0),
    (0, 1, 1, 0),
    (1, 1, 0, -1),
)


def _pair(coefficients, real, waves=_WAVES):
    # One electron more than the proton has, one of each spin.
    crystal = hydrogen(charge=-1)
    return Trigonometric(crystal, jnp.asarray(coefficients, complex), real, waves)


_PAIRS = {
    "real": _pair([1.13, 0.82, 0.31 + 0.5j, 0.43, 0.5, 0.21j, 0.27], True),
    "complex": _pair([0.9, 0.7j, 0.5, 0.3, 0.4 + 0.3j, 0.2, -0.3j], False),
}
_REFERENCE = eqs.LocalEnergy(jnp.asarray(0.7), jnp.asarray(-0.4))


class Plane(eqs.AbstractHamiltonian):
    """Particles that do not interact, in a potential of x and y."""

    crystal: eqs.Crystal
    kinetic: eqs.AbstractKinetic = eqx.field(default_factory=eqs.HessianLaplacian)

    def local_energy(self, wavefunction, electrons, *, key=None):
        reciprocal = jnp.asarray(self.crystal.lattice.reciprocal[:2], electrons.dtype)
        potential = -0.5 * jnp.sum(jnp.cos(electrons @ reciprocal.T))
        return eqs.LocalEnergy(self.kinetic(wavefunction, electrons), potential)


@functools.cache
def _square(name="real"):
    """The wave function, a Hamiltonian, and the 8 operations of p4mm."""
    wavefunction = _PAIRS[name]
    group = eqs.SpaceGroup.from_number(wavefunction.crystal, 99)
    assert group.order == 8
    return wavefunction, Plane(wavefunction.crystal), group


def _torus(crystal, points=8):
    """Places of two particles that the group maps to each other."""
    axes = np.meshgrid(*[np.arange(points) / points] * 4, indexing="ij")
    frac = np.zeros((points**4, 2, 3))
    frac[..., :2] = np.stack(axes, axis=-1).reshape(-1, 2, 2)
    return jnp.asarray(crystal.supercell.to_cartesian(frac))


class Problem(eqx.Module):
    """All there is to know: f and (H - reference) f on the orbits of all places,
    (places, images), and the shares of the places in |f|^2."""

    places: Array
    f: np.ndarray
    hf: np.ndarray
    density: np.ndarray
    characters: np.ndarray

    def integral(self, values):
        """Of values per place with the norm of f."""
        return np.sum(values) / np.sum(np.abs(self.f[:, 0]) ** 2)

    def projections(self, values):
        """P values of every irrep, (irreps, places), at the places."""
        return np.einsum("rg,xg->rx", self.characters.conj(), values) / 8


@functools.cache
def _problem(name):
    wavefunction, hamiltonian, group = _square(name)
    places = _torus(wavefunction.crystal)

    @eqx.filter_jit
    @jax.vmap
    def on_orbit(x):
        def both(y):
            value, energy = wavefunction(y), hamiltonian.local_energy(wavefunction, y)
            above = energy.total - _REFERENCE.total.astype(energy.total.dtype)
            f = value.sign * jnp.exp(value.log).astype(value.sign.dtype)
            return f, f * above

        return jax.vmap(both)(group.apply_inverse(x))

    assert np.array_equal(group.frac_rotations[0], np.eye(3))
    f, hf = (np.asarray(v) for v in on_orbit(places))
    density = np.abs(f[:, 0]) ** 2
    irreps = eqs.irreps(group)
    assert np.all(irreps[0].characters == 1)
    characters = np.array([i.dimension * i.characters for i in irreps])
    return Problem(places, f, hf, density / np.sum(density), characters)


@functools.cache
def _samples(name, orbit_points, local_energies, count):
    """Independent samples: shares and energies of the irreps, energy and square of f,
    square of P f."""
    problem = _problem(name)
    sampler = OrbitSampler(
        *_square(name),
        problem.characters,
        orbit_points=orbit_points,
        local_energies=local_energies,
    )
    rng = np.random.default_rng(7)
    drawn = rng.choice(len(problem.density), count, p=problem.density)

    @eqx.filter_jit
    @jax.vmap
    def numbers(x, key):
        orbit = sampler(x, key, _REFERENCE)
        above = orbit.above.total
        square = jnp.sum(orbit.weights * jnp.abs(above) ** 2)
        pairs = orbit.pairs
        if pairs is None:
            averaged = jnp.zeros_like(square)
        else:
            averaged = (jnp.conj(above) @ pairs.astype(above.dtype) @ above).real
        return jnp.concatenate(
            [
                orbit.shares.real,
                (orbit.projected @ above).real,
                jnp.stack([(orbit.plain @ above).real, square, averaged]),
            ]
        )

    keys = jax.random.split(jax.random.key(3), count)
    return np.asarray(numbers(problem.places[drawn], keys))


def _expected(name):
    """The integrals that the means of `_samples` are estimates of."""
    problem = _problem(name)
    parts, applied = problem.projections(problem.f), problem.projections(problem.hf)
    f, hf = problem.f[:, 0], problem.hf[:, 0]
    return np.array(
        [
            *(problem.integral(np.abs(p) ** 2) for p in parts),
            *(problem.integral(p.conj() * hf).real for p in parts),
            problem.integral(f.conj() * hf).real,
            problem.integral(np.abs(hf) ** 2),
            problem.integral(np.abs(applied[0]) ** 2),
        ]
    )


@pytest.mark.parametrize(
    ("name", "orbit_points", "local_energies"),
    [
        ("real", 2, 1),
        ("real", 5, 3),
        ("complex", 3, 2),
        ("complex", None, 4),
    ],
)
def test_integrals(name, orbit_points, local_energies):
    """Two particles on a torus and 8 operations, walkers drawn independently from a
    grid that the group maps to itself, on which the integrals are exact: within 4
    standard errors, 0.006 % false alarms each, 13 numbers in each case."""
    found = _samples(name, orbit_points, local_energies, 30_000)
    expected = _expected(name)
    if local_energies == 1:
        found, expected = found[:, :-1], expected[:-1]
    error = np.std(found, axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(np.mean(found, axis=0) - expected) < 4 * error + 1e-12)
    # Sharp enough to see a mistake: all are of the order of 1.
    assert np.all(error < 0.06)
    # The shares of all irreps add up to 1 for every walker.
    np.testing.assert_allclose(np.sum(found[:, : len(_problem(name).characters)], 1), 1)


def _energies(moments):
    """E_PA over the reference, and the weight of P f."""
    irreps = (moments.shape[-1] - 3) // 2
    return np.stack([moments[..., irreps] / moments[..., 0], moments[..., 0]], axis=-1)


@pytest.mark.parametrize(
    ("orbit_points", "local_energies"), [(5, 3), (None, 1), (None, 8)]
)
def test_repeated_estimates_of_the_averaged_energy(orbit_points, local_energies):
    """600 estimates of E_PA from 50 walkers each. Their bias is below 3 standard
    errors, 0.3 % false alarms among keys. Their variance is what the jackknife says,
    and with all amplitudes what quadrature says, within 25 %: 4 standard deviations of
    a variance from 600 normal numbers are 23 %."""
    name = "real"
    problem = _problem(name)
    found = _samples(name, orbit_points, local_energies, 30_000).reshape(600, 50, -1)
    expected = _expected(name)
    (exact, weight) = _energies(expected)
    estimates = [jackknife(block, lambda m: _energies(m)[:, 0]) for block in found]
    means = np.array([e.mean for e in estimates])
    assert abs(np.mean(means) - exact) < 3 * np.std(means) / np.sqrt(len(means))
    measured = np.var(means)
    assert abs(np.mean([e.error**2 for e in estimates]) / measured - 1) < 0.25
    if orbit_points is not None:
        return

    # The contribution of a walker to the ratio, with one image drawn with probability
    # `chance` or all of them, squared and summed over images and walkers.
    p = np.mean(problem.f**2, axis=1, keepdims=True)
    averaged = np.mean(problem.f, axis=1, keepdims=True)
    if local_energies == 1:
        chance = (1 + problem.f**2 / p) / 16
        values = averaged * problem.hf / (8 * p * chance)
    else:
        chance = np.full_like(problem.f, 1 / 8)
        values = averaged * np.mean(problem.hf, axis=1, keepdims=True) / p
    parts = (values - exact * averaged**2 / p) / weight
    variance = np.sum(problem.density[:, None] * chance * parts**2)
    assert abs(measured / (variance / 50) - 1) < 0.25


class Unit(eqs.AbstractHamiltonian):
    """Local energies are 1: what is left are the factors that multiply them."""

    crystal: eqs.Crystal

    def local_energy(self, wavefunction, electrons, *, key=None):
        value = wavefunction(electrons).sign
        return eqs.LocalEnergy(jnp.ones_like(value), jnp.zeros((), electrons.dtype))


@functools.cache
def _factors(real, orbit_points, local_energies):
    crystal = _PAIRS["real"].crystal
    group = _square()[2]
    trivial = np.ones((1, group.order))

    @eqx.filter_jit
    def factors(coefficients, x, key):
        orbit = OrbitSampler(
            _pair(coefficients, real),
            Unit(crystal),
            group,
            trivial,
            orbit_points=orbit_points,
            local_energies=local_energies,
        )(x, key, eqs.LocalEnergy(jnp.zeros(()), jnp.zeros(())))
        kinetic = orbit.above.kinetic
        return orbit.projected[0] * kinetic, orbit.plain * kinetic

    return factors


def _value(coefficients, x):
    return np.real(coefficients @ np.exp(1j * np.array(_WAVES) @ np.ravel(x[:, :2])))


@hypothesis.settings(max_examples=50)
@hypothesis.given(
    seed=st.integers(0, 2**31), real=st.booleans(), near_node=st.booleans()
)
def test_factors_of_local_energies_are_bounded(seed, real, near_node):
    """By the square root of the order of the group for an image drawn uniformly, by 1
    with our probabilities, by sqrt(k / (k - 1)) with k amplitudes; also where f is
    nearly zero, at the walker or at one of its images."""
    rng = np.random.default_rng(seed)
    coefficients = rng.normal(size=7) + 1j * rng.normal(size=7)
    x, other = rng.uniform(0, 2 * np.pi, size=(2, 2, 3))
    if near_node:
        sign = np.sign(_value(coefficients, x))
        hypothesis.assume(np.sign(_value(coefficients, other)) != sign)
        for _ in range(45):
            middle = (x + other) / 2
            if np.sign(_value(coefficients, middle)) == sign:
                x = middle
            else:
                other = middle
        assert abs(_value(coefficients, x)) < 1e-10
    # Phases are 2 pi / 4 times coordinates.
    x = x * 4 / (2 * np.pi)
    rotation = _square()[2].cart_rotations[seed % 8]
    x = x @ rotation.T
    key = jax.random.key(seed)
    coefficients, x = jnp.asarray(coefficients), jnp.asarray(x)
    for orbit_points, most in ((None, 1.0), (3, np.sqrt(3 / 2))):
        projected, plain = _factors(real, orbit_points, 1)(coefficients, x, key)
        assert np.all(np.abs(projected) <= most + 1e-9)
        assert np.all(np.abs(plain) <= 2 + 1e-9)
    # Of all images, each with its share of 1 / 8.
    projected, _ = _factors(real, None, 8)(coefficients, x, key)
    assert np.all(8 * np.abs(projected) <= np.sqrt(8) + 1e-9)


class Drawn(eqs.AbstractSampler):
    """Independent walkers from the grid of `_torus`, instead of a chain."""

    name: str = eqx.field(static=True)

    def init(self, wavefunction, walkers, *, key):
        ones = [jnp.ones(())] * 4
        return MetropolisState(walkers, *ones, jnp.zeros((), int), key)

    def step(self, wavefunction, state):
        problem = _problem(self.name)
        key, subkey = jax.random.split(state.key)
        drawn = jax.random.choice(
            subkey,
            len(problem.density),
            (len(state.walkers),),
            p=jnp.asarray(problem.density),
        )
        return eqx.tree_at(
            lambda s: (s.walkers, s.key), state, (problem.places[drawn], key)
        )


def test_error_bars_are_those_of_quadrature():
    """`post_hoc` with independent walkers and all images: the error bar is the standard
    deviation by quadrature within 20 %, 4 of its own for 300 chains."""
    wavefunction, hamiltonian, group = _square()
    problem = _problem("real")
    found = eqs.post_hoc(
        wavefunction,
        hamiltonian,
        group,
        eqs.Chains(
            problem.places[:300],
            key=jax.random.key(0),
            steps=5,
            burn_in=0,
            sampler=Drawn("real"),
            chunk=100,
            progress=False,
        ),
        local_energies=8,
    )
    zero = float(_REFERENCE.total)
    exact, weight = _energies(_expected("real"))
    _within(found.averaged.energy, exact + zero, 0.1)
    p, averaged = np.mean(problem.f**2, axis=1), np.mean(problem.f, axis=1)
    parts = averaged * (np.mean(problem.hf, axis=1) - exact * averaged) / p / weight
    deviation = np.sqrt(np.sum(problem.density * parts**2) / 1500)
    assert abs(found.averaged.energy.error / deviation - 1) < 0.2


_FREE_WAVES = ((1, 0, 0, 0), (0, 1, 0, 0), (2, 0, 1, 0))


def _free(wavefunction, **settings):
    """Of free particles."""
    return eqs.post_hoc(
        wavefunction,
        Lattice(wavefunction.crystal, depth=0.0),
        _square()[2],
        eqs.Chains(
            walkers(wavefunction.crystal, 20),
            key=jax.random.key(1),
            steps=4,
            **_SETTINGS,
        ),
        **settings,
    )


@pytest.mark.parametrize(
    ("orbit_points", "local_energies"), [(4, 1), (5, 3), (None, 8)]
)
def test_symmetric_eigenstates_have_no_variance(orbit_points, local_energies):
    """cos x + cos y of a free particle, which has nodes."""
    wavefunction = _pair([1.0, 1.0, 0.0], True, _FREE_WAVES)
    found = _free(
        wavefunction, orbit_points=orbit_points, local_energies=local_energies
    )
    expected = 0.5 * (2 * np.pi / 4) ** 2
    for row in (found.plain, found.averaged):
        np.testing.assert_allclose(row.energy.mean, expected, rtol=1e-10)
        assert row.energy.error < 1e-10
    assert abs(found.plain.variance.mean) < 1e-10
    if local_energies > 1:
        assert abs(found.averaged.variance.mean) < 1e-10
    np.testing.assert_allclose(found.weight.mean, 1, atol=0.2)


def test_an_eigenstate_under_a_wave_of_another_symmetry():
    """P f is an eigenstate and f is not: with all images E_PA has no error, because
    P (H - E) f vanishes at every walker."""
    wavefunction = _pair([1.0, 1.0, 0.8j], True, _FREE_WAVES)
    found = _free(wavefunction, local_energies=8)
    expected = 0.5 * (2 * np.pi / 4) ** 2
    np.testing.assert_allclose(found.averaged.energy.mean, expected, rtol=1e-9)
    assert found.averaged.energy.error < 1e-9 < 1e-3 < found.plain.energy.error
    assert abs(found.averaged.variance.mean) < 1e-9 < 0.1 < found.plain.variance.mean


def test_memory_does_not_grow_with_samples(monkeypatch):
    """Between samples, nothing is kept but sums."""
    arrays, host = [], []

    class Watch(progress_module.tqdm):
        def update(self, n=1):
            if len(host) in (11, 60):
                gc.collect()
            arrays.append(sum(x.nbytes for x in jax.live_arrays()))
            host.append(tracemalloc.get_traced_memory()[0])

    monkeypatch.setattr(progress_module, "tqdm", Watch)
    wavefunction, hamiltonian, group = _square()
    tracemalloc.start()
    try:
        eqs.post_hoc(
            wavefunction,
            hamiltonian,
            group,
            eqs.Chains(
                walkers(wavefunction.crystal, 200),
                key=jax.random.key(1),
                steps=60,
                burn_in=1,
                sampler=eqs.Metropolis(1),
                progress=False,
            ),
        )
    finally:
        tracemalloc.stop()
    assert len(arrays) == 61
    assert len(set(arrays[-50:])) == 1
    # One number for each walker and step would be 80,000 bytes.
    assert host[-1] - host[-50] < 30_000


_SETTINGS = dict(burn_in=15, sampler=eqs.Metropolis(10, width=1.0), progress=False)


def _within(estimate, expected, most):
    """Fixed key; 0.3 % false alarms among keys. `most` keeps the error bar honest."""
    assert abs(estimate.mean - expected) < 3 * estimate.error
    assert estimate.error < most


@functools.cache
def _post_hoc(name, local_energies, orbit_points):
    wavefunction, hamiltonian, group = _square(name)
    return eqs.post_hoc(
        wavefunction,
        hamiltonian,
        group,
        eqs.Chains(
            walkers(wavefunction.crystal, 200),
            key=jax.random.key(1),
            steps=15,
            **_SETTINGS,
        ),
        local_energies=local_energies,
        orbit_points=orbit_points,
    )


@pytest.mark.parametrize(
    ("name", "local_energies", "orbit_points"),
    [("real", 2, 5), ("complex", 1, None), ("complex", 8, None)],
)
def test_post_hoc(name, local_energies, orbit_points):
    """With Markov chains, against the exact integrals over the torus: all functions
    are trigonometric polynomials, which the grid integrates exactly."""
    expected = _expected(name)
    irreps = (len(expected) - 3) // 2
    weight, above, plain, square, p_square = expected[[0, irreps, -3, -2, -1]]
    zero = float(_REFERENCE.total)
    energy, variance = plain + zero, square - plain**2
    p_energy, p_variance = (
        above / weight + zero,
        p_square / weight - (above / weight) ** 2,
    )
    assert abs(p_energy - energy) > 0.02
    found = _post_hoc(name, local_energies, orbit_points)
    _within(found.plain.energy, energy, 0.1)
    _within(found.averaged.energy, p_energy, 0.1)
    _within(found.plain.variance, variance, 0.2)
    if local_energies == 1:
        assert found.averaged.variance is None
    else:
        _within(found.averaged.variance, p_variance, 0.2)
    _within(found.difference, p_energy - energy, 0.1)
    _within(found.weight, weight, 0.03)
    _within(found.plain.symmetry, weight - weight**2, 0.03)
    for row in (found.plain, found.averaged):
        total = row.kinetic.mean + row.potential.mean
        np.testing.assert_allclose(total, row.energy.mean, atol=1e-6)
        assert abs(row.imaginary.mean) <= 3 * row.imaginary.error
        assert (row.samples, row.invalid_samples) == (3000, 0)
    assert found.averaged.symmetry.mean == 0
    difference = found.averaged.energy.mean - found.plain.energy.mean
    np.testing.assert_allclose(found.difference.mean, difference, atol=1e-12)


def test_numbers_and_tables():
    found = _post_hoc("complex", 1, None)
    numbers = json.loads(json.dumps(found.to_dict()))
    assert numbers["plain"]["energy"]["mean"] == found.plain.energy.mean
    assert numbers["averaged"]["samples"] == 3000
    assert numbers["averaged"]["variance"] is None
    assert numbers["difference"]["error"] == found.difference.error
    text = str(found)
    assert "plain" in text and "averaged - plain = " in text and "energy [Ha]" in text
    assert str(found.weight) in text
    printed = text.splitlines()[2].split()
    assert printed[:3] == ["averaged", str(found.averaged.energy), "-"]
    table = eqs.table({"a": found.plain, "bc": found.averaged})
    rows = str(table).splitlines()
    assert len(rows) == 3
    assert rows[2].split()[0] == "bc"
    assert json.dumps(found.plain.to_dict())


@pytest.mark.slow
def test_against_direct_sampling(lih):
    """E_PA of a quickly trained network for lithium hydride, 48 operations: within 4
    standard errors of the difference, 0.006 % false alarms among keys."""
    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    network, key = jax.random.split(jax.random.key(0))
    vmc = eqs.VMC(eqs.Hamiltonian(crystal), eqs.Metropolis(10), eqs.Spring(0.05))
    result = eqs.run(
        vmc,
        eqs.SolidNet(
            crystal, lih.occupation, widths=((16, 4),) * 2, determinants=2, key=network
        ),
        steps=40,
        walkers=128,
        key=key,
        pretraining=eqs.Pretraining(lih, 100),
        progress=False,
    )
    group = eqs.SpaceGroup.of(crystal)
    settings = dict(walkers=result.walkers, key=key, burn_in=10, progress=False)
    direct = eqs.evaluate(
        eqs.Symmetrized(result.wavefunction, eqs.GroupAverage(group)),
        vmc.hamiltonian,
        eqs.Chains(steps=15, **settings | {"key": jax.random.fold_in(key, 1)}),
    )
    found = eqs.post_hoc(
        result.wavefunction, vmc.hamiltonian, group, eqs.Chains(steps=40, **settings)
    )
    for name in ("energy", "kinetic", "potential", "variance"):
        one, other = getattr(found.averaged, name), getattr(direct, name)
        error = np.hypot(one.error, other.error)
        assert abs(one.mean - other.mean) < 4 * error
    assert found.averaged.energy.error < 0.1
    assert found.difference.mean < -3 * found.difference.error < -0.05


def test_errors():
    wavefunction, hamiltonian, group = _square()
    chains = eqs.Chains(
        walkers(wavefunction.crystal, 2), key=jax.random.key(0), progress=False
    )
    with pytest.raises(ValueError, match="`local_energies` must be at least 1, got 0"):
        eqs.post_hoc(wavefunction, hamiltonian, group, chains, local_energies=0)
    with pytest.raises(ValueError, match="`orbit_points` must be at least 2, .* got 1"):
        eqs.post_hoc(wavefunction, hamiltonian, group, chains, orbit_points=1)
    elsewhere = eqs.SpaceGroup.of(
        eqs.Crystal(5 * np.eye(3), ["H"], frac_positions=[[0, 0, 0]], unit="bohr")
    )
    with pytest.raises(ValueError, match="lattice"):
        eqs.post_hoc(wavefunction, hamiltonian, elsewhere, chains)


def test_a_symmetric_function():
    wavefunction = waves(a=(0.4, 0.4, 0.4))
    group = eqs.SpaceGroup.of(wavefunction.crystal)
    found = eqs.post_hoc(
        wavefunction,
        Lattice(wavefunction.crystal),
        group,
        eqs.Chains(
            walkers(wavefunction.crystal, 20),
            key=jax.random.key(1),
            steps=3,
            **_SETTINGS,
        ),
        local_energies=48,
    )
    assert abs(found.difference.mean) < 1e-10
    assert found.difference.error < 1e-10
    np.testing.assert_allclose(found.weight.mean, 1, rtol=1e-10)
    assert abs(found.plain.symmetry.mean) < 1e-10


class Odd(eqs.AbstractWavefunction):
    """sin w: the mirror changes its sign, so that no average over it is left."""

    crystal: eqs.Crystal

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        value = jnp.sum(jnp.sin(electrons @ self.crystal.lattice.reciprocal[2]))
        return eqs.LogPsi(jnp.sign(value), jnp.log(jnp.abs(value)))


@pytest.mark.parametrize("orbit_points", [8, None])
def test_nothing_is_said_of_an_average_that_is_zero(orbit_points):
    """As in `sectors`. It was an energy of 1.96(72) Ha, or 70243(70232) Ha."""
    wavefunction = Odd(hydrogen())
    group = eqs.SpaceGroup.of(wavefunction.crystal)
    places = walkers(wavefunction.crystal, 20)
    chains = eqs.Chains(places, key=jax.random.key(1), steps=3, **_SETTINGS)
    found = eqs.post_hoc(
        wavefunction,
        Lattice(wavefunction.crystal),
        group,
        chains,
        orbit_points=orbit_points,
    )
    assert found.averaged is None and found.difference is None
    assert found.weight.mean <= max(3 * found.weight.error, 1e-12)
    row = str(found).splitlines()[2].split()
    assert row == ["averaged", *"-------"]
    assert "the average is zero" in str(found)
    assert json.loads(json.dumps(found.to_dict()))["averaged"] is None
    density = {"rho": eqs.Density(wavefunction.crystal, (4, 4, 4))}
    observed = eqs.observe_post_hoc(wavefunction, density, group, chains)
    assert observed.averaged is None and observed.difference is None
    assert np.all(np.isfinite(observed.plain["rho"].mean))


def test_refuses_what_is_no_projection():
    class Alternating(eqs.AbstractWavefunction):
        crystal: eqs.Crystal

        @property
        def crystal_momentum(self):
            return 0.5 * self.crystal.lattice.reciprocal[0]

        def __call__(self, electrons):
            raise NotImplementedError

    # The square of the translation by half a cell changes the sign.
    crystal = eqs.Crystal.hydrogen_chain(
        spacing=2.0, vacuum=9.0, unit="bohr", supercell=(2, 1, 1)
    )
    with pytest.raises(ValueError, match="do not multiply on it as they do"):
        eqs.post_hoc(
            Alternating(crystal),
            Lattice(crystal),
            eqs.SpaceGroup.of(crystal),
            eqs.Chains(walkers(crystal, 4), key=jax.random.key(0)),
        )


@pytest.mark.parametrize(
    "orbit_points", [8, pytest.param(None, marks=pytest.mark.slow)]
)
def test_programs_do_not_grow_with_the_group(orbit_points):
    crystal = eqs.Crystal(
        3.0 * np.eye(3),
        ["H"],
        unit="bohr",
        cart_positions=np.zeros((1, 3)),
        supercell=2,
    )
    zeros = np.zeros((4, 3))
    f = eqs.SolidNet(
        crystal,
        eqs.Occupation((zeros, zeros)),
        widths=((8, 4),),
        determinants=1,
        key=jax.random.key(0),
    )
    every = eqs.SpaceGroup.of(crystal).with_translations()
    # The point group, and with the translation along the diagonal of the supercell.
    translations = every.frac_translations
    small, large = (
        every.subgroup(
            np.flatnonzero(np.all(translations == translations[:, :1] * shift, axis=1))
        )
        for shift in (0, 1)
    )
    assert (small.order, large.order) == (48, 96)
    hamiltonian, walkers = eqs.Hamiltonian(crystal), jnp.zeros((2, 8, 3))

    def lines(group: eqs.SpaceGroup) -> int:
        sampler = OrbitSampler(
            f,
            hamiltonian,
            group,
            np.ones((1, group.order)),
            orbit_points=orbit_points,
            local_energies=2,
        )
        reference = LocalEnergy(jnp.zeros(()), jnp.zeros(()))
        program = jax.jit(jax.vmap(lambda x, key: sampler(x, key, reference)))
        lowered = program.lower(walkers, jax.random.split(jax.random.key(1)))
        return lowered.as_text().count("\n")

    assert lines(large) == lines(small)
