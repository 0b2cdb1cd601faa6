"""Integers are integers, whoever made them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._core.types import random_key, whole_number
from toys import hydrogen, Lattice, walkers, waves


@pytest.mark.parametrize(
    "value", [3, np.int64(3), np.uint8(3), np.array(3), jnp.asarray(3)], ids=repr
)
def test_integers_of_all_kinds_are_stored_as_int(value):
    assert type(whole_number("n", value, 1)) is int
    assert whole_number("n", value, 3) == 3
    assert whole_number("n", np.float32(3), floats=True) == 3


@pytest.mark.parametrize("value", [2.5, 2.0, "64", True, np.True_, None, [2], np.nan])
def test_nothing_else_is_an_integer(value):
    with pytest.raises(ValueError, match="`n` must be an integer, got"):
        whole_number("n", value)


def test_messages_show_no_whole_arrays():
    for value in (np.zeros((3, 2)), jnp.zeros((3, 2))):
        with pytest.raises(ValueError, match=r"got an array of shape \(3, 2\)\.$"):
            whole_number("n", value)
    with pytest.raises(ValueError, match=r"got \[0, 0, 0, .*\.\.\.\.$"):
        whole_number("n", [0] * 99)


def test_random_keys(unchecked):
    key = jax.random.key(3)
    for given in (key, jax.random.PRNGKey(3)):
        assert random_key(given) == key
    for wrong in (0, None, jax.random.split(key), jnp.zeros(2)):
        with pytest.raises(ValueError, match=r"such as `jax.random.key\(0\)`, got "):
            random_key(wrong)
    # Before any work.
    for call in (
        lambda: eqs.run(vmc(), waves(), steps=1, walkers=2, key=7),
        lambda: eqs.check_wavefunction(waves(), key=7),
    ):
        with pytest.raises(ValueError, match=r"`jax.random.key\(7\)`, got 7"):
            call()


def test_whole_numbers_have_a_least_one():
    with pytest.raises(ValueError, match="`n` must be at least 1 walker, got 0"):
        whole_number("n", 0, 1, of="walker")
    with pytest.raises(ValueError, match="`n` must not be negative, got -1"):
        whole_number("n", -1, 0)
    with pytest.raises(ValueError, match="`n` must be an integer, got 2.5"):
        whole_number("n", 2.5, floats=True)


@functools.cache
def group():
    return eqs.SpaceGroup.of(hydrogen())


def vmc(**kwargs):
    return eqs.VMC(
        Lattice(hydrogen()), eqs.Metropolis(1), eqs.Optax(optax.sgd(0.1)), **kwargs
    )


def network(**kwargs):
    occupation = eqs.Occupation(([[0.0, 0.0, 0.0]], []))
    return eqs.SolidNet(hydrogen(), occupation, key=jax.random.key(0), **kwargs)


# The argument, what it is an argument of, and where it is kept.
KEPT = {
    "moves": (lambda n: eqs.Metropolis(n), "moves"),
    "size": (lambda n: eqs.RandomSubset(group(), n), "size"),
    "copies": (lambda n: eqs.AugmentedTraining(group(), n), "copies"),
    "local_energies": (
        lambda n: eqs.ProjectedTraining(eqs.GroupAverage(group()), local_energies=n),
        "orbit_points",
    ),
    "row": (lambda n: eqs.IrrepProjection(group(), "T1u", row=n), "row"),
    "bins": (lambda n: eqs.PairCorrelation(hydrogen(charge=-1), n), "bins"),
    "atoms": (
        lambda n: eqs.Crystal.hydrogen_chain(
            spacing=2.0, vacuum=20.0, atoms=n, unit="bohr"
        ),
        "cells",
    ),
    "spin": (lambda n: hydrogen(charge=-1, spin=n), "electrons"),
    "charge": (lambda n: hydrogen(supercell=4, charge=n), "electrons"),
    "supercell": (lambda n: hydrogen(supercell=n), "_matrix"),
    "vacuum": (
        lambda n: eqs.SpaceGroup.of(
            eqs.Crystal.graphene(a=4.6, vacuum=20.0, unit="bohr"), vacuum=(n,)
        ),
        "vacuum",
    ),
}
CHUNKED = {
    "VMC": lambda n: vmc(chunk=n),
    "Spring": lambda n: eqs.Spring(chunk=n),
    "Optax": lambda n: eqs.Optax(optax.sgd(0.1), chunk=n),
    "AugmentedTraining": lambda n: eqs.AugmentedTraining(group(), chunk=n),
    "Project": lambda n: eqs.ProjectedTraining(eqs.GroupAverage(group()), chunk=n),
}
ALL = [
    *((name, name, make, kept) for name, (make, kept) in KEPT.items()),
    *((name, "chunk", make, "chunk") for name, make in CHUNKED.items()),
    (
        "Symmetrized",
        "operation_chunk",
        lambda n: eqs.Symmetrized(waves(), eqs.GroupAverage(group()), n),
        "operation_chunk",
    ),
]


def only_python(value):
    return type(value) is int or (
        isinstance(value, tuple) and all(only_python(part) for part in value)
    )


@pytest.mark.parametrize("_, name, make, kept", ALL, ids=[row[0] for row in ALL])
def test_settings_take_integers_of_numpy_and_nothing_else(
    _, name, make, kept, unchecked
):
    found, expected = (getattr(make(n), kept) for n in (np.int64(2), 2))
    assert found == expected and only_python(found)
    for wrong in (2.5, "2", True, [2]):
        with pytest.raises(ValueError, match=f"`{name}`"):
            make(wrong)


def test_networks_and_pretraining_take_integers_of_numpy(unchecked):
    small = network(widths=((np.int64(4), np.int32(2)),), determinants=np.int64(2))
    assert small.determinants == 2 and type(small.determinants) is int
    unsolved = object.__new__(eqs.MeanField)
    assert type(eqs.Pretraining(unsolved, np.int64(3)).steps) is int
    for wrong in (2.5, "64", True, None):
        with pytest.raises(ValueError, match="`determinants`"):
            network(determinants=wrong)
        with pytest.raises(ValueError, match="`widths`"):
            network(widths=((wrong, 2),))
        with pytest.raises(ValueError, match="`steps`"):
            eqs.Pretraining(unsolved, wrong)


def test_counts_of_numpy_are_counts(tmp_path):
    wavefunction, key = waves(), jax.random.key(0)
    settings = dict(key=key, burn_in=np.int64(1), progress=False)
    done = eqs.run(
        vmc(),
        wavefunction,
        steps=np.int64(2),
        walkers=np.int64(4),
        checkpoint_every=np.int32(1),
        path=tmp_path,
        **settings,
    )
    assert done.walkers.shape == (4, 1, 3)
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 2
    found = eqs.evaluate(
        wavefunction,
        Lattice(hydrogen()),
        eqs.Chains(done.walkers, steps=np.int64(2), chunk=np.int32(2), **settings),
    )
    assert found.samples == 8
    eqs.checkpoint.save(tmp_path / "own", np.int64(3), {"x": jnp.ones(2)})
    eqs.checkpoint.restore(tmp_path / "own", np.int64(3), {"x": jnp.zeros(2)})
    assert eqs.SpaceGroup.from_number(hydrogen(), np.int64(221)).order == 48
    assert len(eqs.irreducible_twists(hydrogen(), np.array([2, 2, 2])).weights) == 4


@pytest.mark.parametrize("wrong", [2.5, "64", True, None], ids=repr)
def test_counts_that_are_not_integers_are_refused_before_work(
    wrong, tmp_path, unchecked
):
    """Also before the pretraining and the folder."""
    wavefunction, key = waves(), jax.random.key(0)
    x, hamiltonian = walkers(hydrogen(), 4), Lattice(hydrogen())

    # Without a mean field it cannot begin.
    pretraining = eqs.Pretraining(object.__new__(eqs.MeanField), 1)
    good = dict(steps=2, walkers=4, burn_in=1, checkpoint_every=1)
    for name in good:
        others = {None: "is missing", "64": "must be a number of walkers"}
        message = "must be an integer"
        if name == "walkers" and not isinstance(wrong, (bool, float)):
            message = others[wrong]
        with pytest.raises(ValueError, match=f"`{name}` {message}"):
            eqs.run(
                vmc(),
                wavefunction,
                key=key,
                path=tmp_path / "run",
                pretraining=pretraining,
                **good | {name: wrong},
            )
    assert not (tmp_path / "run").exists()
    for name in ["steps"] + ([] if wrong is None else ["burn_in", "chunk"]):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
            eqs.Chains(x, key=key, **{name: wrong})
    chains = eqs.Chains(x, key=key)
    for estimator in (eqs.post_hoc, eqs.sectors):
        for name in ["local_energies"] + ([] if wrong is None else ["orbit_points"]):
            with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
                estimator(wavefunction, hamiltonian, group(), chains, **{name: wrong})
    with pytest.raises(ValueError, match="`count` must be an integer"):
        eqs.initial_walkers(hydrogen(), wrong, key=key)
    with pytest.raises(ValueError, match="`points` must be an integer"):
        eqs.translation_scan(wavefunction, x[0], np.eye(2, 3), points=wrong)
    state = vmc().init(wavefunction, x, key=key)
    for name in ("repeats", "spacing", "burn_in"):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer"):
            eqs.gradient_noise(vmc(), state, key=key, **{name: wrong})
    with pytest.raises(ValueError, match="`operations` must be an integer"):
        eqs.device_mesh(operations=wrong)
    with pytest.raises(ValueError, match="`mesh` must be three integers"):
        eqs.irreducible_twists(hydrogen(), (wrong,) * 3)
    for name, make in (
        ("number", eqs.SpaceGroup.from_number),
        ("number", eqs.SpaceGroup.layer_group),
        ("group", eqs.SpaceGroup.plane_group),
        ("hall_number", eqs.SpaceGroup.from_hall_number),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            make(hydrogen(), wrong)
