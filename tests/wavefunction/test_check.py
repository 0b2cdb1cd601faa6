"""Promises of a wave function are tried before it is trained."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Complex, Float

import eqsym as eqs
from eqsym._core.math import sum_of_determinants
from toys import cart_twist, hydrogen, Lattice, walkers, waves


_CRYSTAL = hydrogen(supercell=(3, 1, 1), twist=(0.2, 0.0, 0.5))


class Constants(eqs.AbstractFixed):
    values: Complex[Array, " numbers"]


@jax.custom_vjp
def _reversed(x):
    return x


_reversed.defvjp(lambda x: (x, None), lambda _, cotangent: (cotangent,))


class Slater(eqs.AbstractWavefunction):
    """Plane waves of the twist for two electrons up and one down, each in a mean field
    of all, and what can be wrong with it."""

    crystal: eqs.Crystal
    waves: Float[Array, "orbitals 3"]
    numbers: Any = None
    wrong: str = eqx.field(default="", static=True)

    @property
    def crystal_momentum(self):
        total = cart_twist(self.crystal) * 3 + self.crystal.supercell.reciprocal[0]
        return 1.01 * total if self.wrong == "momentum" else total

    def __call__(self, electrons):
        if self.wrong == "twist":
            electrons = electrons * 1.01
        if self.wrong == "float32":
            electrons = electrons.astype(self.wrong)
        angles = electrons @ self.waves.astype(electrons.dtype).T
        b = jnp.asarray(self.crystal.supercell.reciprocal[1], electrons.dtype)
        cosines = jnp.cos(electrons @ b)
        mean = jnp.exp(0.1 * jnp.sum(cosines))
        if self.wrong == "symmetric":
            mean *= jnp.exp(0.01 * cosines[0])
        orbitals = jax.lax.complex(jnp.cos(angles), jnp.sin(angles))
        psi = sum_of_determinants(orbitals[None, :2, :2], orbitals[None, 2:, :1])
        sign, log = psi.sign, psi.log + jnp.log(mean)
        if self.wrong == "sign":
            sign = 2 * sign
        if self.wrong == "not finite":
            log = log * jnp.nan
        if self.wrong == "only in the cell":
            frac = electrons @ jnp.linalg.inv(
                jnp.asarray(self.crystal.supercell.vectors)
            )
            log = jnp.where(jnp.any((frac < -0.2) | (frac > 1.2)), jnp.nan, log)
        if self.wrong == "norm":
            apart = jnp.linalg.norm(electrons[:, None] - electrons[None], axis=-1)
            log = log - jnp.sum(apart) * 1e-9
        if self.wrong == "root":
            log = log + jnp.sum(
                jnp.sqrt(self.numbers - jax.lax.stop_gradient(self.numbers))
            )
        if self.wrong == "relu":
            log = log + 0.2 * jnp.sum(jax.nn.relu(cosines + 0.3))
        if self.wrong == "tuple":
            return sign, log
        if self.wrong == "number":
            return eqs.LogPsi(1.0, log)
        if self.wrong == "shape":
            sign, log = sign[None], log[None]
        if self.wrong == "kind":
            return jnp.exp(log)
        if self.wrong == "not vectorized":
            shape = jax.ShapeDtypeStruct((), log.dtype)
            log = jax.pure_callback(lambda log: log, shape, log)
        if self.wrong == "reverse only":
            log = _reversed(log)
        if "float" in self.wrong:
            log = log.astype(self.wrong)
        return eqs.LogPsi(sign, log)


def _slater(wrong="", **kwargs):
    # One step of the supercell's reciprocal lattice between the orbitals.
    twist, steps = (
        cart_twist(_CRYSTAL),
        _CRYSTAL.supercell.reciprocal[0],
    )
    k = jnp.asarray(twist + np.array([[0], [1]]) * steps)
    return Slater(_CRYSTAL, k, wrong=wrong, **kwargs)


_check = functools.partial(eqs.check_wavefunction, key=jax.random.key(0))


def test_accepts_what_keeps_its_promises():
    _check(_slater())
    twisted = hydrogen(supercell=(2, 1, 1), twist=(0.1, 0, 0))
    _check(waves(twisted, b=(0.1, 0.2, 0.3)), derivatives=False)
    # In single precision, where rounding is larger than what may be wrong in double.
    single = walkers(_CRYSTAL, 4).astype(jnp.float32)
    for walker, derivatives in ((single, True), (single + 100.0, False)):
        _check(_slater(), walkers=walker, derivatives=derivatives)
    # Or inside, with electrons in double.
    far = walkers(_CRYSTAL, 4) + 100.0
    _check(_slater("float32"), walkers=far, derivatives=False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("symmetric", r"two spin-up electrons exchanged, it .* by -1 \(antisymmetry\)"),
        ("twist", r"one electron moved by supercell vector 0, .*the twist \[0.2, 0.0"),
        ("momentum", r"all electrons moved by lattice vector 0, .*`crystal_momentum`"),
        ("sign", "modulus 1, .* got "),
        ("not finite", "not finite at any configuration"),
        ("only in the cell", "its amplitude is not finite or 0, and was not before"),
        ("shape", "must return a `LogPsi`"),
        ("kind", "must return a `LogPsi`"),
        ("float16", "in single or double precision, got float16, in which"),
        ("bfloat16", "in single or double precision, got bfloat16, in which"),
        ("not vectorized", "`jax.vmap` can evaluate .* needs `vmap_method="),
    ],
)
def test_says_what_fails(wrong, message):
    inside = jnp.asarray(_CRYSTAL.supercell.to_cartesian(np.full((4, 3, 3), 0.5)))
    with pytest.raises(ValueError, match=message):
        _check(_slater(wrong), walkers=inside)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "norm",
            "derivatives by the positions of the .* of 0, as in `jnp.linalg.norm`",
        ),
        ("root", "derivatives by the parameters `wavefunction.numbers` are not finite"),
        (
            "relu",
            "Its slope jumps: .* make up [1-9][0-9]% .* smooth function .* `relu`",
        ),
    ],
)
def test_derivatives(wrong, message):
    wavefunction = _slater(wrong, numbers=jnp.ones(2))
    _check(wavefunction, derivatives=False)
    with pytest.raises(ValueError, match=message):
        _check(wavefunction)


class Doubled(eqs.AbstractKinetic):
    """A wrong way to kinetic energies."""

    def __call__(self, wavefunction, electrons):
        return 2 * eqs.HessianLaplacian()(wavefunction, electrons)


def test_ways_to_kinetic_energies_agree():
    with pytest.raises(ValueError, match="`Doubled` does not agree .* by 33% of both"):
        _check(_slater(), kinetic=Doubled())
    # Where JAX has no second derivative, nothing is said about it.
    _check(_slater("reverse only"))


def test_says_what_to_type(unchecked):
    for wrong, message in (
        ("tuple", r"Return `eqs.LogPsi\(sign, log\)`"),
        (
            "number",
            r"number of JAX each .* return `eqs.LogPsi\(jnp.ones_like\(log\), log",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            _check(_slater(wrong))
    vmc = _vmc(_CRYSTAL)
    for value, message in (
        (eqx.nn.Identity(), "Derive its class from `eqs.AbstractWavefunction`, with a"),
        (lambda x: x, "Put it into a class that is derived from `eqs.AbstractWavefu"),
        (Slater, r"Make an instance of it: `Slater\(\.\.\.\)`"),
    ):
        with pytest.raises(ValueError, match=message):
            _check(value)
        with pytest.raises(ValueError, match=message):
            vmc.init(value, walkers(_CRYSTAL, 2), key=jax.random.key(0))
        with pytest.raises(ValueError, match=message):
            eqs.run(vmc, value, steps=1, walkers=2, key=jax.random.key(0))


def test_arrays_of_numpy_are_neither_parameters_nor_data():
    with pytest.raises(ValueError, match=r"`wavefunction.numbers` must be .* numpy"):
        _check(_slater(numbers=np.ones(2)))


def test_parameters_are_real():
    """The gradient of JAX by a complex number leads uphill in its imaginary part."""
    wavefunction = _slater(numbers=jnp.asarray([1 + 1j, 2]))
    for numbers in (jnp.asarray([1 + 1j, 2]), np.asarray([1 + 1j, 2])):
        with pytest.raises(ValueError, match=r"`wavefunction.numbers` must be real"):
            _check(_slater(numbers=numbers))
    parameters, rest = eqs.partition(wavefunction)
    assert parameters.numbers is None and rest.numbers is wavefunction.numbers
    _check(_slater(numbers=Constants(wavefunction.numbers)))


def _vmc(crystal, optimizer=None):
    optimizer = eqs.Spring() if optimizer is None else optimizer
    return eqs.VMC(Lattice(crystal), eqs.Metropolis(2), optimizer)


def test_is_called_before_training():
    vmc, places = _vmc(_CRYSTAL), walkers(_CRYSTAL, 6)
    init = functools.partial(vmc.init, walkers=places, key=jax.random.key(1))
    with pytest.raises(ValueError, match="antisymmetry"):
        init(_slater("symmetric"))
    # Shapes can be had without it.
    eqx.filter_eval_shape(init, _slater("symmetric"))
    good = init(_slater())
    np.testing.assert_allclose(good.sampler.walkers[0] % 4, places[0] % 4, atol=1e-9)
