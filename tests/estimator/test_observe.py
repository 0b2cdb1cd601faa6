"""Observables with error bars: uniform electrons, quadrature, Hartree-Fock densities of
PySCF, and sampling |Pf|^2 directly.

Keys are fixed. Errors have 31 degrees of freedom: with another key one value among a
thousand, with which 300 values are compared, is off by more than 3.6 errors, and one
test in 700 would fail for a value off by more than 5.5.
"""

import dataclasses
import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._estimator.expectation import _jackknife, _replicates, _Sums
from eqsym._training.sampler import MetropolisState
from toys import grid, hydrogen, walkers, waves


_SETTINGS = dict(burn_in=15, sampler=eqs.Metropolis(10, width=1.0), progress=False)


def _agree(found, expected, most, error=None):
    """All within 5.5 errors. These are neither too large nor too small on the whole:
    if many values are not the same by symmetry, the mean square of deviations over
    errors is about 1."""
    error = found.error if error is None else error
    assert np.max(np.abs(error)) < most
    parts = [(np.real, np.real)] + [(np.imag, np.imag)] * np.iscomplexobj(found.mean)
    for part, of_error in parts:
        gaps, errors = part(found.mean - expected), of_error(error)
        exact = errors < 1e-10
        np.testing.assert_allclose(gaps[exact], 0, atol=1e-9)
        off = gaps[~exact] / errors[~exact]
        if off.size:
            assert np.max(np.abs(off)) < 5.5
        if len(np.unique(np.round(off, 6))) > 30:
            assert 0.5 < np.mean(off**2) < 1.8


def _density_integral(observable, found):
    return np.sum(found) * observable.lattice.volume / np.prod(observable.shape)


def test_uniform_electrons():
    crystal = hydrogen(supercell=(2, 1, 1), charge=-3, spin=1)
    assert crystal.electrons == (3, 2)
    observables = {
        "density": eqs.Density(crystal, (4, 4, 4)),
        "spin density": eqs.Density(crystal, (4, 2, 2), spins=(1, -1), supercell=True),
        "fourier": eqs.FourierDensity(crystal, 3.5),
        "structure": eqs.StructureFactor(crystal, 3.2),
        "pairs": eqs.PairCorrelation(crystal, 6),
        "up": eqs.PairCorrelation(crystal, 4, spins=(0, 0)),
        "up-down": eqs.PairCorrelation(crystal, 4, spins=(0, 1)),
        "down": eqs.PairCorrelation(crystal, 4, spins=(1, 1)),
        "polarization": eqs.Polarization(crystal),
    }
    found = eqs.observe(
        waves(crystal, a=(0, 0, 0)),
        observables,
        eqs.Chains(
            walkers(crystal, 320),
            key=jax.random.key(0),
            steps=20,
            burn_in=5,
            sampler=eqs.Metropolis(4, width=2.0),
            progress=False,
        ),
    )
    # Two cells of 64 cubic Bohr each, five electrons.
    _agree(found["density"], 2.5 / 64, 0.003)
    _agree(found["spin density"], 1 / 128, 0.002)
    _agree(found["fourier"], 0, 0.03)
    _agree(found["structure"], 1, 0.05)
    _agree(found["pairs"], 1 - 1 / 5, 0.2)
    _agree(found["up"], 1 - 1 / 3, 0.3)
    _agree(found["up-down"], 1, 0.3)
    _agree(found["down"], 1 - 1 / 2, 0.3)
    _agree(found["polarization"], 0, 0.03)
    for name, number in (("density", 2.5), ("spin density", 1)):
        total = _density_integral(observables[name], found[name].mean)
        np.testing.assert_allclose(total, number, rtol=1e-12)
    assert all((v.samples, v.invalid_samples) == (6400, 0) for v in found.values())


# Without the symmetry of the cube, neither in the modulus nor in the phase.
_CASES = {
    "real": dict(a=(0.6, 0.2, -0.3), c=(0.2, 0.0, 0.4)),
    "complex": dict(a=(0.5, 0.2, -0.2), b=(0.3, -0.4, 0.2), c=(0.1, 0.2, 0.0)),
}
_BINS, _FINE = 4, 8


@functools.cache
def _case(name, **kwargs):
    wavefunction = waves(hydrogen(**dict(kwargs)), **_CASES[name])
    return wavefunction, eqs.SpaceGroup.of(wavefunction.crystal)


