"""Determinants, sums of signed exponentials and square roots, where numbers vanish."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._core.math import (
    chunked_sum,
    chunked_vmap,
    in_two,
    log_sum,
    nearest_displacement,
    rescaled,
    safe_sqrt,
    sum_of_determinants,
)


_SEEDS = st.integers(0, 2**16)


def _matrices(n, is_complex, *, singular=(), seed=0):
    """Three matrices of very different size; those of `singular` have rank n - 1."""
    rng = np.random.default_rng(seed)
    m = rng.normal(size=(3, n, n)) + 1j * is_complex * rng.normal(size=(3, n, n))
    m = m if is_complex else m.real
    for d in singular:
        # Exactly: small integers, whose elimination does not round.
        m[d] = rng.integers(-2, 3, (n, n))
        m[d, -1] = m[d, 0] if n > 1 else 0
    return m * np.array([1.0, 0.1, 3.0])[:, None, None]


def _plain(psi):
    return np.asarray(psi.sign) * np.exp(np.asarray(psi.log))


def _value(*factors):
    """The sum itself, as real and imaginary part."""
    psi = sum_of_determinants(*factors)
    value = psi.sign * jnp.exp(psi.log).astype(psi.sign.dtype)
    return jnp.stack([jnp.real(value), jnp.imag(value)])


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", range(7))
def test_determinants(n, is_complex):
    m, other = (_matrices(n, is_complex, seed=seed) for seed in (0, 1))
    psi = sum_of_determinants(jnp.asarray(m))
    assert psi.is_real != is_complex
    np.testing.assert_allclose(_plain(psi), np.sum(np.linalg.det(m)), rtol=1e-12)
    assert np.isclose(abs(psi.sign), 1)
    product = np.linalg.det(m) * np.linalg.det(other)
    psi = sum_of_determinants(jnp.asarray(m), jnp.asarray(other))
    np.testing.assert_allclose(_plain(psi), np.sum(product), rtol=1e-12)


@pytest.mark.parametrize("n", range(1, 7))
def test_real_times_complex_determinants(n):
    m, other = _matrices(n, False), _matrices(2, True)
    expected = np.sum(np.linalg.det(m) * np.linalg.det(other))
    for factors in ((m, other), (other, m)):
        psi = sum_of_determinants(*map(jnp.asarray, factors))
        np.testing.assert_allclose(_plain(psi), expected, rtol=1e-12)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", range(1, 7))
def test_some_determinants_vanish(n, is_complex):
    m = _matrices(n, is_complex, singular=(0, 2))
    psi = sum_of_determinants(jnp.asarray(m))
    np.testing.assert_allclose(_plain(psi), np.linalg.det(m[1]), rtol=1e-12)


@pytest.mark.parametrize(
    ("n", "is_complex"),
    [(n, is_complex) for n in range(1, 7) for is_complex in (False, True)],
)
def test_all_determinants_vanish(n, is_complex):
    m = jnp.zeros((2, n, n), complex if is_complex else float)
    psi = sum_of_determinants(m)
    assert psi.sign == 0
    assert psi.log == -jnp.inf


def _cofactors(m):
    """d det(m) / d m_ij, of minors: also where m is singular."""
    n = len(m)
    found = np.zeros_like(m)
    for i in range(n):
        for j in range(n):
            minor = np.delete(np.delete(m, i, 0), j, 1)
            found[i, j] = (-1) ** (i + j) * np.linalg.det(minor)
    return found


# Larger ones go through LAPACK, which divides by the determinant.
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", range(1, 5))
def test_gradient_where_determinants_vanish(n, is_complex):
    m = _matrices(n, is_complex, singular=(0, 2))
    expected = np.stack([_cofactors(one) for one in m])
    # By the real parts of the entries: of a holomorphic function that says all.
    make = lambda x: jax.lax.complex(x, jnp.asarray(m.imag)) if is_complex else x
    gradient = jax.jit(jax.jacfwd(lambda x: _value(make(x))))(jnp.asarray(m.real))
    np.testing.assert_allclose(gradient[0], expected.real, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(gradient[1], expected.imag, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("n", range(1, 7))
def test_gradient_of_the_logarithm(n, is_complex):
    m = _matrices(n, is_complex, singular=(0,) if n < 5 else ())
    total = np.sum(np.linalg.det(m))
    expected = np.stack([_cofactors(one) for one in m]) / total

    def parts(x):
        x = jax.lax.complex(x, jnp.asarray(m.imag)) if is_complex else x
        psi = sum_of_determinants(x)
        return jnp.stack([psi.log, psi.phase])

    gradient = jax.jacrev(parts)(jnp.asarray(m.real))
    np.testing.assert_allclose(gradient[0], expected.real, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(gradient[1], expected.imag, rtol=1e-9, atol=1e-11)


def test_no_overflow():
    scales = np.array([1e-90, 1e90])[:, None, None]
    for n in (2, 4, 6):
        m = np.broadcast_to(np.eye(n), (2, n, n)) * scales
        psi = sum_of_determinants(jnp.asarray(m))
        np.testing.assert_allclose(psi.log, n * 90 * np.log(10), rtol=1e-12)
        psi = sum_of_determinants(jnp.asarray(m[:1]))
        np.testing.assert_allclose(psi.log, -n * 90 * np.log(10), rtol=1e-12)


def _amplitudes(logs, signs):
    return eqs.LogPsi(jnp.asarray(signs), jnp.asarray(logs))


@settings(max_examples=25)
@given(seed=_SEEDS, is_complex=st.booleans(), weighted=st.booleans())
def test_log_sum(seed, is_complex, weighted):
    rng = np.random.default_rng(seed)
    logs = rng.normal(size=(2, 5))
    logs[:, rng.integers(5)] = -np.inf
    signs = np.exp(2j * np.pi * rng.uniform(size=(2, 5)))
    signs = signs if is_complex else np.sign(signs.real)
    weights = rng.normal(size=5) if weighted else None
    scale = 1 if weights is None else weights
    expected = np.sum(scale * signs * np.exp(logs), axis=-1)
    for shift in (0.0, 2000.0, -2000.0):
        terms = _amplitudes(logs + shift, signs)
        one = lambda terms: log_sum(
            terms, None if weights is None else jnp.asarray(weights)
        )
        psi = jax.vmap(one)(terms)
        found = np.asarray(psi.sign) * np.exp(np.asarray(psi.log) - shift)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("sign", [1.0, 1.0j])
def test_log_sum_of_nothing_and_of_what_cancels(sign):
    none = log_sum(_amplitudes([-np.inf] * 3, [0 * sign] * 3))
    assert none.sign == 0
    assert none.log == -jnp.inf
    canceled = log_sum(_amplitudes([1.0, 1.0], [sign, -sign]))
    assert canceled.sign == 0
    assert canceled.log == -jnp.inf


@pytest.mark.parametrize("sign", [1.0, 1.0j])
def test_log_sum_gradient_with_a_vanishing_term(sign):
    """Softmax, and 0 for a term that is 0."""

    def total(x):
        logs = jnp.concatenate([x, jnp.full(1, -jnp.inf)])
        return log_sum(eqs.LogPsi(jnp.full(3, sign), logs)).log

    gradient = jax.grad(total)(jnp.array([0.3, -0.4]))
    expected = np.exp([0.3, -0.4]) / np.sum(np.exp([0.3, -0.4]))
    np.testing.assert_allclose(gradient, expected, rtol=1e-12)


def test_rescaled():
    for value in (-2.0, 3.0 - 4.0j, 0.0, 0.0j):
        psi = rescaled(jnp.asarray(value), jnp.asarray(700.0))
        size = abs(value)
        np.testing.assert_allclose(
            psi.log, 700 + np.log(size) if size else -np.inf, rtol=1e-14
        )
        np.testing.assert_allclose(psi.sign, value / size if size else 0, atol=1e-15)
        assert psi.sign.dtype == jnp.asarray(value).dtype


def test_safe_sqrt():
    x = jnp.array([0.0, 4.0, 1e-300])
    value, derivative = jax.vmap(jax.value_and_grad(safe_sqrt))(x)
    np.testing.assert_allclose(value, [0.0, 2.0, 1e-150], rtol=1e-14)
    np.testing.assert_allclose(derivative, [0.0, 0.25, 0.5e150], rtol=1e-14)
    second = jax.vmap(jax.grad(jax.grad(safe_sqrt)))(x[:2])
    np.testing.assert_allclose(second, [0.0, -1 / 32], rtol=1e-14)


@pytest.mark.parametrize(
    ("size", "chunk", "sizes"),
    [
        (7, None, {7}),
        (7, 50, {7}),
        (7, 7, {7}),
        (7, 1, {1}),
        # A remainder, and none with somewhat smaller chunks.
        (7, 3, {3, 1}),
        (7, 4, {4, 3}),
        (12, 5, {4}),
    ],
)
def test_chunked(size, chunk, sizes):
    x = jnp.arange(2.0 * size).reshape(size, 2)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-14)
    function = lambda pair: {"sum": jnp.sum(pair[0]) + pair[1], "x": pair[0]}
    found = chunked_vmap(function, (x, x[:, 0]), chunk)
    jax.tree.map(close, found, {"sum": x.sum(axis=1) + x[:, 0], "x": x})
    seen = set()

    def total(part):
        seen.add(len(part))
        return {"sum": jnp.sum(part), "first": jnp.sum(part[:, 0])}

    found = chunked_sum(total, x, chunk)
    jax.tree.map(close, found, {"sum": x.sum(), "first": x[:, 0].sum()})
    assert seen == sizes


@pytest.mark.parametrize("constant", [True, False])
def test_nearest_displacement_is_as_precise_as_it_is_small(constant):
    """Points close to an origin and wrapped to the other end of a large cell."""
    rng = np.random.default_rng(0)
    vectors = np.array([[4.651, 0.0, 0.0], [-2.3255, 4.0279, 0.0], [0.1, 0.0, 53.7]])
    origins = rng.uniform(size=(200, 3)) @ vectors
    near = 0.1 * rng.normal(size=(200, 3))
    turns = rng.integers(-3, 4, size=(200, 3))
    points = np.float32(origins + near + turns @ vectors).astype(np.float64)
    if not constant:
        origins = np.float32(origins).astype(np.float64)
    parts = in_two(origins)
    np.testing.assert_array_equal(parts, np.float32(parts))
    np.testing.assert_allclose(parts[0] + parts[1], origins, rtol=0, atol=1e-11)
    start, rest = parts if constant else (origins, None)
    single = lambda x: None if x is None else jnp.asarray(x, jnp.float32)
    found = jax.jit(nearest_displacement)(
        single(points),
        single(start),
        single(in_two(vectors)),
        single(np.linalg.inv(vectors)),
        rest=single(rest),
    )
    expected = points - origins - turns @ vectors
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-8)
