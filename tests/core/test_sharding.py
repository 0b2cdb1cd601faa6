"""Walkers and operations spread over devices: same numbers as on one."""

import inspect
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

import eqsym as eqs
from toys import hydrogen, walkers


_START = r"""
import jax
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_x64", True)
import re, sys
import equinox as eqx, numpy as np
import eqsym as eqs
from eqsym._core.sharding import on_mesh
from toys import Lattice, hydrogen, walkers, waves
MESHES = [
    eqs.device_mesh(operations=operations, devices=devices)
    for devices, operations in ((1, 1), (8, 1), (4, 2), (2, 1), (4, 1), (8, 8))
]


def largest(text):
    # Numbers in the largest array of one device.
    shapes = re.findall(r"f64\[([\d,]+)\]", text)
    return max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)


def same(one, other):
    for a, b in zip(
        jax.tree.leaves(eqx.filter(one, eqx.is_inexact_array)),
        jax.tree.leaves(eqx.filter(other, eqx.is_inexact_array)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
"""

_STEPS = """
crystal = hydrogen(supercell=(2, 1, 1))
wavefunction = waves(crystal, b=(0.1, 0.2, 0.3))
group = eqs.SpaceGroup.of(crystal)
vmc = eqs.VMC(
    Lattice(crystal),
    eqs.Metropolis(3),
    eqs.Spring(),
    strategy=eqs.SymmetrizedTraining(eqs.GroupAverage(group)),
    chunk=8,
)
meshes = MESHES[:int(sys.argv[1])]
results = [
    eqs.run(
        vmc, wavefunction, steps=2, walkers=16, key=jax.random.key(1), mesh=mesh,
        burn_in=1, progress=False,
    )
    for mesh in (None, *meshes)
]
alone, *others = results
for mesh, found in zip(meshes, others, strict=True):
    shards = found.walkers.addressable_shards
    assert {x.data.shape[0] for x in shards} == {16 // mesh.shape["walkers"]}
    for leaf in jax.tree.leaves(found.wavefunction):
        assert len(leaf.sharding.device_set) == mesh.size
    np.testing.assert_allclose(found.walkers, alone.walkers, rtol=0, atol=1e-12)
    same(found.state, alone.state)
print("done")
"""

_NETWORK = """
crystal = eqs.Crystal.rock_salt("Li", "H", a=4.0, unit="angstrom")
gamma = np.zeros((2, 3))
network = eqs.SolidNet(
    crystal, eqs.Occupation((gamma, gamma)), widths=((24, 6), (23, 6)),
    determinants=2, key=jax.random.key(0),
)
"""

_SCORES = """
# So many that the largest array is one of inner products, not the layers' inputs of all
# walkers, of which every device gets a block at a time.
places = eqs.initial_walkers(crystal, 64, key=jax.random.key(1))


def gram(walkers):
    return eqs.Scores(network, walkers).factored().gram()


found = {}
for mesh in (MESHES[0], MESHES[1], MESHES[4]):
    with on_mesh(mesh):
        compiled = jax.jit(gram).lower(eqs.shard_walkers(places, mesh)).compile()
        value = np.asarray(compiled(eqs.shard_walkers(places, mesh)))
    found[tuple(mesh.shape.values())] = value, largest(compiled.as_text())
(whole, most), *others = found.values()
for value, _ in others:
    np.testing.assert_allclose(value, whole, rtol=1e-9, atol=1e-12)
print(most, *(size for _, size in others))
"""


_IMAGES = """
crystal = hydrogen(supercell=(2, 1, 1))
group = eqs.SpaceGroup.of(crystal)
places, operations = walkers(crystal, 16), []
for chunk in (None, 8):
    averaged = eqs.Symmetrized(
        waves(crystal, b=(0.1, 0.2, 0.3)), eqs.GroupAverage(group), chunk
    )
    amplitudes = jax.jit(jax.vmap(lambda electrons: averaged(electrons).log))
    for mesh in (MESHES[0], MESHES[5]):
        with on_mesh(mesh):
            lowered = amplitudes.lower(eqs.shard_walkers(places, mesh))
            operations.append(lowered.compile().cost_analysis()["flops"])
print(*operations)
"""

_RESUMED = """
optimizer = getattr(eqs, sys.argv[2])(chunk=4)
vmc = eqs.VMC(eqs.Hamiltonian(crystal), eqs.Metropolis(2), optimizer, chunk=4)


def trained(steps, mesh=None, path=None):
    return eqs.run(
        vmc, network, steps=steps, walkers=8, key=jax.random.key(1), mesh=mesh,
        burn_in=1, path=path, progress=False,
    )


for steps, mesh in enumerate((None, MESHES[2], MESHES[3]), start=1):
    resumed = trained(steps, mesh, sys.argv[1])
    assert resumed.state.step == steps
same(resumed.state, trained(3).state)
print("done")
"""

