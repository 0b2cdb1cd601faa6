"""Projected training: its objective and gradient against quadrature, draws, steps."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._vmc import _normalised, _residual, _shares, _statistics
from toys import grid, hydrogen, Lattice, waves


_CRYSTAL = hydrogen()
_HAMILTONIAN = Lattice(_CRYSTAL)
_POINTS = 12  # of the grid, in each direction
_REAL = waves(_CRYSTAL, a=(0.3, 0.2, -0.1), c=(0.2, -0.1, 0.3))
_COMPLEX = waves(_CRYSTAL, a=(0.3, 0.1, -0.1), b=(0.2, -0.3, 0.1), c=(0.2, 0.1, 0.0))


@functools.cache
def _group(number):
    return eqs.SpaceGroup.from_number(_CRYSTAL, number)


def _trivial(number):
    return eqs.GroupAverage(_group(number))


def _irrep(number, *, dimension=1, is_complex=False, row=None):
    """The last irrep of its kind."""
    group = _group(number)
    fitting = [
        irrep.label
        for irrep in eqs.irreps(group)
        if irrep.dimension == dimension
        and bool(np.any(np.abs(np.imag(irrep.characters)) > 0.1)) == is_complex
    ]
    return eqs.IrrepProjection(group, fitting[-1], row)


# P4 (order 4, complex irreps) and P4mm (order 8, one irrep of dimension 2).
_CASES = {
    "pairs": (_REAL, _trivial(99), 0.4, 2, 2),
    "alone": (_REAL, _trivial(99), 0.0, 2, 2),
    "plain": (_REAL, _trivial(99), 1.0, 2, 2),
    "triples": (_REAL, _trivial(99), 0.4, 3, 3),
    "all images": (_REAL, _trivial(99), 0.4, 8, 8),
    "drawn from all": (_REAL, _trivial(75), 0.4, 2, 4),
    "drawn from some": (_REAL, _trivial(75), 0.4, 2, 3),
    "complex": (_COMPLEX, _trivial(99), 0.4, 2, 2),
    "irrep": (_REAL, _irrep(99), 0.4, 2, 2),
    "dimension 2": (_REAL, _irrep(99, dimension=2), 0.4, 3, 3),
    "row": (_REAL, _irrep(99, dimension=2, row=1), 0.4, 2, 2),
    "complex irrep": (_REAL, _irrep(75, is_complex=True), 0.4, 2, 2),
    "complex both": (_COMPLEX, _irrep(75, is_complex=True), 0.4, 2, 2),
    "complex both, drawn": (_COMPLEX, _irrep(75, is_complex=True), 0.4, 2, 4),
}


def _amplitude(wavefunction, x):
    value = wavefunction(x)
    return value.sign * jnp.exp(value.log).astype(value.sign.dtype)


@functools.cache
def _exact(name):
    """The objective with the energy of f and the weight of P f, and its derivatives:
    from `<u|H|u> / <u|u>` on a grid for f and P f, which is summed as it is defined."""
    wavefunction, projection, share, _, _ = _CASES[name]
    group = projection.group
    weights = np.asarray(projection.orbit(jnp.zeros((1, 3))).weights).astype(complex)
    places = grid(_CRYSTAL, _POINTS)
    reciprocal = jnp.asarray(_CRYSTAL.lattice.reciprocal)

    def energy(function):
        def applied(x):
            hessian = jax.jacfwd(jax.jacfwd(lambda r: function(r.reshape(1, 3))))
            potential = -_HAMILTONIAN.depth * jnp.sum(jnp.cos(x @ reciprocal.T))
            return -0.5 * jnp.trace(hessian(x.reshape(3))) + potential * function(x)

        u, hu = jax.vmap(function)(places), jax.vmap(applied)(places)
        norm = jnp.sum(jnp.abs(u) ** 2)
        return jnp.sum(jnp.conj(u) * hu).real / norm, norm

    def objective(parameters):
        f = eqs.combine(parameters, eqs.partition(wavefunction)[1])

        def bare(x):
            return _amplitude(f, x).astype(complex)

        def projected(x):
            return jnp.sum(weights * jax.vmap(bare)(group.apply_inverse(x)))

        (plain, norm), (averaged, part) = energy(bare), energy(projected)
        return share * plain + (1 - share) * averaged, (plain, part / norm)

    parameters = eqs.partition(wavefunction)[0]
    with jax.numpy_dtype_promotion("standard"):
        return eqx.filter_jit(jax.value_and_grad(objective, has_aux=True))(parameters)


def _draws(projection, images, amplitudes):
    """Operations of all draws, and which of them are evaluated."""
    group = projection.group
    identity = int(np.flatnonzero(group.multiplication_table[:, 0] == 0)[0])
    others = [i for i in range(group.order) if i != identity]
    subsets = itertools.combinations(others, amplitudes - 1)
    chosen = [tuple(range(images))]
    if images < amplitudes:
        chosen = list(itertools.product(range(amplitudes), repeat=images))
    pairs = list(itertools.product(subsets, chosen))
    subsets = jnp.asarray([(identity, *some) for some, _ in pairs])
    return subsets, jnp.asarray([which for _, which in pairs])


def _expected(name, monkeypatch):
    """The batch that all places on a grid with all draws make, each with its
    probability, so that sums over it are expectations; and the mean weight of P f."""
    wavefunction, projection, share, images, amplitudes = _CASES[name]
    strategy = eqs.Project(
        projection, share=share, images=images, amplitudes=amplitudes
    )
    state = strategy.init(wavefunction, key=jax.random.key(0))
    places = grid(_CRYSTAL, _POINTS)
    density = jnp.exp(2 * jax.vmap(wavefunction)(places).log)
    density /= jnp.sum(density)

    def drawn(operations, chosen):
        def draw(self, densities, key):
            weights = 1 / (0.5 + 0.5 * densities / jnp.mean(densities))
            return chosen, weights[chosen]

        monkeypatch.setattr(eqs.Project, "_operations", lambda *_: operations)
        probabilities = density
        if images < amplitudes:
            orbit = jax.vmap(lambda x: projection.group.apply_inverse(x, operations))
            squares = jnp.exp(2 * jax.vmap(jax.vmap(wavefunction))(orbit(places)).log)
            ratios = squares / jnp.mean(squares, axis=1, keepdims=True)
            # Half of the draws are uniform, half by |f|^2.
            single = (0.5 + 0.5 * ratios[:, chosen]) / amplitudes
            probabilities = density * jnp.prod(single, axis=1)
            monkeypatch.setattr(eqs.Project, "_draw", draw)
        batch = strategy.batch(wavefunction, places, state)
        weights = batch.weights.reshape(-1, images) * probabilities[:, None]
        matrices = batch.coupling.matrices
        scale = probabilities[:, None, None].astype(matrices.dtype)
        return batch.walkers, weights.reshape(-1), matrices * scale

    points, weights, matrices = (
        part.reshape(-1, *part.shape[2:])
        for part in jax.jit(jax.vmap(drawn))(*_draws(projection, images, amplitudes))
    )
    weight = np.sum(np.asarray(matrices)) / float(jnp.sum(weights)) / images
    return eqs.Batch(points, weights, coupling=eqs.Coupling(matrices, share)), weight


_EVERYDAY = ("pairs", "triples", "drawn from some", "row", "complex both")


@pytest.mark.parametrize(
    "name",
    [
        name if name in _EVERYDAY else pytest.param(name, marks=pytest.mark.slow)
        for name in _CASES
    ],
)
def test_objective_and_gradient(name, monkeypatch):
    """In the mean over all walkers and draws: the energy reported, and the gradient
    that the optimizer gets. No statistical error."""
    (objective, (plain, weight)), gradient = _exact(name)
    wavefunction, projection, share, images, _ = _CASES[name]
    batch, found = _expected(name, monkeypatch)
    np.testing.assert_allclose(found, weight, rtol=1e-7)
    local = jax.vmap(lambda x: _HAMILTONIAN.local_energy(wavefunction, x))
    energies = eqx.filter_jit(local)(batch.walkers)
    shares = _shares(energies.total, batch.weights)
    coupling = _normalised(batch.coupling, shares)
    rest = dict(acceptance=jnp.zeros(()), clipped=jnp.zeros(()))
    rest |= dict(dropped=jnp.zeros((), int), rejected=jnp.zeros((), int))
    seen = _statistics(energies, shares, coupling, 1, **rest)
    np.testing.assert_allclose(seen.energy, objective, rtol=1e-7)
    np.testing.assert_allclose(seen.imaginary, 0, atol=1e-7)
    np.testing.assert_allclose(seen.kinetic + seen.potential, seen.energy)
    mean = np.sum(np.asarray(shares) * np.asarray(energies.total)).real
    np.testing.assert_allclose(mean, plain, rtol=1e-7)

    residual, _ = _residual(energies.total, shares, 1e9, coupling)
    assert jnp.iscomplexobj(residual) == (wavefunction.b is not None)
    scores = eqs.Scores(wavefunction, batch.walkers, shares)
    found = jax.tree.map(lambda x: 2 * x, eqx.filter_jit(scores.transpose)(residual))
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True
    ):
        assert np.max(np.abs(other)) > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)