def _one_electron(crystal):
    return {
        "density": eqs.Density(crystal, (_BINS,) * 3),
        "fourier": eqs.FourierDensity(crystal, 3.5),
        "structure": eqs.StructureFactor(crystal, 2.3),
        "polarization": eqs.Polarization(crystal),
    }


def _quadrature(wavefunction, observables):
    """Of one electron: the mean of a function that is smooth and periodic is that over
    a grid; for regions, cubes around grid points, the grid is fine, and shifted so that
    none of its points is on a border."""
    crystal = wavefunction.crystal
    fine = _BINS * _FINE
    places = grid(crystal, fine) + 2.0 / fine
    density = np.exp(2 * np.asarray(jax.jit(jax.vmap(wavefunction))(places).log))
    weights = jnp.asarray(density / np.sum(density))[:, None, None]
    summed = eqx.filter_jit(lambda o, x, w: o.total(x, w))
    total = {
        name: summed(observable, places[:, None], weights)
        for name, observable in observables.items()
    }
    return np.mean(density), {
        name: observable.result(np.asarray(total[name]))[0]
        for name, observable in observables.items()
    }


@pytest.mark.parametrize(
    "name", ["complex", pytest.param("real", marks=pytest.mark.slow)]
)
def test_against_quadrature(name):
    wavefunction, group = _case(name)
    averaged = eqs.Symmetrized(wavefunction, eqs.GroupAverage(group))
    observables = _one_electron(wavefunction.crystal)
    found = eqs.observe_post_hoc(
        wavefunction,
        observables,
        group,
        eqs.Chains(
            walkers(wavefunction.crystal, 500),
            key=jax.random.key(2),
            steps=30,
            chunk=None if name == "complex" else 50,
            **_SETTINGS,
        ),
    )
    norm, plain = _quadrature(wavefunction, observables)
    p_norm, projected = _quadrature(averaged, observables)
    weight = p_norm / norm
    assert abs(found.weight.mean - weight) < 4 * found.weight.error < 0.03
    limits = dict(density=3e-3, fourier=0.02, structure=0.02, polarization=0.02)
    for key, most in limits.items():
        _agree(found.plain[key], plain[key], most)
        _agree(found.averaged[key], projected[key], most)
        # The mixture: every operation takes the vectors of the cube to themselves.
        gap = found.averaged[key].mean - found.mixture[key].mean
        np.testing.assert_allclose(found.difference[key].mean, gap, atol=1e-12)
    # And it is not the same, by far.
    gap = np.abs(plain["density"] - projected["density"])
    assert np.max(gap / found.plain["density"].error) > 15
    gap = found.difference["density"]
    assert np.max(np.abs(gap.mean / gap.error)) > 15
    assert np.max(gap.error) < 0.3 * np.max(found.averaged["density"].error)


