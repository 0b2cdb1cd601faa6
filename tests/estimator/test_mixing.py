"""Split R-hat against a naive version of the equations of Vehtari et al. (2021); drift
against the rate of false alarms it states; records against all numbers."""

import statistics

import numpy as np
import pytest

from eqsym._estimator.chain_mixing import (
    bound,
    drift,
    drifts,
    mixing,
    Record,
    split_rhat,
    worst,
)


def _naive_rhat(chains):
    """Eqs. 1 to 4, for a list of chains."""
    m, n = len(chains), len(chains[0])
    means = [statistics.fmean(chain) for chain in chains]
    whole = statistics.fmean(means)
    between = n / (m - 1) * sum((mean - whole) ** 2 for mean in means)
    within = statistics.fmean(statistics.variance(chain) for chain in chains)
    return np.sqrt(((n - 1) / n * within + between / n) / within)


def _naive_scores(chains):
    """Eq. 14, with mean ranks of ties."""
    flat = [x for chain in chains for x in chain]
    normal = statistics.NormalDist()

    def score(x):
        below, same = sum(y < x for y in flat), sum(y == x for y in flat)
        rank = below + (same + 1) / 2
        return normal.inv_cdf((rank - 3 / 8) / (len(flat) + 1 / 4))

    return [[score(x) for x in chain] for chain in chains]


def _naive_split_rhat(values):
    half = len(values) // 2
    halves = [*values[:half].T.tolist(), *values[-half:].T.tolist()]
    median = statistics.median(x for chain in halves for x in chain)
    folded = [[abs(x - median) for x in chain] for chain in halves]
    return max(_naive_rhat(_naive_scores(chains)) for chains in (halves, folded))


@pytest.mark.parametrize(("steps", "walkers"), [(4, 2), (13, 5), (20, 7)])
def test_split_rhat_is_that_of_the_paper(steps, walkers):
    """Also with heavy tails, ties, an odd number of steps and correlated chains."""
    rng = np.random.default_rng(steps)
    values = np.cumsum(rng.standard_t(1.5, size=(steps, walkers)), axis=0)
    values[steps // 2] = values[0]
    np.testing.assert_allclose(split_rhat(values), _naive_split_rhat(values))
    # By a power of two, which does not split the ties of the two values in the middle.
    np.testing.assert_allclose(split_rhat(-4 * values), split_rhat(values))


def _ar1(rng, steps, walkers, rho):
    """Stationary from the start, of variance 1."""
    x = rng.normal(size=walkers)
    found = []
    for _ in range(steps):
        x = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=walkers)
        found.append(x)
    return np.array(found)


def test_split_rhat_of_chains_in_equilibrium():
    """About 1 + tau / n for its square, with tau = (1 + rho) / (1 - rho), and below the
    bound for tau = 3. Of 200 chains it scatters by less than 0.01."""
    rng = np.random.default_rng(0)
    for steps, rho in ((400, 0.0), (400, 0.5), (400, 0.8), (40, 0.5)):
        found, n = split_rhat(_ar1(rng, steps, 200, rho)), steps // 2
        tau = (1 + rho) / (1 - rho)
        assert abs(found**2 - (1 - 1 / n + tau / n)) < 0.25 * tau / n
        if tau <= 3:
            assert found < bound(steps)


def test_split_rhat_of_chains_that_do_not_mix():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 64))
    apart, wide, late = values.copy(), values.copy(), values.copy()
    apart[:, :32] += 2
    wide[:, :32] *= 5
    late[10:] += 2
    for bad in (apart, wide, late):
        assert split_rhat(bad) > bound(20) + 0.05
    assert split_rhat(values) < bound(20) - 0.05
    # A tenth of the walkers in a place of their own.
    apart = values.copy()
    apart[:, :6] += 4
    assert split_rhat(apart) > bound(20)


def test_limits_of_split_rhat():
    still = np.repeat(np.arange(5.0)[None], 8, axis=0)
    assert split_rhat(still) == np.inf
    rounding = 1 + 1e-7 * np.random.default_rng(0).normal(size=(8, 5))
    assert split_rhat(rounding) == 1
    # Constant after folding.
    assert split_rhat(np.where(np.arange(40).reshape(8, 5) % 2 > 0, 1.0, -1.0)) <= 1
    assert split_rhat(still[:3]) is None
    assert split_rhat(still[:, :1]) is None
    # Values that are missing are left out.
    values = np.random.default_rng(0).normal(size=(100, 50))
    values[::10, ::7] = np.nan
    assert split_rhat(values) < 1.03


def test_drift_has_the_rate_of_false_alarms_that_it_states():
    """Of 1000 sets of chains with long memory, 5 % have a probability below 5 %: within
    4 standard deviations. A drift by a tenth of their width is seen."""
    rng = np.random.default_rng(0)
    found = [drift(_ar1(rng, 12, 10, 0.9)).probability for _ in range(1000)]
    assert abs(np.mean(np.array(found) < 0.05) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 1000)
    moving = rng.normal(size=(40, 400)) + 0.2 * np.arange(40)[:, None] / 40
    assert drift(moving).change > 5
    assert drift(moving).probability < 1e-6
    assert drift(moving[::-1]).change == pytest.approx(-drift(moving).change)
    assert drift(np.ones((10, 4))) == (0, 1)
    # Only the last half of a burn-in counts.
    settled = rng.normal(size=(40, 400))
    settled[:18] += 10
    assert not drifts(settled)
    assert drifts(settled[:20])


def test_records_are_bounded():
    """More steps than rows: means over blocks, whatever was asked in between."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1300, 3, 2))
    values[rng.uniform(size=values.shape) < 0.1] = np.nan
    values[:4, :2], values[:, 2, 1] = 0.5 * np.arange(4)[:, None, None], np.nan
    records = [Record.empty(3, 2)]
    for step in values:
        records.append(records[-1].add(step))
    assert records[-1].rows.shape[0] == 512 and records[-1].block == 4
    np.testing.assert_allclose(records[-1].rows[0, :2], 0.75)
    assert records[-1].filled == 1300 // 4
    # Records before are as they were, and go on alike.
    assert records[512].block == 1
    np.testing.assert_allclose(records[512].chains(0), values[:512, :, 0], rtol=1e-6)
    again = records[510]
    for step in values[510:600]:
        again = again.add(step)
    for quantity, walkers in ((0, 3), (1, 2)):
        one, other = again.chains(quantity), records[600].chains(quantity)
        assert one.shape == other.shape == (300, walkers)
        np.testing.assert_array_equal(one, other)


def test_what_is_said():
    rng = np.random.default_rng(0)
    record = Record.empty(64, 2)
    for step in rng.normal(size=(20, 64, 2)):
        step[:32, 1] += 4
        record = record.add(step)
    found = mixing(record, ("energy", "symmetry"), 7)
    assert found.energy_rhat < found.bound < found.slow_bound < found.symmetry_rhat
    assert found.potential_rhat is None and found.burn_in == 7
    assert not found.mixed and not found.drifts
    gap = f"{found.symmetry_rhat:.2f} > {found.slow_bound:.2f}"
    assert str(found) == f"{found.energy_rhat:.2f}, symmetry {gap}"
    bad = mixing(record, ("symmetry", "potential"), 7)
    assert not bad.mixed and list(bad.beyond) == ["potential energy"]
    good = mixing(record, ("energy",), 7)
    assert good.mixed and str(good) == f"{found.energy_rhat:.2f}"
    assert worst([good, found, good]) is found and worst([]) is None
