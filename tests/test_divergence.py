"""Series of energies and variances that are a divergence, and others that are not."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from eqsym._divergence import Watch


_NAMES = ("step", "energy", "variance", "rejected")


def _history(energy, variance, rejected=None):
    energy, variance = np.broadcast_arrays(energy, variance)
    rejected = np.zeros(energy.shape) if rejected is None else rejected
    steps = np.arange(1, len(energy) + 1)
    columns = (np.asarray(c, float) for c in (steps, energy, variance, rejected))
    return dict(zip(_NAMES, columns, strict=True))


def _lost(history, starts=(0,)):
    """The step at which a divergence is seen, and the step to go back to."""
    watch = Watch(starts, {name: column[:0] for name, column in history.items()})
    columns = (history[name].tolist() for name in _NAMES)
    for step, *values in zip(*columns, strict=True):
        watch.see(int(step), dict(zip(_NAMES[1:], values, strict=True)))
        if watch.lost:
            return int(step), watch.good
    return None


def _calm(steps, seed=0):
    """As late in a training: energies of 1024 walkers with a variance of 3 Ha^2."""
    rng = np.random.default_rng(seed)
    energy = -8 + np.sqrt(3 / 1024) * rng.normal(size=steps)
    return energy, 3 * np.exp(0.2 * rng.normal(size=steps))


@pytest.mark.parametrize("steps", [10, 30])
def test_variance_that_grows_from_3_to_3700(steps):
    """In ten steps or thirty, after which it stays there, with energies that scatter
    accordingly. Not at once, and the state to go back to is from well before."""
    energy, variance = _calm(350)
    growth = np.geomspace(3, 3700, steps)
    variance = np.concatenate([variance, growth, np.full(60, 3700.0)])
    noise = np.random.default_rng(1).normal(size=steps + 60)
    energy = np.append(energy, -8 + noise * np.sqrt(variance[350:] / 1024))
    step, good = _lost(_history(energy, variance))
    assert 350 + 20 < step < 350 + steps + 20 and good == 300
    # Just after one mark, to the one before.
    step, good = _lost(_history(energy[45:], variance[45:]))
    assert good == 200 < step


@pytest.mark.parametrize("rise", [3.0, 30.0])
def test_energy_that_rises_and_stays(rise):
    """By more than the standard deviation of the local energy, 1.7 Ha."""
    energy, variance = _calm(300)
    energy[200:] += rise
    assert _lost(_history(energy, variance)) == (220, 100)


def test_energy_far_below_with_a_variance_far_above():
    """As of walkers that lag behind a wave function that is being lost."""
    energy, variance = _calm(300)
    energy[200:] -= 50
    variance[200:] = 8 * np.max(variance[:200])
    assert _lost(_history(energy, variance)) == (220, 100)


def test_improvements_are_none():
    """Energies and variances that fall, slowly or at once, at the start or later."""
    energy, variance = _calm(400)
    time = np.arange(400)
    for rate in (0.005, 0.05, 0.5):
        fall = np.exp(-rate * time)
        assert _lost(_history(energy + 20 * fall, variance * (1 + 100 * fall))) is None
    energy[200:] -= 40
    assert _lost(_history(energy, variance)) is None


def test_short_excursions_are_none():
    """A walker near a node for 19 steps; updates rejected in it count, others do
    not."""
    energy, variance = _calm(300)
    rejected = np.zeros(300)
    variance[200:219] = 1e6
    assert _lost(_history(energy, variance)) is None
    rejected[219] = 1
    assert _lost(_history(energy, variance, rejected)) == (220, 100)
    rejected[200:240], variance[200:] = 1, np.nan
    assert _lost(_history(energy, variance, rejected)) is None


def test_no_range_yet():
    """At the start, and where another function is trained from a step on."""
    energy, variance = _calm(300)
    variance[19:] *= 1e3
    assert _lost(_history(energy, variance)) is None
    assert _lost(_history(energy[1:], variance[1:])) is None
    variance[250:] *= 1e3
    assert _lost(_history(energy, variance)) == (270, 200)
    assert _lost(_history(energy, variance), (0, 250)) is None


def test_converged_to_nothing():
    """Ratios of variances of an eigenstate mean nothing."""
    rng = np.random.default_rng(0)
    variance = np.append(np.full(200, 1e-20), 1e-6 * rng.uniform(size=200))
    assert _lost(_history(-0.5 + 1e-3 * np.sqrt(variance), variance)) is None


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    tail=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    width=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_heavy_tails_are_none(seed, tail, width):
    """2000 independent steps with variances whose tails are so heavy that they have no
    variance, or no mean, themselves, and energies that scatter with them. A false alarm
    has a probability below 2000 times 7e-12."""
    rng = np.random.default_rng(seed)
    variance = 1 + rng.pareto(tail, size=2000)
    variance *= np.exp(width * rng.normal(size=2000))
    energy = np.sqrt(variance / 256) * rng.standard_t(2, size=2000)
    assert _lost(_history(energy, variance)) is None


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    growth=st.sampled_from([1.08, 1.3, 2.0, 10.0]),
    start=st.integers(120, 400),
)
def test_sustained_growth_is_one(seed, growth, start):
    """By 8 percent per step and more."""
    energy, variance = _calm(start + 100, seed)
    variance[start:] *= growth ** np.arange(1, 101)
    step, good = _lost(_history(energy, variance))
    assert start + 20 <= step and good <= start


def test_resumed_at_any_step():
    """All of it follows from the history."""
    energy, variance = _calm(260)
    variance[230:] *= 100
    history = _history(energy, variance)
    whole = Watch((0,), history)
    for cut in (0, 99, 150, 231, 245, 260):
        watch = Watch((0,), {name: column[:cut] for name, column in history.items()})
        for i in range(cut, 260):
            watch.see(i + 1, {name: history[name].item(i) for name in _NAMES})
        assert vars(watch).keys() == vars(whole).keys()
        assert (watch.outside, watch.first) == (whole.outside, whole.first) == (30, 231)
        assert watch.marks == whole.marks == [100, 200]
