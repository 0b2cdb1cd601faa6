"""What has been compiled once is found again: states that were saved and restored, and
walkers that were loaded, go through the programs of those that were not."""

import equinox as eqx
import jax
import numpy as np
import pytest

import eqsym as eqs
from eqsym import device_mesh, replicate
from eqsym._run.loop import _moved, _unburnt
from eqsym._run.stepping import TrainingStep
from toys import hydrogen, Lattice, small_network, walkers, waves


_CRYSTAL = hydrogen()
_KEY = jax.random.key(5)


def _vmc():
    return eqs.VMC(Lattice(_CRYSTAL), eqs.Metropolis(2), eqs.Spring(0.1))


def _training():
    vmc = _vmc()
    state = vmc.init(waves(), walkers(_CRYSTAL, 4), key=_KEY, check=False)
    return state, TrainingStep(vmc).lower


def _burn_in():
    vmc, (state, _) = _vmc(), _training()
    return _unburnt(state), lambda state: _moved.lower(vmc, state)


def _pretraining():
    mean_field = eqs.MeanField.solve(_CRYSTAL, basis="sto-3g")
    network = small_network(_CRYSTAL, np.zeros((1, 3)), np.zeros((0, 3)))
    pretraining = eqs.Pretraining(mean_field, 4, sampler=eqs.Metropolis(1))
    state = pretraining.init(network, walkers(_CRYSTAL, 4), key=_KEY)
    return state, eqx.filter_jit(pretraining.step).lower


@pytest.mark.parametrize("phase", (_training, _burn_in, _pretraining))
def test_restored_states_are_no_others(tmp_path, phase):
    """Of every phase of a run: the same text, by which JAX finds compiled programs on
    the disk."""
    state, lower = phase()
    expected = lower(state).as_text()
    eqs.checkpoint.save(tmp_path, 0, state)
    restored = eqs.checkpoint.restore(tmp_path, 0, state)
    assert lower(restored).as_text() == expected


def test_restored_states_stay_on_their_devices(tmp_path):
    """If they were put there: others would compute elsewhere."""
    state, lower = _training()
    bound = replicate(state, device_mesh(devices=1))
    assert lower(bound).as_text() != lower(state).as_text()
    eqs.checkpoint.save(tmp_path, 0, bound)
    restored = eqs.checkpoint.restore(tmp_path, 0, bound)
    for found, expected in zip(
        jax.tree.leaves(restored), jax.tree.leaves(bound), strict=True
    ):
        if isinstance(expected, jax.Array):
            assert found.committed and found.sharding == expected.sharding


def test_estimates_of_loaded_walkers_are_no_others(tmp_path):
    result = eqs.run(
        _vmc(),
        waves(c=(0.1, 0.2, 0.3)),
        steps=1,
        walkers=4,
        key=_KEY,
        burn_in=0,
        path=tmp_path,
        progress=False,
    )
    loaded = eqs.load_run(tmp_path, waves(c=(0.0, 0.0, 0.0)))

    def lowered(found):
        state = eqs.Metropolis(2).init(found.wavefunction, found.walkers, key=_KEY)
        step = eqx.filter_jit(eqs.Metropolis(2).step)
        return step.lower(found.wavefunction, state).as_text()

    assert lowered(loaded) == lowered(result)
