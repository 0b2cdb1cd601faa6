"""The precision in which a user's network is evaluated: full, wherever it is."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

import eqsym as eqs
from eqsym._core import full_precision
from toys import hydrogen, Lattice, walkers


_CRYSTAL = hydrogen()
_GROUP = eqs.SpaceGroup.from_number(_CRYSTAL, 3)
_AVERAGE = eqs.GroupAverage(_GROUP)
_SEEN = []


class Network(eqs.AbstractWavefunction):
    """Takes note of the precision of its products whenever it is evaluated."""

    crystal: eqs.Crystal
    weights: Float[Array, "6 4"]

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        _SEEN.append(jax.config.jax_default_matmul_precision)
        w = electrons @ jnp.asarray(self.crystal.lattice.reciprocal).T
        h = jnp.concatenate([jnp.cos(w), jnp.sin(w)], axis=1) @ self.weights
        return eqs.LogPsi(jnp.ones(()), jnp.sum(jnp.tanh(h)))


_NETWORK = Network(_CRYSTAL, 0.3 * jax.random.normal(jax.random.key(0), (6, 4)))
_PLACES = walkers(_CRYSTAL, 4)
_CHAINS = eqs.Chains(
    _PLACES,
    key=jax.random.key(1),
    steps=1,
    burn_in=1,
    sampler=eqs.Metropolis(1),
    progress=False,
)


def _vmc(strategy, optimizer):
    return eqs.VMC(Lattice(_CRYSTAL), eqs.Metropolis(1), optimizer, strategy=strategy)


def _trained(strategy, optimizer=None):
    sgd = eqs.Optax(optax.sgd(0.1))
    vmc = _vmc(strategy, sgd if optimizer is None else optimizer)

    def step(wavefunction, places):
        state = vmc.init(wavefunction, places, key=jax.random.key(0))
        return vmc.step(state)

    eqx.filter_eval_shape(step, _NETWORK, _PLACES)


def _noise():
    vmc = _vmc(None, eqs.Optax(optax.sgd(0.1)))
    state = vmc.init(_NETWORK, _PLACES, key=jax.random.key(0))
    settings = dict(repeats=3, spacing=0, burn_in=0, progress=False)
    eqs.gradient_noise(vmc, state, key=jax.random.key(1), **settings)


def _scores():
    scores = eqs.Scores(_NETWORK, _PLACES)
    eqx.filter_eval_shape(
        lambda s: (s.transpose(_PLACES[:, 0, 0]), s.factored()), scores
    )


def _kinetic(kinetic):
    return lambda: eqx.filter_eval_shape(kinetic, _NETWORK, _PLACES[0])


def _symmetrized(symmetrizer, chunk=None):
    f = eqs.Symmetrized(_NETWORK, symmetrizer, chunk)
    return lambda: eqx.filter_eval_shape(f, _PLACES[0])


_DENSITY = {"rho": eqs.Density(_CRYSTAL, (2, 2, 2))}
_DOMAIN = eqs.FundamentalDomain.of(_GROUP)
# What evaluates a wave function: by the name of what is public, and how.
_WAYS = {
    "check_wavefunction": lambda: eqs.check_wavefunction(
        _NETWORK, key=jax.random.key(0)
    ),
    "evaluate": lambda: eqs.evaluate(
        _NETWORK, Lattice(_CRYSTAL), _CHAINS, symmetrizer=_AVERAGE
    ),
    "post_hoc": lambda: eqs.post_hoc(_NETWORK, Lattice(_CRYSTAL), _GROUP, _CHAINS),
    "sectors": lambda: eqs.sectors(_NETWORK, Lattice(_CRYSTAL), _GROUP, _CHAINS),
    "observe": lambda: eqs.observe(_NETWORK, _DENSITY, _CHAINS),
    "observe_post_hoc": lambda: eqs.observe_post_hoc(
        _NETWORK, _DENSITY, _GROUP, _CHAINS
    ),
    "translation_scan": lambda: eqs.translation_scan(
        _NETWORK, _PLACES[0], np.eye(3)[:2], points=2, progress=False
    ),
    "symmetry_ratio": lambda: eqx.filter_eval_shape(
        eqs.symmetry_ratio, _NETWORK, _AVERAGE, _PLACES[0]
    ),
    "Symmetrized": _symmetrized(_AVERAGE),
    "Symmetrized, in chunks": _symmetrized(_AVERAGE, 1),
    "Symmetrized, canonicalization": _symmetrized(eqs.Canonicalization(_DOMAIN)),
    "Scores": _scores,
    "ForwardLaplacian": _kinetic(eqs.ForwardLaplacian()),
    "HessianLaplacian": _kinetic(eqs.HessianLaplacian()),
    "VMC": lambda: _trained(None, eqs.Spring()),
    "VMC, MinSR": lambda: _trained(None, eqs.Spring.min_sr(0.1)),
    "AugmentedTraining": lambda: _trained(eqs.AugmentedTraining(_GROUP)),
    "Project": lambda: _trained(eqs.ProjectedTraining(_AVERAGE)),
    "SymmetrizedTraining": lambda: _trained(eqs.SymmetrizedTraining(_AVERAGE)),
    "gradient_noise": _noise,
}
# These evaluate through what is above, networks of this library only, or nothing.
_OTHERS = {
    "Jastrow",
    "transfer",
    "run",
    "load_run",
    "RunResult",
    "SymmetrizedOrbitals",
    "VMCState",
}


@pytest.mark.parametrize("name", _WAYS)
def test_all_products_are_in_full_precision(name):
    """Those of a user's network and Hamiltonian, and of this library: CPUs refuse any
    product of the precision that is set here."""
    _SEEN.clear()
    with jax.default_matmul_precision("TF32_TF32_F32_X3"):
        _WAYS[name]()
    assert _SEEN and set(_SEEN) == {"highest"}


def test_three_products_on_gpus_only(monkeypatch):
    def precision():
        def product(x):  # Another one each time: JAX remembers what it has traced.
            with full_precision():
                return x @ x

        jaxpr = jax.make_jaxpr(product)(jnp.ones((2, 2))).jaxpr
        (equation,) = _equations(jaxpr)
        return equation.params["precision"]

    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert precision() == highest
    with jax.default_matmul_precision("TF32_TF32_F32_X3"):
        assert precision() == highest
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert precision() == jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3


def test_precision_of_the_user_is_left_alone():
    _SEEN.clear()
    with jax.default_matmul_precision("tensorfloat32"):
        _WAYS["symmetry_ratio"]()
    assert _SEEN and set(_SEEN) == {"tensorfloat32"}


def test_derivatives_are_of_the_same_precision():
    """What JAX makes of a product when it differentiates it."""
    closed = jax.make_jaxpr(lambda f, x: eqs.Scores(f, x).transpose(x[:, 0, 0]))(
        _NETWORK, _PLACES
    )
    highest = (jax.lax.Precision.HIGHEST,) * 2
    found = [e.params["precision"] for e in _equations(closed.jaxpr)]
    assert len(found) >= 3 and set(found) == {highest}


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def test_everything_that_takes_a_wave_function_is_here():
    takers = {
        name
        for name, value in vars(eqs).items()
        if not name.startswith("_")
        and callable(value)
        and not inspect.isabstract(value)
        and "wavefunction" in inspect.signature(value).parameters
    }
    named = {name.split(",")[0] for name in _WAYS}
    assert takers - named == _OTHERS
