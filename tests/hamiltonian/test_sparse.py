"""Derivatives that are kept sparse, against those of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.extend.core import jaxprs_in_params

import eqsym as eqs
from eqsym._hamiltonian import sums
from eqsym._hamiltonian.laplacian import forward_laplacian


quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

_N = 4
_RNG = np.random.default_rng(5)
_X = jnp.asarray(_RNG.normal(size=(_N, 3)))
_MATRIX = jnp.asarray(_RNG.normal(size=(3, 3)))
_WEIGHTS = jnp.asarray(_RNG.normal(size=(_N, _N, 3)))
_FLAT = _N * _N, 3


def _through(shape, function):
    return lambda a, b: function(a.reshape(shape)).reshape(a.shape)


def _spread(axis, function=jnp.sum):
    return lambda a, b: (
        0.5 * jnp.broadcast_to(function(a, axis=axis, keepdims=True), a.shape)
    )


def _of_one(x):
    """Features of electrons."""
    return jnp.tanh(x @ _MATRIX)


def _attended(weights, values):
    """For three heads the sums of values with weights, in the shape of pairs."""
    heads = jnp.moveaxis(weights, 2, 0)
    found = 0.3 * heads @ jnp.broadcast_to(values[None], (3, *values.shape))
    return jnp.stack([found[0], found[1], found[2], found[0]], axis=1)


# Of two arrays of pairs, (electrons, electrons, 3), to another one.
_OPERATIONS = {
    "sine": lambda a, b: jnp.sin(a),
    "square": lambda a, b: a * a,
    "add": lambda a, b: a - 0.7 * b,
    "multiply": lambda a, b: 0.5 * a * b,
    "divide": lambda a, b: a / (2 + b * b),
    "divide into": lambda a, b: 1 / (2 + a**2),
    "power": lambda a, b: (1 + a * a) ** 1.3,
    "absolute": lambda a, b: jnp.abs(a),
    "maximum of constants": lambda a, b: jnp.maximum(a, 0.1),
    "maximum": lambda a, b: jnp.maximum(a, b),
    "atan2": lambda a, b: jnp.arctan2(a, 2 + b * b),
    "sigmoid": lambda a, b: jax.nn.sigmoid(a),
    "softmax": lambda a, b: jax.nn.softmax(a, axis=1),
    "where": lambda a, b: jnp.where(a > 0, a, b),
    "where constant": lambda a, b: jnp.where(b > 0, 0.3, a),
    "wrap": lambda a, b: a - jnp.round(a) + jnp.floor(b),
    "sign": lambda a, b: jnp.sign(a) * b,
    "stop": lambda a, b: jax.lax.stop_gradient(a) * b,
    "exchange": lambda a, b: jnp.swapaxes(a, 0, 1),
    "reverse": lambda a, b: a[::-1],
    "roll": lambda a, b: jnp.roll(a, 1, axis=1),
    "concatenate": lambda a, b: jnp.concatenate([a[:1], b[1:]]),
    "concatenate along pairs": lambda a, b: jnp.concatenate([a[:, 2:], b[:, 2:]], 1),
    "concatenate along features": lambda a, b: jnp.concatenate(
        [b[..., :1], jnp.ones_like(a[..., :1]), a[..., :1]], -1
    ),
    "pad": lambda a, b: jnp.pad(a[1:, :-1], ((1, 0), (0, 1), (0, 0))),
    "matrix": lambda a, b: jnp.tanh(a @ _MATRIX),
    "matrix of rows": _through(_FLAT, lambda a: jnp.sin(a @ _MATRIX)),
    "matrix from the left": lambda a, b: jnp.einsum("kl,ijl->ijk", _MATRIX, a),
    "matrix of electrons": lambda a, b: jnp.einsum("ik,kjl->ijl", _WEIGHTS[:, :, 0], a),
    "matrix in a batch": lambda a, b: jnp.einsum("ijk,ijl->ijk", a, _WEIGHTS),
    "merged": _through((_N, 3 * _N), jnp.sin),
    "split": _through((2, 2 * _N, 3), lambda a: a[::-1]),
    "flat": _through((-1,), lambda a: a[::-1] ** 2),
    "sum of left": _spread(0),
    "mean of right": _spread(1, jnp.mean),
    "sum of features": _spread(2),
    "sum of pairs": _spread((0, 1), jnp.mean),
    "largest": _spread(1, jnp.max),
    "sum of some": lambda a, b: a.at[:, 0].set(jnp.sum(b[:, :2], axis=1)),
    "product of matrices": lambda a, b: 0.3 * jnp.einsum("ijl,jkl->ikl", a, b),
    "matrices in a batch": lambda a, b: 0.3 * jnp.einsum("ijh,jkh->ikh", a, b),
    "queries and keys": lambda a, b: jnp.stack(
        [_of_one(a[:, 0]) @ _of_one(b[0]).T] * 3, 2
    ),
    "attention": lambda a, b: _attended(jnp.exp(0.3 * a), _of_one(b[0])),
    "attention to all": lambda a, b: _attended(a, _of_one(jnp.sum(b, axis=0))),
    "attention from the right": lambda a, b: jnp.swapaxes(
        _attended(jnp.swapaxes(a, 0, 1), _of_one(jnp.sum(b, axis=1))), 0, 1
    ),
    "cumulative": lambda a, b: 0.3 * jnp.cumsum(a, axis=0),
    "gather": lambda a, b: a[:, jnp.asarray([1, 1, 0, 3])],
    "gather pairs": lambda a, b: jnp.stack([a[[0, 1, 3, 3], [2, 2, 1, 0]]] * _N),
    "entry by entry": lambda a, b: jnp.stack([a[i, ::-1] for i in range(_N)]),
    "dynamic slice": lambda a, b: jax.lax.dynamic_slice(a, (1, 0, 0), (2, 4, 3))[
        jnp.asarray([0, 1, 1, 0])
    ],
    "gather by values": lambda a, b: a[jnp.argsort(b[:, 0, 0])],
    "sort": lambda a, b: jnp.sort(a, axis=1),
    "scatter": lambda a, b: a.at[1].add(b[0]).at[2].set(0.5),
    "one entry": lambda a, b: a * b[1, 2, 0],
    "one pair": lambda a, b: a + jnp.broadcast_to(b[1, 2], a.shape),
    "complex": lambda a, b: jnp.real(
        jnp.exp(jax.lax.complex(0.1 * b, a)) * jax.lax.complex(b, a)
    ),
    "complex conjugate": lambda a, b: jnp.imag(jnp.conj(jax.lax.complex(a, b)) ** 2),
    "integers": lambda a, b: a * (b > 0).astype(int).astype(a.dtype),
    "loop": lambda a, b: jax.lax.fori_loop(0, 2, lambda i, y: jnp.sin(y + b), a),
    "rows in a loop": lambda a, b: jax.lax.map(jnp.sin, a * b),
    "branch": lambda a, b: jax.lax.cond(b[0, 0, 0] > 0, jnp.sin, lambda a: a, a),
}
_STEPS = st.tuples(
    st.sampled_from(sorted(_OPERATIONS)), st.integers(0, 9), st.integers(0, 9)
)


def _composed(steps):
    """Each step takes two of the arrays before it, most often the last one."""

    def function(x):
        pairs = (_N, _N, 3)
        left, right = (jnp.broadcast_to(y, pairs) for y in (x[:, None], x[None]))
        arrays = [left, right, left - right]
        for name, i, j in steps:
            one, other = (arrays[-1 - k // 3 % len(arrays)] for k in (i, j))
            arrays.append(_OPERATIONS[name](one, other))
        return jnp.sum(jnp.sin(arrays[-1]) * _WEIGHTS)

    return function


def _check(functions, jit=lambda function: function):
    values = lambda x: jnp.stack([f(x.reshape(_X.shape)) for f in functions])

    def along(direction):
        first = lambda x: jax.jvp(values, (x,), (direction,))[1]
        return jax.jvp(first, (_X.reshape(-1),), (direction,))

    gradients, seconds = jit(jax.vmap(along))(jnp.eye(_X.size))
    forward = lambda x: forward_laplacian(lambda x: [f(x) for f in functions], x)
    for i, found in enumerate(jit(forward)(_X)):
        close = functools.partial(np.testing.assert_allclose, err_msg=str(i))
        scale = 1 + np.max(np.abs(gradients[:, i]))
        close(found.gradient, gradients[:, i], atol=1e-10 * scale)
        scale = 1 + np.sum(np.abs(seconds[:, i]))
        close(found.laplacian, np.sum(seconds[:, i]), atol=1e-9 * scale)


def test_every_operation():
    steps = [[("sine", 0, 0), (name, 0, 3), ("square", 0, 0)] for name in _OPERATIONS]
    rng = np.random.default_rng(0)
    for _ in range(6):
        names = rng.choice(sorted(_OPERATIONS), 5)
        steps.append([(name, *rng.integers(10, size=2)) for name in names])
    _check([_composed(one) for one in steps], quick_jit)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.lists(_STEPS, min_size=2, max_size=10))
def test_compositions(steps):
    _check([_composed(steps)])


def _network(spin=0, twist=(0.0, 0.0, 0.0), make=eqs.SolidNet, **kwargs):
    """Six electrons in two cells."""
    crystal = eqs.Crystal.rock_salt(
        "H", "He", a=5.0, unit="bohr", supercell=(2, 1, 1), spin=spin, twist=twist
    )
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    up, down = (k[np.arange(n) % len(k)] for n in crystal.electrons)
    small = dict(widths=((6, 4), (6, 4), (6, 4)))
    if make is eqs.AttentionNet:
        small = dict(width=6, layers=2, heads=2, pair_width=4)
    kwargs = {**small, "determinants": 2} | kwargs
    occupation = eqs.Occupation((up, down))
    return make(crystal, occupation, key=jax.random.key(7), **kwargs)


def _electrons(wavefunction):
    crystal = wavefunction.crystal
    frac = np.random.default_rng(1).uniform(-0.4, 1.3, (sum(crystal.electrons), 3))
    return jnp.asarray(frac @ crystal.supercell.vectors)


def _agree(wavefunction):
    x = _electrons(wavefunction)
    found, expected = (
        quick_jit(lambda x, kinetic=kinetic: kinetic(wavefunction, x))(x)
        for kinetic in (eqs.ForwardLaplacian(), eqs.HessianLaplacian())
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9)


_TWIST = (0.1, -0.4, 0.27)
_COMPLEX = dict(twist=_TWIST, full_determinant=False, features=eqs.NuFeatures())


def test_networks_agree_with_the_hessian():
    _agree(_network(spin=2, **_COMPLEX))


@pytest.mark.slow
@pytest.mark.parametrize("features", [eqs.TriFeatures(), eqs.NuFeatures()])
@pytest.mark.parametrize("full_determinant", [True, False])
@pytest.mark.parametrize("twist", [(0, 0, 0), (0.5, 0, 0), _TWIST])
@pytest.mark.parametrize("spin", [0, 2, 6])
def test_all_networks_agree_with_the_hessian(features, full_determinant, twist, spin):
    kwargs = dict(features=features, full_determinant=full_determinant, twist=twist)
    _agree(_network(spin, **kwargs))


def test_attention_agrees_with_the_hessian():
    network = _network(make=eqs.AttentionNet, twist=_TWIST, spin=2, layer_norm=True)
    _agree(eqs.Jastrow(network))


@pytest.mark.slow
@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("twist", [(0, 0, 0), _TWIST])
def test_all_attention_agrees_with_the_hessian(split, layer_norm, twist):
    kwargs = dict(split=split, layer_norm=layer_norm, twist=twist)
    _agree(eqs.Jastrow(_network(make=eqs.AttentionNet, **kwargs)))


def test_weights_of_pairs_have_few_derivatives(caplog, monkeypatch):
    """Of all products in attention, one is of values that depend on all electrons."""
    seen, products = [], sums._dot_of_two

    def count(operation, a, b):
        seen.append((a.which is None, b.which is None))
        return products(operation, a, b)

    monkeypatch.setattr(sums, "_dot_of_two", count)
    wavefunction = _network(make=eqs.AttentionNet)
    jax.eval_shape(eqs.ForwardLaplacian(), wavefunction, _electrons(wavefunction))
    # Queries with keys and weights with values, in two layers.
    assert seen == [(False, False), (False, False), (False, False), (False, True)]
    assert not caplog.records


def test_pairs_of_electrons_have_few_derivatives(caplog):
    wavefunction = _network(widths=((5, 40),) * 3)
    x = _electrons(wavefunction)
    traced = jax.make_jaxpr(eqs.ForwardLaplacian())(wavefunction, x)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from sizes(inner)

    # 6 of 18 coordinates, and value and Laplacian.
    assert max(sizes(traced.jaxpr)) <= 8 * len(x) ** 2 * 40
    assert not caplog.records
