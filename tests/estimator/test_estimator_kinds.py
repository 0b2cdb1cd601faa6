"""Arguments of estimators, as people type them: they work, or one line says what to
type instead."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._wavefunction import first_walkers
from toys import hydrogen, Lattice, walkers, waves


_CRYSTAL = hydrogen()
_WAVES = waves()
_HAMILTONIAN = Lattice(_CRYSTAL)
_GROUP = eqs.SpaceGroup.of(_CRYSTAL).generated_by([1])
_AVERAGE = eqs.GroupAverage(_GROUP)
_DENSITY = eqs.Density(_CRYSTAL, (2, 2, 2))
_KEY = jax.random.key(0)
_SETTINGS = dict(
    steps=2, burn_in=1, sampler=eqs.Metropolis(2, width=1.0), progress=False
)
_CHAINS = eqs.Chains(walkers(_CRYSTAL, 4), key=_KEY, **_SETTINGS)
_VMC = eqs.VMC(_HAMILTONIAN, eqs.Metropolis(2), eqs.Spring())

_EXCHANGED = "exchanged: the wave function comes first"
_GROUP_FIRST = "Group and chains are exchanged: the group comes first"
_MAKE_CHAINS = r"such as `eqs.Chains\(result.walkers, key=key\)` or `eqs.Chains\(256, "


def _chains(**change):
    return eqs.Chains(**dict(walkers=4, key=_KEY) | change)


def _energies(estimator, *middle):
    """An energy of the wave function and Hamiltonian, with arguments between these and
    the chains."""

    def call(wavefunction=_WAVES, hamiltonian=_HAMILTONIAN, chains=_CHAINS, **kwargs):
        return estimator(wavefunction, hamiltonian, *middle, chains, **kwargs)

    return call


def _averages(estimator, *middle):
    """An estimate of an average over a group, for wrong groups and chains."""
    return lambda group=_GROUP, chains=_CHAINS: estimator(
        _WAVES, *middle, group, chains
    )


_evaluate = _energies(eqs.evaluate)
_SAMPLING = {
    "evaluate": _evaluate,
    "post_hoc": _energies(eqs.post_hoc, _GROUP),
    "sectors": _energies(eqs.sectors, _GROUP),
    "observe": lambda wavefunction=_WAVES, chains=_CHAINS: eqs.observe(
        wavefunction, _DENSITY, chains
    ),
    "observe_post_hoc": lambda wavefunction=_WAVES, chains=_CHAINS: (
        eqs.observe_post_hoc(wavefunction, _DENSITY, _GROUP, chains)
    ),
}
_AVERAGING = {
    "post_hoc": _averages(eqs.post_hoc, _HAMILTONIAN),
    "sectors": _averages(eqs.sectors, _HAMILTONIAN),
    "observe_post_hoc": _averages(eqs.observe_post_hoc, _DENSITY),
}
_OTHERS = {
    "class": (lambda: _evaluate(eqs.SolidNet), "got the class `SolidNet`. Make an"),
    "crystal": (
        lambda: _evaluate(hamiltonian=_CRYSTAL),
        r"Make one of it: `eqs.Hamiltonian\(crystal\)`",
    ),
    "symmetrizer": (
        lambda: _evaluate(symmetrizer=_GROUP),
        "`symmetrizer` must be a symmetrizer.* Wrap it in `eqs.GroupAverage`",
    ),
    "one energy": (
        lambda: eqs.observe(_WAVES, _HAMILTONIAN, _CHAINS),
        "must be an observable, or several by name, such as `{.*`Lattice`",
    ),
    "list": (
        lambda: eqs.observe(_WAVES, [_DENSITY], _CHAINS),
        "`observables` must be .*several by name.* an instance of `list`",
    ),
    "classes": (
        lambda: eqs.observe(_WAVES, {"rho": eqs.Density}, _CHAINS),
        r"`observables\['rho'\]` must be an observable, .*the class `Density`. Make an",
    ),
    "nothing": (lambda: eqs.observe(_WAVES, {}, _CHAINS), "at least one, got none"),
    "observed group": (
        lambda: eqs.observe(_WAVES, _DENSITY, _CHAINS, group=_AVERAGE),
        "`group` must be a group.* Give the group that it was made from",
    ),
    "scan": (
        lambda: eqs.translation_scan(_HAMILTONIAN, jnp.zeros((1, 3)), np.eye(3)[:2]),
        _EXCHANGED,
    ),
    "scanned energy": (
        lambda: eqs.translation_scan(
            _WAVES, jnp.zeros((1, 3)), np.eye(3)[:2], hamiltonian=_CRYSTAL
        ),
        "Make one of it",
    ),
    "scanned walkers": (
        lambda: eqs.translation_scan(_WAVES, jnp.zeros((4, 1, 3)), np.eye(3)[:2]),
        r"`electrons` must be one .*`result.walkers\[0\]`, got shape \(4, 1, 3\)",
    ),
    "averaged over twists": (
        lambda: eqs.twist_average([_CHAINS], np.ones(1)),
        r"`evaluations\[0\]` must be what `eqs.evaluate` returns, or",
    ),
    "noise": (
        lambda: eqs.gradient_noise(_VMC, _WAVES, key=_KEY),
        "`state` must be a state of training, such as `result.state`, got",
    ),
    "noise of chains": (
        lambda: eqs.gradient_noise(_CHAINS, _CHAINS, key=_KEY),
        "`vmc` must be what takes training steps",
    ),
    "seed": (lambda: _chains(key=0), r"such as `jax.random.key\(0\)`, got 0"),
    "class of moves": (
        lambda: _chains(sampler=eqs.Metropolis),
        r"the class `Metropolis`. Make an instance of it: `Metropolis\(...\)`",
    ),
    "name of moves": (
        lambda: _chains(sampler="m"),
        r"`sampler` must be a sampler, such as `eqs.Metropolis\(\)`, got 'm'",
    ),
    "optimizer": (lambda: _chains(sampler=eqs.Spring()), "train nothing: leave it out"),
    "float": (lambda: _chains(steps=1e3), "an integer, got 1000.0: write 1000"),
    "many": (lambda: _chains(walkers=64.0), "an integer, got 64.0: write 64"),
    "one": (lambda: _chains(walkers=1), "`walkers` must be at least 2, .* got 1"),
    "state": (
        lambda: _chains(walkers=_CHAINS),
        "a number of walkers, or positions in Bohr, such as `result.walkers`, got an",
    ),
    "text": (lambda: _chains(walkers="64"), "a number of walkers, .* got '64'"),
    "complex": (lambda: _chains(walkers=1j * np.ones((4, 1, 3))), "of shape .*: Can"),
}


def _refuses(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", _SAMPLING)
@pytest.mark.parametrize("chains", [walkers(_CRYSTAL, 4), 64, _AVERAGE, None])
def test_chains_are_made(name, chains, unchecked):
    _refuses(lambda: _SAMPLING[name](chains=chains), _MAKE_CHAINS)


@pytest.mark.parametrize("name", _SAMPLING)
def test_wave_function_and_hamiltonian(name, unchecked):
    _refuses(lambda: _SAMPLING[name](wavefunction=_HAMILTONIAN), _EXCHANGED)
    _refuses(lambda: _SAMPLING[name](wavefunction=None), "such as `result.trained`")
    if "observe" not in name:
        _refuses(lambda: _SAMPLING[name](hamiltonian=_WAVES), _EXCHANGED)


@pytest.mark.parametrize("name", _AVERAGING)
def test_groups(name, unchecked):
    average = _AVERAGING[name]
    _refuses(lambda: average(group=_CHAINS, chains=_GROUP), _GROUP_FIRST)
    _refuses(lambda: average(chains=_GROUP), _GROUP_FIRST)
    _refuses(lambda: average(group=_AVERAGE), "Give the group that it was made from")
    _refuses(lambda: average(group=_CRYSTAL), r"`eqs.SpaceGroup.of\(crystal\)`")
    _refuses(lambda: average(group=eqs.SpaceGroup), "the class `SpaceGroup`. Make")


@pytest.mark.parametrize("name", _OTHERS)
def test_others(name, unchecked):
    _refuses(*_OTHERS[name])


def _same(one, other):
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.error, other.error)


@pytest.mark.parametrize("estimator", ["observe", "observe_post_hoc"])
def test_one_observable_needs_no_name(estimator):
    group = [_GROUP] * (estimator == "observe_post_hoc")

    def observed(observables):
        found = getattr(eqs, estimator)(_WAVES, observables, *group, _CHAINS)
        return found.plain if group else found

    found = observed(_DENSITY)
    assert list(found) == ["Density"]
    _same(found["Density"], observed({"rho": _DENSITY})["rho"])


def test_a_number_of_walkers():
    """From clouds around nuclei, others with another key; a longer burn-in."""
    chains = eqs.Chains(6, key=_KEY, **_SETTINGS)
    assert (eqs.Chains(6, key=_KEY).burn_in, _chains(burn_in=3).burn_in) == (100, 3)
    assert eqs.Chains(walkers(_CRYSTAL, 6), key=_KEY).burn_in == 20
    one, same, other = (
        eqs.evaluate(_WAVES, _HAMILTONIAN, dataclasses.replace(chains, key=key))
        for key in (_KEY, _KEY, jax.random.key(1))
    )
    assert one.samples == 12
    _same(one.energy, same.energy)
    assert one.energy.mean != other.energy.mean


def test_a_number_starts_from_clouds():
    found = first_walkers(5, _CRYSTAL, key=_KEY)
    clouds = eqs.initial_walkers(_CRYSTAL, 5, key=_KEY)
    np.testing.assert_array_equal(found, clouds)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, list])
def test_walkers_of_any_kind(kind):
    places = np.round(np.asarray(walkers(_CRYSTAL, 4)))
    given = places.tolist() if kind is list else places.astype(kind)
    found = eqs.Chains(given, key=_KEY).walkers
    assert isinstance(found, jax.Array)
    assert found.dtype == (kind if kind is np.float32 else np.float64)
    np.testing.assert_array_equal(found, places)


def test_double_precision_where_there_is_single():
    with jax.enable_x64(False):
        chains = eqs.Chains(np.ones((4, 1, 3)), key=_KEY)
    assert chains.walkers.dtype == jnp.float32


def test_keys_of_old(unchecked):
    chains = eqs.Chains(4, key=jax.random.PRNGKey(0))
    assert jnp.array_equal(*map(jax.random.key_data, (chains.key, _KEY)))


@pytest.mark.parametrize("name", _SAMPLING)
def test_warnings_begin_with_what_was_called(name, caplog):
    """One electron in chains that never move: they have not mixed."""
    still = dataclasses.replace(
        _CHAINS, sampler=eqs.Metropolis(1, width=1e-6), steps=40, burn_in=0
    )
    _SAMPLING[name](chains=still)
    assert caplog.messages
    assert all(re.match(rf"{name}[:,] ", message) for message in caplog.messages)
