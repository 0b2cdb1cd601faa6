"""Walkers spread over devices: same numbers as on one."""

import os
import subprocess
import sys

import jax
import pytest

import eqsym as eqs
from toys import hydrogen, walkers


_SCRIPT = """
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_enable_x64", True)
import equinox as eqx, numpy as np
import eqsym as eqs
from toys import Lattice, hydrogen, walkers, waves

wavefunction = waves(hydrogen(supercell=(2, 1, 1)), b=(0.1, 0.2, 0.3))
crystal = wavefunction.crystal
mesh = eqs.device_mesh()
assert mesh.shape == {"walkers": 4}
assert eqs.device_mesh(2).shape == {"walkers": 2}
vmc = eqs.VMC(Lattice(crystal), eqs.Metropolis(3), eqs.Spring(), chunk=2)
places = walkers(crystal, 8)
state = vmc.init(wavefunction, places, key=jax.random.key(0))
sharded = eqs.replicate(state, mesh)
sharded = eqx.tree_at(
    lambda s: s.sampler.walkers, sharded, eqs.shard_walkers(places, mesh)
)
spread = lambda s: {x.data.shape[0] for x in s.sampler.walkers.addressable_shards}
assert spread(sharded) == {2}
step = eqx.filter_jit(vmc.step)
for _ in range(2):
    state, seen = step(state)
    sharded, also = step(sharded)
assert len(sharded.sampler.walkers.sharding.device_set) == 4
assert len(jax.tree.leaves(sharded.wavefunction)[0].sharding.device_set) == 4
close = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
numbers = lambda s: [x for x in jax.tree.leaves(s) if eqx.is_inexact_array(x)]
for a, b in ((seen, also), (state, sharded)):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        close(x, y)

results = [
    eqs.run(
        vmc, wavefunction, steps=2, walkers=8, key=jax.random.key(1), mesh=m,
        burn_in=1, progress=False,
    )
    for m in (None, mesh)
]
close(*(r.walkers for r in results))
close(*(r.history["energy"] for r in results))
assert spread(results[1].state) == {2}
print("done")
"""


def test_four_devices():
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.pathsep.join([here, os.path.dirname(here)])
    found = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "done"


def test_one_device():
    mesh = eqs.device_mesh(1)
    places = walkers(hydrogen(), 3)
    assert (eqs.shard_walkers(places, mesh) == places).all()
    tree = eqs.replicate({"x": places, "name": "y"}, mesh)
    assert tree["name"] == "y"
    assert isinstance(tree["x"], jax.Array)


def test_refuses_walkers_that_do_not_divide():
    class FourDevices:
        shape = {"walkers": 4}

    for count, nearest in ((6, "4 and 8"), (3, "do: 4")):
        with pytest.raises(ValueError, match=f"divide over 4 devices, .*{nearest}"):
            eqs.shard_walkers.__wrapped__(walkers(hydrogen(), count), FourDevices())
