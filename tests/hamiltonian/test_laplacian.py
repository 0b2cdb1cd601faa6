"""The forward Laplacian of what users write, against the Hessian of JAX."""

import contextlib
import functools

import equinox as eqx
import folx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eqsym._hamiltonian.laplacian import forward_laplacian


# Nearly all the time of these tests is compilation.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)

_WEIGHTS = jnp.linspace(0.2, 1.7, 9).reshape(3, 3)
_X = np.random.default_rng(3).normal(size=(3, 3))


# What folx has rules of its own for, by these names.
@jax.jit
def sigmoid(x):
    return jnp.sin(x)


@jax.jit
def solve(x, y):
    return jnp.sum(jnp.sin(x) * y[0, 0])


@jax.custom_jvp
def smooth(x):
    return jnp.sin(x)


smooth.defjvp(lambda x, t: (smooth(*x), jnp.cos(*x) * t[0]))


@jax.custom_vjp
def reverse_only(x):
    return jnp.sin(x)


reverse_only.defvjp(
    lambda x: (reverse_only(x), x), lambda x, cotangent: (jnp.cos(x) * cotangent,)
)


def _stacked(x):
    # As many steps as there are coordinates: mistaken axes would fit.
    def step(carry, a):
        return carry * jnp.cos(a * x[0, 0]), jnp.sin(a * x[1]) * carry

    stacked = jax.lax.scan(step, x[0, 1], jnp.linspace(0, 2, 9))[1]
    return jnp.sum(jnp.sin(stacked) * jnp.linspace(0, 1, 27).reshape(9, 3))


def _over_rows(x):
    def step(carry, row):
        total, reset, count = carry
        total = jnp.sin(total * reset + jnp.sum(row * x[0])) + count
        return (total, 0.5, count + 1), total * row[0]

    (total, _, _), stacked = jax.lax.scan(
        step, (0.0, x[0, 0], 0), x, reverse=True, unroll=2
    )
    return total + jnp.sum(stacked**2)


def _nested(x):
    inner = jax.checkpoint(lambda carry, row: (jnp.tanh(carry * row), jnp.cos(carry)))

    def outer(carry, a):
        return jax.lax.scan(inner, carry + a, x)[0], None

    return jnp.sum(jax.checkpoint(lambda y: jax.lax.scan(outer, y[0], x)[0])(x))


def _until(x):
    def step(state):
        count, value = state
        return count + 1, jnp.sin(value) * x

    return jnp.sum(jax.lax.while_loop(lambda s: s[0] < 3, step, (0, x))[1])


@jax.custom_jvp
def _where_both_vary(x, y):
    return x * y


@functools.partial(_where_both_vary.defjvp, symbolic_zeros=True)
def _both(values, tangents):
    """As loops of Equinox do: nothing, unless all that may vary does."""
    (x, y), (dx, dy) = values, tangents
    if any(isinstance(t, jax.custom_derivatives.SymbolicZero) for t in tangents):
        return x * y, jnp.zeros_like(x)
    return x * y, dx * y + x * dy


def _empty(x):
    step = lambda carry, row: (carry * jnp.sin(row[0]), row)
    return jax.lax.scan(step, x[0, 0] ** 2, x[:0])[0] + jnp.sum(x[3:] ** 2)


_FUNCTIONS = {
    "sort": lambda x: jnp.sum(jnp.sin(jnp.sort(x, axis=0)) * _WEIGHTS),
    "max": lambda x: jnp.sum(jnp.max(x, axis=0) ** 3),
    "softmax": lambda x: jnp.sum(jax.nn.softmax(x) ** 2),
    "cond": lambda x: jax.lax.cond(
        x[0, 0] > 0, lambda y: jnp.sum(y**3), lambda y: jnp.sum(jnp.sin(y)), x
    ),
    "fft": lambda x: jnp.sum((jnp.imag(jnp.fft.fft(x, axis=0)) * _WEIGHTS) ** 4),
    "custom_jvp": lambda x: jnp.sum(smooth(x) ** 2),
    "top_k": lambda x: jnp.sum(jax.lax.top_k(x[:, 0] ** 3, 2)[0] * _WEIGHTS[0, 1:]),
    "argsort": lambda x: jnp.sum(jnp.sin(x[jnp.argsort(x[:, 0])]) * _WEIGHTS),
    "segment_sum": lambda x: jnp.sum(
        jax.ops.segment_sum(x, jnp.asarray([0, 1, 0]), 2) ** 3
    ),
    "expm": lambda x: jnp.sum(jax.scipy.linalg.expm(x[:2, :2]) * _WEIGHTS[:2, :2]),
    "while": _until,
    "fori": lambda x: jnp.sum(jax.lax.fori_loop(0, 3, lambda i, y: jnp.sin(y * x), x)),
    "scan over rows": _over_rows,
    "scan that stacks": _stacked,
    "scan in scan": _nested,
    "own sigmoid": lambda x: jnp.sum(sigmoid(x) * _WEIGHTS),
    "own solve": lambda x: solve(x, x),
    "sigmoid": lambda x: jnp.sum(jax.nn.sigmoid(x) * _WEIGHTS),
    "solve": lambda x: jnp.sum(jnp.linalg.solve(x, x[0]) * _WEIGHTS[0]),
    # The rule asks which arguments vary: of one coordinate, or of a row.
    "all vary": lambda x: _where_both_vary(jnp.sin(x[0, 0]), jnp.sum(x**3)),
    "all rows vary": lambda x: jnp.sum(_where_both_vary(jnp.sin(x), x * x[:, :1])),
    "all vary in a branch": lambda x: jax.lax.cond(
        x[0, 0] > 9, lambda x, y: y, _where_both_vary, x[0], x[1] * x[0]
    )[1],
    "empty": _empty,
    "constant": lambda x: jnp.asarray(0.3),
}