def test_mixture_of_images():
    """Densities averaged over a group, with and without a grid that fits."""
    wavefunction, group = _case("real")
    crystal = wavefunction.crystal
    observables = _one_electron(crystal) | {"odd": eqs.Density(crystal, (3, 4, 5))}
    found = eqs.observe(
        wavefunction,
        observables,
        eqs.Chains(walkers(crystal, 300), key=jax.random.key(0), steps=20, **_SETTINGS),
        group=group,
    )
    _, plain = _quadrature(wavefunction, _one_electron(crystal))
    turned = [
        np.transpose(plain["density"], axes)[
            np.ix_(*[np.arange(_BINS) * s for s in signs])
        ]
        for axes in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    assert len(turned) == group.order == 48
    _agree(found["density"], np.mean(turned, axis=0), 2e-3)
    number = _density_integral(observables["odd"], found["odd"].mean)
    np.testing.assert_allclose(number, 1, rtol=1e-12)


def test_symmetrized_densities_are_invariant():
    wavefunction, group = _case("complex")
    density = eqs.Density.for_group(group, 0.7)
    found = eqs.observe_post_hoc(
        wavefunction,
        {"density": density},
        group,
        eqs.Chains(
            walkers(wavefunction.crystal, 40),
            key=jax.random.key(0),
            steps=3,
            **_SETTINGS,
        ),
    )
    images = np.einsum("gij,...j->g...i", group.frac_rotations, density.points / 4)
    images += group.frac_translations[:, None, None, None]
    places = np.round(images * density.shape).astype(int) % density.shape
    for row, same in (("plain", False), ("mixture", True), ("averaged", True)):
        mean = getattr(found, row)["density"].mean
        error = getattr(found, row)["density"].error
        moved = [(mean[tuple(p)], error[tuple(p)]) for p in np.moveaxis(places, -1, 1)]
        gaps = [np.max(np.abs(m - mean)) for m, _ in moved]
        assert np.allclose(gaps, 0, atol=1e-12) == same
        if same:
            np.testing.assert_allclose([e for _, e in moved], [error] * 48, atol=1e-12)
        assert abs(_density_integral(density, mean) - 1) < 1e-12


@pytest.mark.slow
def test_weights_agree_with_sampling_the_average():
    """Two electrons, which the average over the group correlates. 5 errors of a
    difference, of 150 values: one key in 3000."""
    crystal = hydrogen(supercell=(2, 1, 1))
    wavefunction = waves(crystal, **_CASES["complex"])
    group = eqs.SpaceGroup.of(crystal)
    averaged = eqs.Symmetrized(wavefunction, eqs.GroupAverage(group))
    observables = {
        "density": eqs.Density.for_group(group, 1.1),
        "fourier": eqs.FourierDensity(crystal, 2.3),
        "structure": eqs.StructureFactor(crystal, 2.3),
        "pairs": eqs.PairCorrelation(crystal, 4),
        "polarization": eqs.Polarization(crystal),
    }
    settings = dict(walkers=walkers(crystal, 400), steps=40, **_SETTINGS)
    weighted = eqs.observe_post_hoc(
        wavefunction, observables, group, eqs.Chains(key=jax.random.key(0), **settings)
    )
    direct = eqs.observe(
        averaged,
        observables,
        eqs.Chains(key=jax.random.key(1), **settings),
        group=group,
    )
    assert weighted.weight.mean < 0.9
    for name in observables:
        a, b = weighted.averaged[name], direct[name]
        for part in (np.real, np.imag):
            error = np.hypot(part(a.error), part(b.error))
            assert np.all(np.abs(part(a.mean - b.mean)) <= 5 * error + 1e-10)
    gap = weighted.difference["structure"]
    assert np.max(np.abs(gap.mean) / gap.error) > 8


def test_symmetric_function_is_its_own_average():
    crystal = hydrogen()
    group = eqs.SpaceGroup.of(crystal)
    found = eqs.observe_post_hoc(
        waves(crystal, a=(0.3, 0.3, 0.3)),
        {"density": eqs.Density(crystal, (3, 3, 3))},
        group,
        eqs.Chains(walkers(crystal, 10), key=jax.random.key(0), steps=2, **_SETTINGS),
    )
    np.testing.assert_allclose(
        [found.weight.mean, found.weight.error], [1, 0], atol=1e-12
    )
    gap = found.difference["density"]
    np.testing.assert_allclose([gap.mean, gap.error], 0, atol=1e-14)


def test_chunks_and_blocks_of_unequal_size():
    """45 walkers in 32 blocks: 13 of two and 19 of one."""
    wavefunction, group = _case("real")
    group = group.generated_by([1])
    observables = _one_electron(wavefunction.crystal)
    rows = [
        eqs.observe_post_hoc(
            wavefunction,
            observables,
            group,
            eqs.Chains(
                walkers(wavefunction.crystal, 45),
                key=jax.random.key(0),
                steps=2,
                chunk=chunk,
                **_SETTINGS,
            ),
        ).averaged
        for chunk in (None, 9)
    ]
    for name in observables:
        assert rows[0][name].samples == 90
        for row in rows[1:]:
            np.testing.assert_allclose(row[name].mean, rows[0][name].mean, atol=1e-12)
            np.testing.assert_allclose(row[name].error, rows[0][name].error, atol=1e-12)


@pytest.mark.parametrize("sizes", [[3] * 16, [1] * 8 + [4] * 4 + [8] * 3])
def test_error_bars(sizes):
    """The mean square of the error of a mean is the variance of the mean; of functions
    of means too, up to terms of higher order, and their bias is removed. 4000
    experiments: 4 standard errors."""
    rng = np.random.default_rng(0)
    many = 4000
    samples = rng.normal(size=(sum(sizes), 2, many)) * [[1.0], [0.5]] + [[1.0], [4.0]]
    blocks = np.split(samples, np.cumsum(sizes)[:-1])
    totals = np.array([block.sum(axis=0) for block in blocks])
    valid = np.array(sizes, float)
    sums = _Sums({}, valid[:, None], valid, 0 * valid)

    def result(means):
        x, y = np.moveaxis(means.reshape(-1, 2, many), 1, 0)
        return np.stack([x, x / y, x**2], axis=1)

    replicates = _replicates(totals.reshape(len(sizes), -1), valid, result)
    found = _jackknife(replicates, sums, None)
    assert (found.samples, found.invalid_samples) == (sum(sizes), 0)
    for means, errors, truth in zip(found.mean, found.error, (1, 0.25, 1), strict=True):
        scatter = np.std(means)
        assert abs(np.mean(means) - truth) < 4 * scatter / np.sqrt(many)
        assert abs(np.mean(errors**2) / scatter**2 - 1) < 0.12
    if len(set(sizes)) == 1:
        textbook = np.std(totals[:, 0] / 3, axis=0, ddof=1) / np.sqrt(len(sizes))
        np.testing.assert_allclose(found.error[0], textbook)


class _Still(eqs.AbstractSampler):
    """Leaves walkers where they are."""

    def init(self, wavefunction, walkers, *, key):
        ones = [jnp.ones(())] * 4
        return MetropolisState(walkers, *ones, jnp.zeros((), int), key)

    def step(self, wavefunction, state):
        return state


class _Half(eqs.AbstractWavefunction):
    """1, and not a number if the first coordinate is more than `end`."""

    crystal: eqs.Crystal
    end: float

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        log = jnp.where(electrons[0, 0] > self.end, jnp.nan, 0.0)
        return eqs.LogPsi(jnp.ones(()), log)


class _PlaneWave(eqs.AbstractWavefunction):
    crystal: eqs.Crystal

    @property
    def crystal_momentum(self):
        return self.crystal.supercell.reciprocal[0]

    def __call__(self, electrons):
        phase = jnp.sum(electrons @ jnp.asarray(self.crystal_momentum))
        return eqs.LogPsi(jnp.exp(1j * phase), jnp.zeros(()))


def test_invalid_amplitudes_are_counted():
    crystal = hydrogen()
    places = np.zeros((64, 1, 3))
    places[40:, :, 0] = 3.0
    chains = eqs.Chains(
        jnp.asarray(places),
        key=jax.random.key(0),
        steps=2,
        burn_in=0,
        sampler=_Still(),
        progress=False,
    )
    observables = {"z": eqs.Polarization(crystal)}
    found = eqs.observe(_Half(crystal, 2.0), observables, chains)["z"]
    assert (found.samples, found.invalid_samples) == (80, 48)
    np.testing.assert_allclose(found.mean, 1, atol=1e-12)
    with pytest.raises(FloatingPointError, match="In 32 of 32 blocks of walkers"):
        eqs.observe(_Half(crystal, -1.0), observables, chains)


def test_wrong_arguments():
    wavefunction, group = _case("real")
    crystal = wavefunction.crystal
    observables = {"z": eqs.Polarization(crystal)}
    chains = eqs.Chains(walkers(crystal, 4), key=jax.random.key(0))

    def fails(match, observables, chains):
        with pytest.raises(ValueError, match=match):
            eqs.observe(wavefunction, observables, chains)
        with pytest.raises(ValueError, match=match):
            eqs.observe_post_hoc(wavefunction, observables, group, chains)

    wrong = dataclasses.replace(chains, walkers=jnp.zeros((4, 2, 3)))
    fails("`walkers` must have shape", observables, wrong)
    other = {"g": eqs.Polarization(hydrogen(twist=(0.1, 0, 0)))}
    fails(
        "`observables` must have the crystal of `wavefunction`, but 'g'", other, chains
    )
    fails("`observables` must be at least one", {}, chains)
    alien = eqs.SpaceGroup.of(hydrogen(twist=(0.1, 0, 0)))
    for function in (eqs.observe, eqs.observe_post_hoc):
        with pytest.raises(ValueError, match="must be one of this crystal"):
            function(wavefunction, observables, group=alien, chains=chains)
    # Translations by half the supercell multiply it by -1.
    double = hydrogen(supercell=(2, 1, 1), charge=1)
    with pytest.raises(ValueError, match="would be zero everywhere"):
        eqs.observe_post_hoc(
            _PlaneWave(double),
            {"z": eqs.Polarization(double)},
            eqs.SpaceGroup.of(double).with_translations(),
            eqs.Chains(walkers(double, 4), key=jax.random.key(0)),
        )