_ESTIMATES = """
crystal = hydrogen(supercell=(2, 1, 1))
group = eqs.SpaceGroup.of(crystal)
f, hamiltonian = waves(crystal, b=(0.1, 0.2, 0.3)), Lattice(crystal)
density = {"density": eqs.Density(crystal, (2, 1, 1))}
average = eqs.GroupAverage(group)
strategies = (
    eqs.AugmentedTraining(group, 2),
    eqs.ProjectedTraining(average, orbit_points=4),
)


def numbers(mesh):
    places = walkers(crystal, 16)
    places = places if mesh is None else eqs.shard_walkers(places, mesh)
    chains = eqs.Chains(
        places, key=jax.random.key(1), steps=2, burn_in=1, progress=False
    )
    averaged = eqs.Symmetrized(f, eqs.GroupAverage(group), 6)
    found = [
        eqs.evaluate(averaged, hamiltonian, chains),
        [s.energy for s in eqs.sectors(f, hamiltonian, group, chains).sectors],
        eqs.observe_post_hoc(f, density, group, chains).averaged["density"].mean,
    ]
    for strategy in strategies:
        vmc = eqs.VMC(
            hamiltonian, eqs.Metropolis(2), eqs.Spring(), strategy=strategy
        )
        trained = eqs.run(
            vmc, f, steps=2, walkers=16, key=jax.random.key(1), mesh=mesh, burn_in=1,
            progress=False,
        )
        found.append(trained.wavefunction.a)
    noise = eqs.gradient_noise(
        vmc, trained.state, key=jax.random.key(2), repeats=3, spacing=0, burn_in=0,
        progress=False,
    )
    found.append(noise.update.deviation.mean)
    return [
        np.array([leaf.mean, leaf.error]) if isinstance(leaf, eqs.Estimate)
        else np.asarray(leaf)
        for leaf in jax.tree.leaves(found)
    ]


mesh = eqs.device_mesh(devices=4, operations=2)
alone, one, again = numbers(None), numbers(mesh), numbers(mesh)
assert len(alone) > 5
for a, b, c in zip(one, again, alone, strict=True):
    np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, c, rtol=1e-8, atol=1e-10)
print("done")
"""


def _run(script, *arguments):
    tests = pathlib.Path(__file__).resolve().parents[1]
    path = os.pathsep.join(map(str, [tests, tests.parent]))
    found = subprocess.run(
        [sys.executable, "-c", _START + script, *arguments],
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@pytest.mark.parametrize(
    "meshes", [3, pytest.param(6, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_steps_do_not_depend_on_the_mesh(meshes):
    """One device, and 1, 2, 4 and 8 of them along either axis."""
    assert _run(_STEPS, str(meshes)) == "done"


@pytest.mark.slow
def test_estimates_and_strategies_do_not_depend_on_the_mesh():
    """And on the same mesh they are the same bit for bit."""
    assert _run(_ESTIMATES) == "done"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["Spring", "Kfac"])
def test_a_network_goes_on_on_other_meshes(tmp_path, optimizer):
    """From one device to eight along both axes, and to two."""
    assert _run(_NETWORK + _RESUMED, str(tmp_path / "run"), optimizer) == "done"


def test_no_device_computes_all_images():
    """Operations of one device, with all images and with an eighth of them, at once and
    in chunks."""
    whole, eighth, chunk, eighth_of_chunk = map(float, _run(_IMAGES).split())
    assert whole / eighth == pytest.approx(8, rel=0.15)
    assert chunk / eighth_of_chunk == pytest.approx(8, rel=0.15)


@pytest.mark.slow
def test_no_device_holds_all_scores():
    """The largest array of one device, with all walkers and with an eighth and a fourth
    of them. Parameters do not divide over eight devices, and are padded."""
    alone, eighth, fourth = (int(size) for size in _run(_NETWORK + _SCORES).split())
    assert 8 * eighth == pytest.approx(alone, rel=0.01)
    assert 4 * fourth == pytest.approx(alone, rel=0.01)


def test_one_device():
    mesh = eqs.device_mesh(devices=1)
    places = walkers(hydrogen(), 3)
    assert (eqs.shard_walkers(places, mesh) == places).all()
    tree = eqs.replicate({"x": places, "name": "y"}, mesh)
    assert tree["name"] == "y"
    assert isinstance(tree["x"], jax.Array)


def test_refuses_devices_that_are_not_there():
    count = len(jax.devices())
    with pytest.raises(ValueError, match=f"from 1 to the {count} of .*, got 99"):
        eqs.device_mesh(devices=99)
    with pytest.raises(ValueError, match="must divide the 1 devices, got 2. .*do: 1"):
        eqs.device_mesh(operations=2, devices=1)


def test_refuses_another_mesh():
    mesh = jax.make_mesh((1,), ("x",))
    with pytest.raises(
        ValueError, match="axes `walkers` and `operations` .* got axes .'x'"
    ):
        eqs.shard_walkers(walkers(hydrogen(), 2), mesh)
    # Of which the library itself makes no use.
    with jax.set_mesh(mesh):
        assert eqs.SpaceGroup.of(hydrogen()).apply(jnp.ones((1, 3))).shape == (48, 1, 3)


def test_refuses_walkers_that_do_not_divide():
    class FourDevices:
        shape = {"walkers": 4, "operations": 1}
        axis_types = (jax.sharding.AxisType.Auto,)

    shard = inspect.unwrap(eqs.shard_walkers)
    for count, nearest in ((6, "4 and 8"), (3, "do: 4")):
        with pytest.raises(ValueError, match=f"divide over 4 devices, .*{nearest}"):
            shard(walkers(hydrogen(), count), FourDevices())
