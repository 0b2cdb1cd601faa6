"""Updates against dense linear algebra written from the formulas."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._storage import compare, encode, uncompared
from eqsym._training.optimizer import _solve
from toys import dense_scores, flat, hydrogen, stacked, walkers, waves


_WALKERS = 12


def _wavefunction(is_complex):
    crystal = hydrogen(supercell=(2, 1, 1))
    return waves(crystal, b=(0.3, -0.2, 0.1) if is_complex else None, c=(0.1, 0.2, 0.3))


def _residual(is_complex, seed):
    rng = np.random.default_rng(seed)
    energies = rng.normal(size=_WALKERS) + 1j * rng.normal(size=_WALKERS)
    energies = energies if is_complex else energies.real
    return (energies - energies.mean()) / np.sqrt(_WALKERS)


# The first bound is never reached, the second one always.
@pytest.mark.parametrize("bound", [1e6, 1e-4])
@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("is_complex", [False, True])
def test_spring(is_complex, chunk, bound):
    """Goldshlager, Abrahamsen, Lin, arXiv 2401.10190, over several steps."""
    mu, damping = 0.9, 1e-2
    schedule = optax.exponential_decay(0.1, 1, 0.5)
    optimizer = eqs.Spring(
        schedule,
        momentum=mu,
        damping=damping,
        norm_bound=optax.exponential_decay(bound, 1, 0.25),
        chunk=chunk,
    )
    wavefunction = _wavefunction(is_complex)
    state = optimizer.init(eqs.partition(wavefunction)[0])
    direction = np.zeros_like(flat(state.direction))
    step = eqx.filter_jit(optimizer.step)
    for i in range(4):
        places = walkers(wavefunction.crystal, _WALKERS, seed=i)
        residual = _residual(is_complex, i)
        dense = dense_scores(wavefunction, places)
        zeta = stacked(residual) - dense @ (mu * direction)
        gram = dense @ dense.T + damping * np.eye(len(zeta))
        direction = mu * direction + dense.T @ np.linalg.solve(gram, zeta)
        rate, size = 0.1 * 0.5**i, np.linalg.norm(direction)
        largest = 0.5**i * np.sqrt(bound)
        expected = -rate * min(1, largest / (rate * size)) * direction

        update, state = step(
            eqs.Scores(wavefunction, places), jnp.asarray(residual), state
        )
        np.testing.assert_allclose(flat(update), expected, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(flat(state.direction), direction, rtol=1e-7)
        assert (state.count, state.solver_retries) == (i + 1, 0)
        if bound < 1:
            np.testing.assert_allclose(np.linalg.norm(flat(update)), largest)
        parameters, rest = eqs.partition(wavefunction)
        wavefunction = eqs.combine(eqx.apply_updates(parameters, update), rest)


def test_single_precision_with_a_schedule_in_double():
    wavefunction, places = jax.tree.map(
        lambda x: x.astype(jnp.float32) if eqx.is_inexact_array(x) else x,
        (_wavefunction(False), walkers(_wavefunction(False).crystal, _WALKERS)),
    )
    residual = jnp.asarray(_residual(False, 0), jnp.float32)
    scores = eqs.Scores(wavefunction, places)
    updates = []
    for rate in (0.1, lambda step: jnp.asarray(0.1, jnp.float64)):
        optimizer = eqs.Spring(rate, norm_bound=lambda step: jnp.asarray(1e-2))
        state = optimizer.init(scores.parameters)
        update, _ = eqx.filter_jit(optimizer.step)(scores, residual, state)
        updates.append(flat(update))
    assert updates[0].dtype == jnp.float32
    np.testing.assert_array_equal(*updates)


@pytest.mark.parametrize("is_complex", [False, True])
def test_minsr_is_natural_gradient(is_complex):
    """(O^T O + lambda)^-1 O^T epsilon: the same direction from the other side."""
    optimizer = eqs.Spring.min_sr(0.1, damping=1e-2, norm_bound=1e6)
    wavefunction = _wavefunction(is_complex)
    places = walkers(wavefunction.crystal, _WALKERS)
    residual = _residual(is_complex, 0)
    dense = dense_scores(wavefunction, places)
    metric = dense.T @ dense + 1e-2 * np.eye(dense.shape[1])
    expected = -0.1 * np.linalg.solve(metric, dense.T @ stacked(residual))
    state = optimizer.init(eqs.partition(wavefunction)[0])
    step = eqx.filter_jit(optimizer.step)
    for _ in range(2):
        update, state = step(
            eqs.Scores(wavefunction, places), jnp.asarray(residual), state
        )
        np.testing.assert_allclose(flat(update), expected, rtol=1e-7)


def test_no_residual_no_step():
    """Also not through 0 / 0 in the bound on the norm."""
    wavefunction = _wavefunction(False)
    optimizer = eqs.Spring()
    scores = eqs.Scores(wavefunction, walkers(wavefunction.crystal, _WALKERS))
    state = optimizer.init(scores.parameters)
    update, _ = eqx.filter_jit(optimizer.step)(scores, jnp.zeros(_WALKERS), state)
    np.testing.assert_array_equal(flat(update), 0)


def _reweighted(flat, unravel, rest, places, energies):
    """The energy of other parameters from the same walkers, local energies held."""
    psi = jax.vmap(eqs.combine(unravel(flat), rest))(places)
    weights = jnp.exp(2 * (psi.log - jax.lax.stop_gradient(psi.log)))
    return jnp.sum(weights * energies) / jnp.sum(weights)


def test_optax():
    wavefunction = _wavefunction(False)
    places = walkers(wavefunction.crystal, _WALKERS)
    residual = _residual(False, 0)
    energies = jnp.asarray(residual * np.sqrt(_WALKERS) - 3.0)
    transformation = optax.adam(1e-2)
    optimizer = eqs.Optax(transformation)
    parameters, rest = eqs.partition(wavefunction)
    vector, unravel = jax.flatten_util.ravel_pytree(parameters)
    gradient = jax.grad(_reweighted)(vector, unravel, rest, places, energies)

    plain = eqs.Optax(optax.sgd(1.0))
    scores = eqs.Scores(wavefunction, places)
    update, _ = plain.step(scores, jnp.asarray(residual), plain.init(parameters))
    np.testing.assert_allclose(flat(update), -gradient, rtol=1e-10)

    state, expected = optimizer.init(parameters), transformation.init(vector)
    for _ in range(3):
        update, state = optimizer.step(scores, jnp.asarray(residual), state)
        # optax itself needs it.
        with jax.numpy_dtype_promotion("standard"):
            other, expected = transformation.update(gradient, expected, vector)
        np.testing.assert_allclose(flat(update), other, rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(momentum=1.0), r"`momentum` must be in \[0, 1\), got 1.0"),
        (dict(momentum=-0.1), r"`momentum` must be in \[0, 1\)"),
        (dict(damping=0.0), "`damping` must be positive, got 0.0"),
        (dict(learning_rate=-0.1), "`learning_rate` must not be negative, got -0.1"),
        (dict(learning_rate=np.nan), "`learning_rate` must not be negative, got nan"),
        (dict(norm_bound=-1.0), "`norm_bound` must not be negative"),
        (dict(norm_bound=0.0), "`norm_bound` must be positive"),
        (dict(norm_bound="1"), "`norm_bound` must be a number, or a function of the"),
        (dict(damping="1e-3"), "`damping` must be a positive number, got '1e-3'"),
        (dict(momentum=True), "`momentum` must be a number, .* got True"),
        (dict(chunk=0), "`chunk` must be at least 1"),
    ],
)
def test_errors(change, message, unchecked):
    with pytest.raises(ValueError, match=message):
        eqs.Spring(**{"learning_rate": 0.1, **change})


def test_recommended_setting():
    """Bit for bit what examples used to write as functions of their own. It is data,
    so that a run that goes on compares it."""

    def rate(step):
        return 0.1 / (1 + step / 500)

    wavefunction = _wavefunction(False)
    scores = eqs.Scores(wavefunction, walkers(wavefunction.crystal, _WALKERS))
    residual = jnp.asarray(_residual(False, 0))
    updates = []
    for optimizer in (
        eqs.Spring(),
        eqs.Spring(rate, norm_bound=lambda n: rate(n) ** 2),
    ):
        state = optimizer.init(scores.parameters)
        state = eqx.tree_at(lambda s: s.count, state, jnp.asarray(700))
        step = eqx.filter_jit(optimizer.step)
        updates += [
            flat(step(scores, size * residual, state)[0]) for size in (1e-3, 1e3)
        ]
    np.testing.assert_array_equal(updates[:2], updates[2:])
    # The rate is the length of the longest step, here also if it is constant.
    small, large = np.linalg.norm(updates[:2], axis=1)
    assert small < 0.9 * rate(700)
    np.testing.assert_allclose(large, rate(700))
    assert compare(encode(eqs.Spring()), eqs.Spring(), "x") == []
    (found,) = compare(encode(eqs.Spring()), eqs.Spring(eqs.InverseDecay(0.2)), "x")
    assert str(found) == "x.learning_rate.start: saved 0.1, here 0.2"
    assert uncompared(encode(eqs.Spring()), "x") == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: eqs.Spring("0.1"), "`learning_rate` must be a number, or a function"),
        (lambda: eqs.Spring(eqs.InverseDecay), "got the class `InverseDecay`"),
        (lambda: eqs.InverseDecay(-1.0), "`start` must be positive, got -1.0"),
        (lambda: eqs.InverseDecay(0.1, delay="5"), "`delay` must be a positive number"),
        (lambda: eqs.Optax(0.001), r"got 0.001. .* `eqs.Optax\(optax.adam\(1e-3\)\)`"),
        (lambda: eqs.Optax(optax.adam), "Call it with its settings"),
        (lambda: eqs.Optax(eqs.Spring()), "`Spring`. It is an optimizer already"),
    ],
)
def test_arguments_of_the_wrong_kind(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make()


def test_solve_of_a_matrix_that_rounding_made_negative():
    """In single precision, a rank-one matrix of huge entries is not positive any more:
    what is added for rounding grows until the factorization succeeds."""
    rng = np.random.default_rng(0)
    vector = rng.normal(size=300)
    noise = rng.normal(size=(300, 300))
    gram = 1e8 * (np.outer(vector, vector) - 1e-5 * (noise + noise.T))
    zeta = jnp.asarray(rng.normal(size=300), jnp.float32)
    solve = jax.jit(lambda gram: _solve(gram, 1e-3, zeta))
    found, retries = solve(jnp.asarray(gram, jnp.float32))
    assert np.all(np.isfinite(found))
    size = np.maximum(np.diagonal(gram), 0)
    shift = 2 * np.sqrt(300) * np.finfo(np.float32).eps * (size + np.mean(size))
    assert np.min(np.linalg.eigvalsh(gram + np.diag(shift))) < 0
    assert 1 <= retries <= 8
    raised = 1e-3 + 10 ** int(retries) * shift
    expected = np.linalg.solve(gram + np.diag(raised), zeta)
    error = np.linalg.norm(np.asarray(found) - expected) / np.linalg.norm(expected)
    assert error < 1e-2
    # If it never does, nothing is hidden: such an update is rejected.
    found, retries = solve(-jnp.eye(300, dtype=jnp.float32))
    assert retries == 8 and np.all(np.isnan(found))


def test_walkers_near_nodes_do_not_damp_the_others():
    """Their rows are thousands of times as long. What single precision adds to the
    damping for rounding leaves the update of the others as it is."""
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 200)) / np.sqrt(60)
    scores[:3] *= 1e4
    zeta = rng.normal(size=60) / np.sqrt(60)
    gram = scores @ scores.T
    solve = jax.jit(lambda gram, zeta: _solve(gram, 1e-3, zeta))
    found, retries = solve(*(jnp.asarray(x, jnp.float32) for x in (gram, zeta)))
    expected = scores.T @ np.linalg.solve(gram + 1e-3 * np.eye(60), zeta)
    difference = scores.T @ np.asarray(found, float) - expected
    assert np.linalg.norm(difference) < 1e-3 * np.linalg.norm(expected)
    assert retries == 0