def test_what_users_write_has_its_laplacian():
    functions = list(_FUNCTIONS.values())

    def hessians(x):
        flat = x.reshape(-1)
        values = lambda x: jnp.stack([f(x.reshape(3, 3)) for f in functions])

        def along(direction):
            first = lambda x: jax.jvp(values, (x,), (direction,))[1]
            return jax.jvp(first, (flat,), (direction,))

        return jax.vmap(along)(jnp.eye(9))

    x = jnp.asarray(_X)
    gradients, seconds = quick_jit(hessians)(x)

    @quick_jit
    def forward(x):
        return forward_laplacian(lambda x: [f(x) for f in functions], x)

    for i, (name, found) in enumerate(zip(_FUNCTIONS, forward(x), strict=True)):
        close = dict(rtol=1e-9, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.gradient, gradients[:, i], **close)
        np.testing.assert_allclose(found.laplacian, sum(seconds[:, i]), **close)


def test_rules_for_reverse_mode_are_not_needed():
    function = lambda f: lambda x: [jnp.sum(f(x) ** 2)]
    found, expected = (
        forward_laplacian(function(f), jnp.asarray(_X))[0]
        for f in (reverse_only, jnp.sin)
    )
    np.testing.assert_allclose(found.laplacian, expected.laplacian, rtol=1e-12)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-12)


def _checkpointed(x):
    return jnp.sum(
        eqx.internal.while_loop(
            lambda state: state[0] < 3,
            lambda state: (state[0] + 1, jnp.sin(state[1]) * x),
            (0, x),
            max_steps=4,
            kind="checkpointed",
        )[1]
    )


def test_one_coordinate():
    x = jnp.asarray([0.7])
    (found,) = forward_laplacian(lambda x: [jnp.sin(x @ jnp.asarray([2.0]))], x)
    np.testing.assert_allclose(found.gradient, 2 * np.cos(1.4), rtol=1e-12)
    np.testing.assert_allclose(found.laplacian, -4 * np.sin(1.4), rtol=1e-12)


def test_loops_of_equinox():
    def unrolled(x):
        y = x
        for _ in range(3):
            y = jnp.sin(y) * x
        return jnp.sum(y)

    found, expected = (
        forward_laplacian(lambda x, f=f: [f(x)], jnp.asarray(_X))[0]
        for f in (_checkpointed, unrolled)
    )
    np.testing.assert_allclose(found.laplacian, expected.laplacian, rtol=1e-11)
    np.testing.assert_allclose(found.gradient, expected.gradient, rtol=1e-11)


def test_what_cannot_be_differentiated_is_named():
    def call(x):
        shape = jax.ShapeDtypeStruct((), x.dtype)
        return [jax.pure_callback(lambda x: np.sum(x), shape, jnp.sin(x))]

    said = r"`pure_callback` \(.*test_laplacian.*try .*kinetic=eqs.HessianLaplacian\(\)"
    # At any depth.
    loop = lambda x: [jax.lax.map(jax.jit(lambda row: call(row)[0]), x)[0]]
    for function in (call, loop):
        with pytest.raises(ValueError, match=said) as caught:
            forward_laplacian(function, jnp.asarray(_X))
        assert "do not support JVP" in str(caught.value.__cause__)


def test_errors_of_a_function_are_its_own():
    def wrong(x):
        raise KeyError("orbital")

    for function, error in ((wrong, KeyError), (lambda x: [x @ x[0, 0]], ValueError)):
        with pytest.raises(error) as caught:
            forward_laplacian(function, jnp.asarray(_X))
        assert "ForwardLaplacian" not in str(caught.value)


def test_folx_alone_still_gets_these_wrong():
    """Each is a reason for a part of `_laplacian`, which may go when folx no longer
    needs it: then this test fails."""
    x = jnp.asarray(_X)

    def right(name):
        function = _FUNCTIONS[name]
        with contextlib.suppress(Exception):
            found = folx.forward_laplacian(function, disable_jit=True)(x)
            ours = forward_laplacian(lambda x: [function(x)], x)[0]
            return np.allclose(found.laplacian, ours.laplacian)

    for name in ("scan over rows", "scan that stacks", "own sigmoid", "argsort"):
        assert not right(name), (
            f"folx {folx.__version__} can do this alone: {name}. See what it makes "
            "superfluous in eqsym/_laplacian.py, and ask for that version."
        )
