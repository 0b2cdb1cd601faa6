"""Runs that go on with another number of walkers, or from a state."""

import json
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._run.resampling import chosen_walkers, like_saved, resampled
from toys import hydrogen, Lattice, waves


_CRYSTAL = hydrogen()


def _vmc(optimizer=None, **kwargs):
    optimizer = eqs.Spring() if optimizer is None else optimizer
    return eqs.VMC(Lattice(_CRYSTAL), eqs.Metropolis(2), optimizer, **kwargs)


def _run(path, steps, *, vmc=None, start=True, **kwargs):
    if start:
        kwargs = dict(wavefunction=waves(c=(0.1, 0.2, 0.3)), walkers=4) | kwargs
    return eqs.run(
        _vmc() if vmc is None else vmc,
        steps=steps,
        key=jax.random.key(5),
        path=path,
        **dict(burn_in=3, progress=False, checkpoint_every=2) | kwargs,
    )


def _same(one, other):
    """Bit for bit."""
    assert eqx.tree_equal(one.state, other.state)


@pytest.fixture(scope="module")
def whole():
    return _run(None, 6)


@pytest.mark.parametrize("here", [3, 4, 8, 13])
def test_walkers_are_chosen_alike(here):
    chosen = chosen_walkers(4, here, key=jax.random.key(0))
    counts = np.bincount(chosen, minlength=4)
    assert len(chosen) == here and np.ptp(counts) <= (here % 4 > 0)


class _Chain(eqx.Module):
    """What a sampler may keep for each walker, and what it may not."""

    walkers: jax.Array
    amplitudes: jax.Array
    keys: jax.Array
    width: jax.Array


class _Holder(eqx.Module):
    sampler: _Chain
    layer: jax.Array


def _holder(walkers):
    numbers = jnp.arange(float(walkers))
    keys = jax.random.split(jax.random.key(walkers), walkers)
    places = jnp.tile(numbers[:, None, None], (1, 1, 3))
    return _Holder(_Chain(places, -numbers, keys, jnp.ones(())), jnp.arange(3.0))


def test_all_of_a_walker_goes_with_it():
    """And nothing else that has as many entries; copies get keys of their own."""
    like, chosen = _holder(3), np.array([1, 1, 0])
    template = like_saved(like, 3, 2)
    assert template.sampler.amplitudes.shape == (2,) and template.layer.shape == (3,)
    found = resampled(_holder(2), like, 3, chosen)
    np.testing.assert_array_equal(found.sampler.walkers[:, 0, 0], chosen)
    np.testing.assert_array_equal(found.sampler.amplitudes, -chosen)
    assert eqx.tree_equal(found.sampler.keys, like.sampler.keys)
    np.testing.assert_array_equal(found.layer, like.layer)


def test_goes_on_with_another_number(tmp_path, caplog):
    """Bit for bit the same, interrupted or not; with its step and its momentum."""
    count = 10
    others = dict(walkers=count, changed_settings=True)
    for path in (tmp_path / "one", tmp_path / "two"):
        before = _run(path, 4)
    with pytest.raises(ValueError, match=f"settings.walkers: saved 4, here {count}"):
        _run(tmp_path / "one", 6, walkers=count)
    caplog.clear()
    found = _run(tmp_path / "one", 6, **others)
    assert any(f"settings.walkers: saved 4, here {count}" in m for m in caplog.messages)
    assert found.walkers.shape == (count, 1, 3) and found.step == 6
    np.testing.assert_array_equal(found.history["energy"][:4], before.history["energy"])
    assert found.state.optimizer.count == 6
    (note,) = json.loads((tmp_path / "one" / "run.json").read_text())["sessions"][-1][
        "changed_settings"
    ]
    assert (note["step"], note["field"]) == (4, "settings.walkers")
    assert (note["before"], note["after"]) == (4, count)
    # Copies have moved apart.
    assert len(np.unique(np.round(found.walkers, 9), axis=0)) == count
    # Once it is done, it is no change any more.
    _run(tmp_path / "two", 5, **others)
    _same(_run(tmp_path / "two", 6, walkers=count), found)


def test_momentum_stays(tmp_path):
    """The state that the first step with other walkers starts from."""
    done = _run(tmp_path, 4)
    before = done.state
    saved = _run(tmp_path, 4, walkers=3, changed_settings=True).state
    assert eqx.tree_equal(saved.optimizer, before.optimizer)
    assert eqx.tree_equal(saved.wavefunction, before.wavefunction)
    # Nothing was left to do, and nothing was written.
    _same(_run(tmp_path, 4), done)


def test_goes_on_from_a_state(tmp_path, whole, caplog):
    """Of a run with the same settings as if it had not stopped, without a folder and
    with another one, which can be interrupted and loaded."""
    state = _run(None, 3).state
    _same(_run(None, 6, start=False, state=state), whole)
    with caplog.at_level(logging.WARNING, "eqsym"):
        for steps in (5, 6):
            found = _run(tmp_path, steps, start=False, state=state)
    assert not caplog.messages
    _same(found, whole)
    np.testing.assert_array_equal(found.history["step"], [4, 5, 6])
    np.testing.assert_array_equal(found.history["energy"], whole.history["energy"][3:])
    assert eqs.load_run(tmp_path, waves(c=(0.0, 0.0, 0.0))).step == 6


def test_state_of_something_else(whole, unchecked):
    run = dict(start=False, state=whole.state)
    for change in (dict(walkers=4), dict(wavefunction=waves())):
        with pytest.raises(ValueError, match=f"leave out `{next(iter(change))}`"):
            _run(None, 8, **run | change)
    adam = _vmc(eqs.Optax(optax.adam(1e-3)))
    with pytest.raises(ValueError, match="its `optimizer` is a `SpringState`, and a"):
        _run(None, 8, vmc=adam, **run)
    drawn = _vmc(strategy=eqs.AugmentedTraining(eqs.SpaceGroup.of(_CRYSTAL)))
    with pytest.raises(ValueError, match=r"`vmc.adopt\(state, key=key\)` takes over"):
        _run(None, 8, vmc=drawn, **run)
    with pytest.raises(ValueError, match="`state` must be .*, such as `result.state`"):
        _run(None, 8, start=False, state=whole)
    with pytest.raises(ValueError, match="`wavefunction` is missing"):
        _run(None, 8, start=False)
    with pytest.raises(ValueError, match="`walkers` is missing"):
        _run(None, 8, start=False, wavefunction=waves())
