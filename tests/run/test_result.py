"""The result of a run: which wave function is which, how it prints, its energy."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._run.result import correlated_error
from toys import hydrogen, waves


def _result(energies):
    return eqs.RunResult(
        wavefunction=waves(),
        trained=waves(),
        walkers=jnp.zeros((2, 1, 3)),
        step=len(energies),
        history={"energy": np.asarray(energies, float)},
        state=None,
        _group=None,
        _strategy="PlainTraining",
    )


def _autoregressive(memory, steps, series):
    """x_t = memory x_(t-1) + noise of variance 1, in equilibrium."""
    noise = np.random.default_rng(7).normal(size=(series, steps))
    noise[:, 0] /= np.sqrt(1 - memory**2)
    for t in range(1, steps):
        noise[:, t] += memory * noise[:, t - 1]
    return noise


@pytest.mark.parametrize(
    ("memory", "steps", "shares"),
    [(0.0, 100, (0.9, 1.2)), (0.8, 500, (0.9, 1.1)), (0.95, 3000, (0.9, 1.1))],
)
def test_error_of_correlated_steps(memory, steps, shares):
    """The variance of the mean of n steps is known: with s^2 = 1 / (1 - memory^2),
    s^2 / n (1 + 2 sum_t (1 - t/n) memory^t). The mean of 200 squared errors scatters
    by 3 % or less. Of 200 means 68 % are within one error, 63 % to 73 % for errors
    that are right within 5 %; outside of 56 % to 80 % with a probability of 1e-4."""
    t = np.arange(1, steps)
    known = (1 + 2 * np.sum((1 - t / steps) * memory**t)) / (1 - memory**2) / steps
    series = _autoregressive(memory, steps, series=200)
    errors = np.array([correlated_error(energies) for energies in series])
    assert _result(series[0]).energy(steps).error == errors[0]
    assert shares[0] < np.sqrt(np.mean(errors**2) / known) < shares[1]
    assert 0.56 < np.mean(np.abs(np.mean(series, axis=1)) < errors) < 0.8
    # As if steps were independent, it would be too small by this factor.
    naive = np.sqrt(known * (1 - memory**2) * steps)
    assert naive == pytest.approx(np.sqrt((1 + memory) / (1 - memory)), rel=0.05)


def test_energy_of_the_last_steps():
    energies = np.r_[np.full(30, 5.0), np.tile([1.0, np.nan, 3.0], 10)]
    result = _result(energies)
    assert result.energy(30).mean == 2.0
    assert result.energy(1000).mean == np.nanmean(energies)
    # A tenth, but 20 if there are as many.
    assert result.energy().mean == np.nanmean(energies[-20:])
    assert _result(np.arange(1000)).energy().mean == np.mean(np.arange(900, 1000))
    assert _result([2.0, 2.0]).energy().error == 0.0
    with pytest.raises(ValueError, match="`last` must be at least 2, got 1"):
        result.energy(1)
    for few in ([], [1.0], [1.0, np.nan]):
        with pytest.raises(ValueError, match="at least 2 training steps .* got"):
            _result(few).energy()


def test_prints_in_one_line():
    energies = -0.985 + 0.01 * np.sin(np.arange(40))
    result = _result(energies)
    energy = result.energy()
    assert repr(result) == f"RunResult(step 40, E = {energy} Ha over the last 20)"
    assert repr(_result(energies[:3])).endswith("over the last 3)")
    assert repr(_result([1.0])) == "RunResult(step 1)"
    assert "history={" in eqx.tree_pformat(result)


def test_group_of_the_crystal():
    """Without one that was used."""
    assert _result([1.0, 2.0]).group == eqs.SpaceGroup.of(hydrogen())


def test_energies_of_one_run_are_correlated():
    """Also of one that is loaded, or went on; those of two runs are not."""
    result, other = _result(np.arange(40)), _result(np.arange(40) - 1.0)
    for same in (result, _result(np.r_[np.nan, np.arange(100)])):
        with pytest.raises(ValueError, match="correlated"):
            result.energy() - same.energy(5)
    gap, each = result.energy() - other.energy(), result.energy().error
    assert gap.mean == 1.0 and gap.error == pytest.approx(np.sqrt(2) * each)
