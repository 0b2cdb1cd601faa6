"""Projected training: its objective and gradient against quadrature, draws, steps."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._training import projection as projection_module
from eqsym._training.statistics import (
    normalized,
    residual_of,
    shares_of,
    statistics_of,
)
from eqsym._training.strategy import Coupling
from toys import grid, hydrogen, Lattice, walkers, waves


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


def _draws(projection, local_energies, orbit_points):
    """Operations of all draws, and which of them are evaluated."""
    group = projection.group
    identity = int(np.flatnonzero(group.multiplication_table[:, 0] == 0)[0])
    others = [i for i in range(group.order) if i != identity]
    subsets = itertools.combinations(others, orbit_points - 1)
    chosen = [tuple(range(local_energies))]
    if local_energies < orbit_points:
        chosen = list(itertools.product(range(orbit_points), repeat=local_energies))
    pairs = list(itertools.product(subsets, chosen))
    subsets = jnp.asarray([(identity, *some) for some, _ in pairs])
    return subsets, jnp.asarray([which for _, which in pairs])


def _expected(name, monkeypatch):
    """The batch that all places on a grid with all draws make, each with its
    probability, so that sums over it are expectations; and the mean weight of P f."""
    wavefunction, projection, share, local_energies, orbit_points = _CASES[name]
    strategy = eqs.ProjectedTraining(
        projection,
        share=share,
        local_energies=local_energies,
        orbit_points=orbit_points,
    )
    state = strategy.init(wavefunction, key=jax.random.key(0))
    places = grid(_CRYSTAL, _POINTS)
    density = jnp.exp(2 * jax.vmap(wavefunction)(places).log)
    density /= jnp.sum(density)

    def drawn(operations, chosen):
        def draw(self, densities, key):
            weights = 1 / (0.5 + 0.5 * densities / jnp.mean(densities))
            return chosen, weights[chosen]

        monkeypatch.setattr(
            projection_module, "draw_with_identity", lambda *_: operations
        )
        probabilities = density
        if local_energies < orbit_points:
            orbit = jax.vmap(lambda x: projection.group.apply_inverse(x, operations))
            squares = jnp.exp(2 * jax.vmap(jax.vmap(wavefunction))(orbit(places)).log)
            ratios = squares / jnp.mean(squares, axis=1, keepdims=True)
            # Half of the draws are uniform, half by |f|^2.
            single = (0.5 + 0.5 * ratios[:, chosen]) / orbit_points
            probabilities = density * jnp.prod(single, axis=1)
            monkeypatch.setattr(eqs.ProjectedTraining, "_draw", draw)
        batch = strategy.batch(wavefunction, places, state)
        weights = batch.weights.reshape(-1, local_energies) * probabilities[:, None]
        matrices = batch.coupling.matrices
        scale = probabilities[:, None, None].astype(matrices.dtype)
        return batch.walkers, weights.reshape(-1), matrices * scale

    points, weights, matrices = (
        part.reshape(-1, *part.shape[2:])
        for part in jax.jit(jax.vmap(drawn))(
            *_draws(projection, local_energies, orbit_points)
        )
    )
    weight = np.sum(np.asarray(matrices)) / float(jnp.sum(weights)) / local_energies
    return eqs.Batch(points, weights, coupling=Coupling(matrices, share)), weight


_EVERYDAY = ("pairs", "drawn from some", "complex both")


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
    wavefunction, projection, share, local_energies, _ = _CASES[name]
    batch, found = _expected(name, monkeypatch)
    np.testing.assert_allclose(found, weight, rtol=1e-7)
    local = jax.vmap(lambda x: _HAMILTONIAN.local_energy(wavefunction, x))
    energies = eqx.filter_jit(local)(batch.walkers)
    shares = shares_of(energies.total, batch.weights)
    coupling = normalized(batch.coupling, shares)
    sampler = eqs.Metropolis().init(wavefunction, batch.walkers, key=jax.random.key(0))
    rest = dict(sampler=sampler, clipped_share=jnp.zeros(()))
    counts = ("invalid_energies", "dropped_terms", "solver_retries", "rejected_update")
    rest |= dict.fromkeys(counts, jnp.zeros((), int))
    seen = statistics_of(energies, shares, coupling, 1, **rest)
    np.testing.assert_allclose(seen.energy, objective, rtol=1e-7)
    np.testing.assert_allclose(seen.imaginary_energy, 0, atol=1e-7)
    np.testing.assert_allclose(seen.kinetic + seen.potential, seen.energy)
    mean = np.sum(np.asarray(shares) * np.asarray(energies.total)).real
    np.testing.assert_allclose(mean, plain, rtol=1e-7)

    residual, _ = residual_of(energies.total, shares, 1e9, coupling)
    assert jnp.iscomplexobj(residual) == (wavefunction.b is not None)
    scores = eqs.Scores(wavefunction, batch.walkers, shares)
    found = jax.tree.map(lambda x: 2 * x, eqx.filter_jit(scores.transpose)(residual))
    for one, other in zip(
        jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True
    ):
        assert np.max(np.abs(other)) > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-8)


def test_draws_of_images():
    """Half uniformly, half by density, with the weights that undo it, at most 2."""
    strategy = eqs.ProjectedTraining(_trivial(99), local_energies=2, orbit_points=4)
    densities = jnp.asarray([3.0, 0.8, 0.2, 0.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn, weights = jax.vmap(lambda key: strategy._draw(densities, key))(keys)
    expected = 8000 * (0.5 + 0.5 * np.asarray(densities)) / 4
    counts = np.bincount(np.asarray(drawn).ravel(), minlength=4)
    assert np.sum((counts - expected) ** 2 / expected) < 21.1  # error rate 1e-4
    np.testing.assert_allclose(weights, (2000 / expected)[drawn])
    every, ones = eqs.ProjectedTraining(_trivial(99), local_energies=4)._draw(
        densities, keys[0]
    )
    np.testing.assert_array_equal(every, np.arange(4))
    np.testing.assert_array_equal(ones, np.ones(4))


@eqx.filter_jit
def _batch(strategy, wavefunction, places, state):
    return strategy.batch(wavefunction, places, state)


@pytest.mark.slow
@pytest.mark.parametrize("label", ["Bu", "1Eg"])
def test_all_images_of_a_walker_give_the_local_energy_of_the_projection(label):
    """For a network, with nodes and signs, by `Symmetrized`: the pairs of a walker add
    up to |Pf|^2 / p and to the local energy of P f; its real part, as f is real."""
    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    gamma = eqs.Occupation(tuple(np.zeros((n, 3)) for n in crystal.electrons))
    f = eqs.SolidNet(
        crystal, gamma, widths=((8, 3),), determinants=1, key=jax.random.key(0)
    )
    group = eqs.SpaceGroup.of(crystal).generated_by([1, 2])  # I4/m
    projection = eqs.IrrepProjection(group, label)
    strategy = eqs.ProjectedTraining(projection, local_energies=8)
    x = eqs.initial_walkers(crystal, 1, key=jax.random.key(1))
    state = strategy.init(f, key=jax.random.key(2))
    batch = _batch(strategy, f, x, state)
    (matrix,) = np.asarray(batch.coupling.matrices)
    assert matrix.dtype == np.float64
    squares = np.exp(2 * np.asarray(jax.vmap(f)(batch.walkers).log))
    np.testing.assert_allclose(batch.weights, squares / np.mean(squares))

    projected = eqs.Symmetrized(f, projection)
    expected = np.exp(2 * projected(x[0]).log) / np.mean(squares)
    np.testing.assert_allclose(np.mean(matrix), expected, rtol=1e-9)
    hamiltonian = eqs.Hamiltonian(crystal)

    @eqx.filter_jit
    def local(points):
        every = jax.vmap(lambda y: hamiltonian.local_energy(f, y).total)(points)
        return every, hamiltonian.local_energy(projected, points[0]).total.real

    energies, expected = local(batch.walkers)
    assert np.ptp(energies) > 1
    energy = np.sum(matrix @ np.asarray(energies)) / np.sum(matrix)
    np.testing.assert_allclose(energy, expected, rtol=1e-8)


def _vmc(strategy, hamiltonian=_HAMILTONIAN, optimizer=None):
    optimizer = eqs.Spring(0.1, norm_bound=0.01) if optimizer is None else optimizer
    return eqs.VMC(
        hamiltonian, eqs.Metropolis(3, width=1.0), optimizer, strategy=strategy
    )


class Holed(Lattice):
    """No local energy in a part of the cell."""

    def local_energy(self, wavefunction, electrons, *, key=None):
        found = super().local_energy(wavefunction, electrons)
        inside = electrons[0, 0] % 4.0 < 1
        return eqs.LocalEnergy(
            found.kinetic, jnp.where(inside, jnp.nan, found.potential)
        )


@pytest.mark.parametrize(
    "wavefunction", [pytest.param(_REAL, marks=pytest.mark.slow), _COMPLEX]
)
def test_pairs_without_a_finite_energy_are_left_out(wavefunction):
    strategy = eqs.ProjectedTraining(_trivial(99))
    vmc = _vmc(strategy, Holed(_CRYSTAL), eqs.Optax(optax.sgd(0.1)))
    state = vmc.init(wavefunction, walkers(_CRYSTAL, 60), key=jax.random.key(0))
    following, seen = eqx.filter_jit(vmc.step)(state)
    for value in jax.tree.leaves((seen, following.wavefunction.a)):
        assert np.all(np.isfinite(value))
    drawn = strategy.step(state.strategy)
    batch = _batch(strategy, wavefunction, following.sampler.walkers, drawn)
    energies = jax.vmap(lambda x: vmc.hamiltonian.local_energy(wavefunction, x).total)
    local = np.asarray(eqx.filter_jit(energies)(batch.walkers))
    valid = np.isfinite(local)
    assert seen.invalid_energies == np.sum(~valid) > 0
    weights = np.where(valid, batch.weights, 0)
    pairs = valid.reshape(-1, 2, 1) & valid.reshape(-1, 1, 2)
    matrices = np.where(pairs, batch.coupling.matrices, 0)
    local = np.where(valid, local, 0)
    plain = np.sum(weights * local) / np.sum(weights)
    coupled = np.einsum("wij,wj->", matrices, local.reshape(-1, 2)) / np.sum(matrices)
    np.testing.assert_allclose(seen.energy, np.real(plain + coupled) / 2)


class Odd(eqs.AbstractWavefunction):
    """`a + sin w`: for small a it is nearly odd, and its average nearly 0."""

    crystal: eqs.Crystal
    a: jax.Array

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        reciprocal = jnp.asarray(self.crystal.lattice.reciprocal)
        value = self.a[0] + jnp.sum(jnp.sin(electrons @ reciprocal[2]))
        return eqs.LogPsi(jnp.sign(value), jnp.log(jnp.abs(value)))


def test_a_step_that_sees_no_projection_is_rejected():
    """The part of an odd function that is even under the mirrors is so small that the
    pairs of some draws add up to a negative weight."""
    strategy = eqs.ProjectedTraining(_trivial(47))
    f = Odd(_CRYSTAL, jnp.full(1, 1e-3))
    vmc = _vmc(strategy, optimizer=eqs.Optax(optax.sgd(1e-3)))
    step = eqx.filter_jit(vmc.step)
    rejected = []
    for seed in range(6):
        state = vmc.init(f, walkers(_CRYSTAL, 20), key=jax.random.key(seed))
        following, seen = step(state)
        drawn = following.strategy
        batch = _batch(strategy, f, following.sampler.walkers, drawn)
        rejected.append(bool(np.sum(batch.coupling.matrices) <= 0))
        assert bool(seen.rejected_update) == rejected[-1]
        assert np.isfinite(seen.energy) != rejected[-1]
        assert np.all((following.wavefunction.a == f.a) == rejected[-1])
    assert len(set(rejected)) == 2


def test_a_whole_share_is_plain_training():
    """With weights, at all images."""
    strategy = eqs.ProjectedTraining(_trivial(99), share=1.0, local_energies=3)
    state = strategy.init(_REAL, key=jax.random.key(0))
    batch = _batch(strategy, _REAL, walkers(_CRYSTAL, 5), state)
    assert batch.coupling is None
    np.testing.assert_allclose(np.sum(batch.weights), 15)


def test_training():
    """In a stage of `run`: finds the best function that can be projected, to be
    seen by quadrature of both energies."""
    strategy = eqs.ProjectedTraining(
        eqs.GroupAverage(eqs.SpaceGroup.of(_CRYSTAL)), share=0.5
    )
    vmc = _vmc(None, Lattice(_CRYSTAL, depth=2.0))
    result = eqs.run(
        vmc,
        _REAL,
        steps=60,
        walkers=60,
        key=jax.random.key(0),
        stages=[(3, strategy)],
        progress=False,
    )
    assert np.all(np.isfinite(result.history["energy"]))
    assert np.all(result.history["rejected_update"] == 0)
    places = grid(_CRYSTAL, 8)

    @eqx.filter_jit
    def energy(f):
        density = jnp.exp(2 * jax.vmap(f)(places).log)
        local = jax.vmap(lambda x: vmc.hamiltonian.local_energy(f, x).total)(places)
        return jnp.sum(density * local) / jnp.sum(density)

    first, last = energy(_REAL), energy(result.wavefunction)
    best = min(
        energy(waves(_CRYSTAL, a=(a, a, a), c=(0, 0, 0)))
        for a in np.arange(0.8, 1.4, 0.1)
    )
    assert last < best + 0.02 < first - 0.5
    np.testing.assert_allclose(result.wavefunction.c, 0, atol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(share=1.5), "`share` must be from 0 to 1, got 1.5"),
        (dict(share=-0.1), "`share` must be from 0 to 1, got -0.1"),
        (dict(local_energies=1), "`local_energies` must be at least 2"),
        (dict(local_energies=3, orbit_points=2), "at least the 3 `local_energies`"),
        (dict(orbit_points=9), "at most the 8 operations of the group, got 9"),
        (dict(local_energies=9), "at most the 8 operations of the group, got 9"),
        (dict(chunk=0), "`chunk` must be at least 1 walker, got 0"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        eqs.ProjectedTraining(_trivial(99), **change)


def test_refuses_what_is_no_projector():
    group = _group(99)
    for other in (group, eqs.RandomSubset(group, 2)):
        with pytest.raises((ValueError, TypeError), match="(?i)projection"):
            eqs.ProjectedTraining(other)


def test_refuses_a_part_that_vanishes():
    # Primitive translations multiply f by 1: it has no part that they multiply by -1.
    crystal = hydrogen(supercell=(2, 1, 1))
    group = eqs.SpaceGroup.of(crystal).with_translations().translations()
    odd = [i.label for i in eqs.irreps(group) if np.any(i.characters < 0)]
    strategy = eqs.ProjectedTraining(eqs.IrrepProjection(group, odd[0]))
    with pytest.raises(ValueError, match="zero everywhere"):
        strategy.init(waves(crystal), key=jax.random.key(0))
