"""Smoothed canonicalization: weights, invariance, boundary conditions, smoothness, and
draws that are right on average."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Complex, Float

from eqsym import (
    AbstractWavefunction,
    Canonicalization,
    Crystal,
    ForwardLaplacian,
    FundamentalDomain,
    GroupAverage,
    HessianLaplacian,
    LogPsi,
    partition,
    RandomCanonicalization,
    SmoothStep,
    SpaceGroup,
    SplineStep,
    Symmetrized,
)
from eqsym._symmetrizer.canonicalization import RandomImage
from toys import cart_twist


class Determinants(AbstractWavefunction):
    """Two electrons up and one down in orbitals that see the mean of all electrons:
    antisymmetric, with the boundary condition of the crystal, and no other symmetry."""

    crystal: Crystal
    waves: Float[Array, "waves 3"]
    kpoint: Float[Array, "3"]
    coefficients: Complex[Array, "orbitals waves"]

    @property
    def crystal_momentum(self):
        return 3 * np.asarray(self.kpoint)

    def __call__(self, electrons):
        angles = electrons @ self.waves.T
        mean = jnp.mean(jnp.cos(angles), axis=0, keepdims=True)
        features = jnp.cos(angles) + jnp.sin(angles) * (1 + mean) + 0.3
        orbitals = features.astype(complex) @ self.coefficients.T
        phase = electrons @ self.kpoint
        orbitals = orbitals * jax.lax.complex(jnp.cos(phase), jnp.sin(phase))[:, None]
        first, second, other = orbitals
        value = (first[0] * second[1] - first[1] * second[0]) * other[0]
        size = jnp.sqrt(value.real**2 + value.imag**2)
        return LogPsi(value / size.astype(complex), jnp.log(size))


def _determinants(crystal, seed=0):
    assert crystal.electrons == (2, 1)
    rng = np.random.default_rng(seed)
    integers = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]])
    orbitals = max(crystal.electrons)
    coefficients = rng.normal(size=(orbitals, 4)) + 1j * rng.normal(size=(orbitals, 4))
    # Of the supercell: a simultaneous primitive translation changes them.
    return Determinants(
        crystal,
        jnp.asarray(integers @ crystal.supercell.reciprocal),
        jnp.asarray(cart_twist(crystal)),
        jnp.asarray(coefficients),
    )


_CRYSTALS = {
    "graphene": Crystal.graphene(a=4.65, vacuum=12.0, unit="bohr", charge=9, spin=1),
    "diamond": Crystal.diamond("C", a=6.7, unit="bohr", charge=9, spin=1),
    # All three electrons carry K, and 3 K is a reciprocal vector.
    "graphene at K": Crystal.graphene(
        a=4.65, vacuum=12.0, unit="bohr", charge=9, spin=1, twist=(1 / 3, 1 / 3, 0.0)
    ),
}
_STEPS = {"smooth": SmoothStep(), "spline": SplineStep()}
_NAMES = st.sampled_from(sorted(_CRYSTALS))
_SEEDS = st.integers(0, 2**16)


@functools.cache
def _canonicalization(name, step="smooth"):
    domain = FundamentalDomain.of(SpaceGroup.of(_CRYSTALS[name]))
    return Canonicalization(domain, smoothing=_STEPS[step])


@functools.cache
def _canonical(name, step="smooth"):
    """A canonicalized wave function, as a function of configurations."""
    wavefunction = _determinants(_CRYSTALS[name])
    return _compiled(Symmetrized(wavefunction, _canonicalization(name, step)))


def _compiled(wavefunction):
    return jax.jit(jax.vmap(lambda electrons: wavefunction(electrons)))


@functools.cache
def _bare(name):
    return _compiled(_determinants(_CRYSTALS[name]))


@functools.cache
def _weights(name, step="smooth"):
    """Compiled, for a batch of configurations."""
    return jax.jit(jax.vmap(_canonicalization(name, step).weights))


def _electrons(crystal, seed, batch=()):
    rng = np.random.default_rng(seed)
    frac = rng.uniform(-1, 2, size=(*batch, sum(crystal.electrons), 3))
    return jnp.asarray(crystal.supercell.to_cartesian(frac))


def _taylor(function, x):
    """Value, first and second derivatives."""
    first = jax.jacfwd(lambda x: 2 * (function(x),), has_aux=True)

    def both(x):
        slopes, value = first(x)
        return slopes, (value, slopes)

    second, (value, slopes) = jax.jacfwd(both, has_aux=True)(x)
    return value, slopes, second


def _assert_same(psi, expected, atol=1e-8):
    np.testing.assert_allclose(psi.log, expected.log, atol=atol)
    np.testing.assert_allclose(psi.sign, expected.sign, atol=atol)


# The functions of a number from 0 to 1.


def _naive_step(step, w):
    """The formulas of Huang et al. as they are written."""
    if isinstance(step, SplineStep):
        if w <= 0 or w >= 1:
            return float(w >= 1)
        if w <= 1 / 3:
            return 9 * w**3 / 2
        if w <= 2 / 3:
            return 9 * (w - 1) ** 3 / 2 - (3 * w - 2) ** 3 / 2 + 1
        return 9 * (w - 1) ** 3 / 2 + 1
    phi = lambda x: np.exp(-1 / x) if x > 0 else 0.0
    return phi(w) / (phi(w) + phi(1 - w))


@pytest.mark.parametrize("name", _STEPS)
def test_steps(name):
    step = _STEPS[name]
    w = np.sort([*np.linspace(-0.5, 1.5, 201), 1 / 3, 2 / 3, 1e-3, 1e-9, 1e300])
    values = np.asarray(step(jnp.asarray(w)))
    np.testing.assert_allclose(values, [_naive_step(step, x) for x in w], atol=1e-14)
    assert np.all(np.diff(values) >= 0)
    np.testing.assert_allclose(values[:201] + step(1 - jnp.asarray(w[:201])), 1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("name", _STEPS)
def test_steps_have_two_continuous_derivatives(name, dtype):
    step = _STEPS[name]
    derivatives = [jax.grad(step), jax.grad(jax.grad(step))]
    derivatives = [jax.jit(jax.vmap(derivative)) for derivative in derivatives]
    h = 1e-5
    for knot in (0.0, 1e-3, 1 / 3, 2 / 3, 1 - 1e-3, 1.0):
        around = jnp.asarray([knot - h, knot, knot + h], dtype)
        for derivative in derivatives:
            values = np.asarray(derivative(around))
            assert values.dtype == dtype
            np.testing.assert_allclose(values, values[1], atol=1e-2)
    tiny = jnp.asarray([0.0, 1e-300, 1e-30, 1e-8, 1.0, -1e30, 1e30], dtype)
    for derivative in derivatives:
        np.testing.assert_allclose(derivative(tiny), 0.0, atol=1e-5)


# Weights.


def _naive_weights(canonicalization, point):
    """All images of the domain nearby, one by one."""
    domain, eps = canonicalization.domain, canonicalization.eps
    group, step = (
        domain.group,
        functools.partial(_naive_step, canonicalization.smoothing),
    )
    lattice = group.crystal.lattice
    values = np.zeros(group.order)
    shifts = list(itertools.product(range(-2, 3), repeat=3))
    shifts = lattice.to_cartesian(np.array(shifts, float))
    for g in range(group.order):
        image = group.cart_rotations[g].T @ (point - group.cart_translations[g])
        frac = lattice.to_fractional(image - domain.point)
        image = image - lattice.to_cartesian(np.round(frac))
        excesses = (image - shifts) @ domain.normals.T - domain.offsets
        for excess in excesses[np.max(excesses, axis=1) < eps]:
            distance = sum(w * step(w / eps) for w in excess)
            values[g] += step(1 - distance / eps)
    return values / np.sum(values)


@settings(max_examples=12)
@given(_NAMES, st.sampled_from(sorted(_STEPS)), _SEEDS)
def test_weights(name, step, seed):
    canonicalization = _canonicalization(name, step)
    group = canonicalization.group
    x = _electrons(group.crystal, seed)
    weights = _weights(name, step)(x[None])[0]
    assert np.all(np.asarray(weights) >= 0)
    np.testing.assert_allclose(np.sum(weights, axis=1), 1)
    naive = [_naive_weights(canonicalization, np.asarray(r)) for r in x]
    np.testing.assert_allclose(weights, naive, atol=1e-9)


@settings(max_examples=20)
@given(_NAMES, _SEEDS)
def test_weights_are_periodic_and_follow_operations(name, seed):
    canonicalization = _canonicalization(name)
    group, rng = canonicalization.group, np.random.default_rng(seed)
    x = _electrons(group.crystal, seed)
    weights = lambda x: np.asarray(_weights(name)(x[None])[0])
    steps = rng.integers(-3, 4, size=(len(x), 3)).astype(float)
    shift = group.crystal.lattice.to_cartesian(steps)
    np.testing.assert_allclose(weights(x + shift), weights(x), atol=1e-9)
    # W_g(h r) = W_{h^-1 g}(r).
    h = int(rng.integers(group.order))
    moved = weights(group.apply(x)[h])
    table = group.multiplication_table[group.inverses[h]]
    np.testing.assert_allclose(moved, weights(x)[:, table], atol=1e-6)


@pytest.mark.parametrize("name", sorted(_CRYSTALS))
def test_points_where_images_meet(name):
    # On vertices, edges and faces of the domain weights are shared, and sum to 1.
    canonicalization = _canonicalization(name)
    vertices = canonicalization.domain.vertices
    pairs = itertools.combinations(range(len(vertices)), 2)
    middles = [(vertices[i] + vertices[j]) / 2 for i, j in pairs]
    points = jnp.asarray(np.concatenate([vertices, middles]))
    weights = np.asarray(jax.jit(canonicalization.weights)(points))
    assert np.all(np.isfinite(weights))
    np.testing.assert_allclose(np.sum(weights, axis=1), 1)
    most = np.max(np.sum(weights > 0, axis=1))
    assert 1 < most <= canonicalization._meeting
    slopes = jax.jit(jax.jacfwd(canonicalization.weights))(points)
    assert np.all(np.isfinite(slopes))


# Wave functions.


@settings(max_examples=12)
@given(_NAMES, _SEEDS)
def test_invariance(name, seed):
    psi, group = _canonical(name), _canonicalization(name).group
    x = _electrons(group.crystal, seed)
    expected = jax.tree.map(lambda v: np.broadcast_to(v, group.order), psi(x[None]))
    _assert_same(psi(group.apply(x)), expected, atol=1e-6)
    # The bare function is not invariant.
    bare = _bare(name)(group.apply(x))
    assert np.ptp(bare.log) > 1e-2


@settings(max_examples=12)
@given(_NAMES, _SEEDS)
def test_antisymmetry(name, seed):
    psi, crystal = _canonical(name), _CRYSTALS[name]
    x = _electrons(crystal, seed)
    expected = psi(x[None])
    exchanged = psi(x[jnp.array([1, 0, 2])][None])
    _assert_same(exchanged, LogPsi(-expected.sign, expected.log))


_BIG = Crystal.graphene(
    a=4.65,
    vacuum=12.0,
    unit="bohr",
    supercell=(2, 2, 1),
    charge=45,
    twist=(0.0, 0.0, 0.21),
)


@functools.cache
def _big():
    symmetrizer = Canonicalization(FundamentalDomain.of(SpaceGroup.of(_BIG)))
    return _compiled(Symmetrized(_determinants(_BIG), symmetrizer))


@settings(max_examples=8)
@given(st.sampled_from([*sorted(_CRYSTALS), "supercell"]), _SEEDS)
def test_twisted_boundary_condition(name, seed):
    psi, crystal = (
        (_big(), _BIG)
        if name == "supercell"
        else (
            _canonical(name),
            _CRYSTALS[name],
        )
    )
    rng = np.random.default_rng(seed)
    x = _electrons(crystal, seed)
    electron = rng.integers(len(x))
    shift = rng.integers(-2, 3, size=3) @ crystal.supercell.vectors
    moved = psi(x.at[electron].add(shift)[None])
    expected = psi(x[None])
    phase = np.exp(1j * cart_twist(crystal) @ shift)
    _assert_same(moved, LogPsi(phase * expected.sign, expected.log))


def test_invariant_functions_stay_what_they_are():
    crystal = _CRYSTALS["graphene"]
    symmetrizer = _canonicalization("graphene")
    average = Symmetrized(_determinants(crystal), GroupAverage(symmetrizer.group))
    x = _electrons(crystal, 0, (20,))
    both = _compiled(Symmetrized(average, symmetrizer))
    _assert_same(both(x), _compiled(average)(x))


@settings(max_examples=8)
@given(_NAMES, _SEEDS)
def test_orbit_has_all_images_with_weight(name, seed):
    canonicalization = _canonicalization(name)
    x = _electrons(_CRYSTALS[name], seed)
    psi = _canonical(name)(x[None])
    images = _bare(name)(canonicalization.group.apply_inverse(x))
    values = np.asarray(images.sign) * np.exp(np.asarray(images.log))
    naive = [_naive_weights(canonicalization, np.asarray(r)) for r in x]
    total = np.sum(np.mean(naive, axis=0) * values)
    value = np.asarray(psi.sign) * np.exp(np.asarray(psi.log))
    np.testing.assert_allclose(value, total, rtol=1e-7)


def test_number_of_images():
    domain = _canonicalization("diamond").domain
    full = Canonicalization(domain, eps=0.5 * domain.inradius)
    x = _electrons(_CRYSTALS["diamond"], 3, (50,))
    weights = np.asarray(jax.jit(jax.vmap(full.weights))(x)).mean(axis=1)
    needed = np.sum(weights > 0, axis=1)
    shape = lambda x: jax.eval_shape(full.orbit, x).weights.shape
    assert shape(x[0]) == (48,)
    whole = jax.tree.map(np.asarray, jax.jit(jax.vmap(full.orbit))(x))
    assert not np.any(whole.dropped_terms)
    # One electron needs less than the group.
    assert shape(x[0, :1]) == (full._meeting,) and full._meeting < 48
    some = Canonicalization(full.domain, full.eps, full.smoothing, max_terms=4)
    orbits = jax.jit(jax.vmap(some.orbit))(x)
    assert orbits.weights.shape == (50, 4) and orbits.images.shape == (50, 4, 3, 3)
    missing = np.maximum(needed - 4, 0)
    np.testing.assert_array_equal(orbits.dropped_terms, missing)
    assert np.sum(missing) > 0
    # The largest are kept.
    largest = np.sort(weights, axis=1)[:, :-5:-1]
    np.testing.assert_allclose(orbits.weights, largest, atol=1e-12)
    # What only fills up repeats the image with the largest weight.
    for n, weights, images in zip(needed, whole.weights, whole.images, strict=True):
        assert n < len(weights) and np.all(weights[n:] == 0)
        np.testing.assert_array_equal(images[n:], images[:1].repeat(48 - n, axis=0))


# Smoothness.


def _path(crystal):
    """An electron that walks through the domain and out of it."""
    x = _electrons(crystal, 1)
    direction = crystal.lattice.vectors.T @ np.array([0.31, 0.77, 0.23])
    return lambda s: x.at[0].add(s * jnp.asarray(direction))


@pytest.mark.parametrize("step", _STEPS)
def test_value_gradient_and_laplacian_are_continuous(step):
    name = "graphene"
    symmetrizer = _canonicalization(name, step)
    path = _path(_CRYSTALS[name])

    def jumps(symmetrizer, values, gap=1e-9):
        """Largest relative changes over `gap` at points where an image gets or loses
        weight, or an electron passes the plane of a face of an image with weight."""
        psi = Symmetrized(_determinants(_CRYSTALS[name]), symmetrizer)

        @jax.jit
        @jax.vmap
        def active(s):
            r, domain = path(s)[:1], symmetrizer.domain
            near = symmetrizer._reach(domain.group.apply_inverse(r))
            outside = domain.excess(near)[:, 0] > 0
            weighty = symmetrizer.weights(r)[0] > 0
            passed = jnp.ravel(outside & weighty[:, None, None])
            return jnp.concatenate([weighty, passed])

        ends = jnp.linspace(0.0, 6.0, 1201)
        changed = np.any(np.diff(np.asarray(active(ends)), axis=0), axis=1)
        low, high = ends[:-1][changed], ends[1:][changed]
        assert len(low) > 3
        for _ in range(40):
            middle = (low + high) / 2
            same = jnp.all(active(middle) == active(low), axis=1)
            low, high = jnp.where(same, middle, low), jnp.where(same, high, middle)

        compiled = jax.jit(jax.vmap(lambda s: values(psi, path(s).reshape(-1))))
        before, after = compiled(low - gap / 2), compiled(high + gap / 2)
        return [
            np.max(np.abs(a - b)) / np.max(np.abs(a))
            for a, b in zip(after, before, strict=True)
        ]

    def value(psi, flat):
        value = psi(flat.reshape(3, 3))
        return [jnp.stack([value.log, value.sign.real, value.sign.imag])]

    def with_derivatives(psi, flat):
        parts = _taylor(lambda flat: value(psi, flat)[0], flat)
        return [*parts[:2], jnp.trace(parts[2], axis1=1, axis2=2)]

    zeroth, first, second = jumps(symmetrizer, with_derivatives)
    assert max(zeroth, first, second) < 1e-4
    # Without smoothing, the function itself jumps.
    hard = Canonicalization(symmetrizer.domain, 1e-9, symmetrizer.smoothing)
    assert jumps(hard, value)[0] > 1e-2


@pytest.mark.parametrize("images", ["all", "random"])
def test_laplacians_agree(images):
    crystal = _CRYSTALS["graphene"]
    some = _canonicalization("graphene", "spline" if images == "random" else "smooth")
    if images == "random":
        some = RandomCanonicalization(some.domain, some.eps, some.smoothing)
        some = some.draw(jax.random.key(0))
    x = _electrons(crystal, 2, (6,))
    # Some images have parts of the weight.
    assert np.max(np.sum(np.asarray(_weights("graphene")(x)) > 0, axis=2)) > 1
    psi = Symmetrized(_determinants(crystal), some)
    forward, hessian = (
        jax.jit(jax.vmap(functools.partial(kinetic, psi)))(x)
        for kinetic in (ForwardLaplacian(), HessianLaplacian())
    )
    np.testing.assert_allclose(forward, hessian, rtol=1e-6, atol=1e-8)


def test_single_precision():
    symmetrizer = _canonicalization("diamond")
    x = _electrons(_CRYSTALS["diamond"], 5, (20,))
    single = jax.jit(jax.vmap(symmetrizer.orbit))(x.astype(jnp.float32))
    assert single.weights.dtype == single.images.dtype == jnp.float32
    np.testing.assert_allclose(np.sum(single.weights, axis=1), 1, atol=1e-5)
    rough = _weights("diamond")(x.astype(jnp.float32))
    np.testing.assert_allclose(rough, _weights("diamond")(x), atol=1e-3)
    slopes = jax.jit(jax.jacfwd(symmetrizer.weights))(x[0].astype(jnp.float32))
    assert np.all(np.isfinite(slopes))


# Draws.


def test_draws_are_unbiased():
    name = "graphene at K"
    canonicalization = _canonicalization(name)
    wavefunction = _determinants(_CRYSTALS[name])
    domain, eps = canonicalization.domain, canonicalization.eps
    x = _electrons(_CRYSTALS[name], 4)

    def derivatives(symmetrizer, x):
        def psi(flat):
            value = Symmetrized(wavefunction, symmetrizer)(flat.reshape(3, 3))
            value = value.sign * jnp.exp(value.log).astype(complex)
            return jnp.stack([value.real, value.imag])

        parts = _taylor(psi, x.reshape(-1))
        return jnp.concatenate([part.reshape(2, -1) for part in parts], axis=1)

    # A draw depends on the uniform number in steps, at the sums of weights.
    weights = np.asarray(_weights(name)(x[None])[0])
    electrons, operations = np.nonzero(weights)
    chances = weights[electrons, operations]
    assert len(chances) > len(x)
    uniforms = np.cumsum(weights, axis=1)[electrons, operations] - chances / 2

    @jax.jit
    @jax.vmap
    def one(electron, uniform):
        draw = RandomImage(domain, eps, canonicalization.smoothing, electron, uniform)
        return derivatives(draw, x)

    draws = np.asarray(one(jnp.asarray(electrons), jnp.asarray(uniforms)))
    mean = np.einsum("d,dpk->pk", chances, draws) / len(x)
    expected = np.asarray(jax.jit(functools.partial(derivatives, canonicalization))(x))
    np.testing.assert_allclose(mean, expected, atol=1e-9 * np.max(np.abs(expected)))


def test_draws_have_the_right_chances():
    canonicalization = _canonicalization("graphene")
    random = RandomCanonicalization(canonicalization.domain)
    assert random.eps == canonicalization.eps
    draws = jax.vmap(random.draw)(jax.random.split(jax.random.key(3), 4000))
    counts = np.bincount(draws.electron, minlength=3)
    # Five standard deviations of a binomial distribution.
    np.testing.assert_allclose(counts / 4000, 1 / 3, atol=5 * (2 / 9 / 4000) ** 0.5)
    x = _electrons(_CRYSTALS["graphene"], 4)
    orbits = jax.jit(jax.vmap(lambda draw: draw.orbit(x)))(draws)
    np.testing.assert_allclose(orbits.weights, 1)
    images = np.asarray(canonicalization.group.apply_inverse(x))
    gaps = np.abs(np.asarray(orbits.images)[:, :1] - images).max(axis=(2, 3))
    assert np.all(np.min(gaps, axis=1) < 1e-9)
    often = np.bincount(np.argmin(gaps, axis=1), minlength=24) / 4000
    chances = np.asarray(_weights("graphene")(x[None])[0]).mean(axis=0)
    np.testing.assert_allclose(often, chances, atol=5 * 0.5 / 4000**0.5)
    assert np.all(often[chances == 0] == 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_ends_of_the_uniform_distribution(dtype):
    domain = _canonicalization("diamond").domain
    x = _electrons(_CRYSTALS["diamond"], 6, (30,)).astype(dtype)

    @jax.jit
    @jax.vmap
    def weights_and_slopes(uniform, x):
        draw = RandomImage(domain, None, None, jnp.asarray(1), uniform)
        weight = lambda x: draw.orbit(x).weights
        return weight(x), jax.jacfwd(weight)(x)

    for uniform in (0.0, np.nextafter(np.float32(1), np.float32(0)), 1.0):
        weights, slopes = weights_and_slopes(jnp.full(30, uniform, dtype), x)
        np.testing.assert_allclose(weights, 1)
        assert np.all(np.isfinite(slopes))


def test_draws_are_data():
    domain = _canonicalization("diamond").domain
    draw = RandomCanonicalization(domain).draw(jax.random.key(0))
    wavefunction = _determinants(_CRYSTALS["diamond"])
    trained, _ = partition(Symmetrized(wavefunction, draw))
    bare, _ = partition(wavefunction)
    assert jax.tree.leaves(trained) == jax.tree.leaves(bare)
    again = RandomCanonicalization(domain).draw(jax.random.key(0))
    assert eqx.tree_equal(draw, again)
    assert len(jax.tree.leaves(draw)) == 2
    assert not jax.tree.leaves(_canonicalization("diamond"))
    hash(_canonicalization("diamond"))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"eps": 0.0}, "`eps` must be a positive length .* got 0.0"),
        ({"eps": -1.0}, "`eps` must be a positive length .* got -1.0"),
        ({"eps": float("nan")}, "`eps` must be a positive length .* got nan"),
        ({"eps": 30.0}, "`eps` .* at most the size of the domain, .* got 30.0"),
        ({"max_terms": 0}, "`max_terms` must be a positive number, got 0"),
    ],
)
def test_refuses(arguments, message):
    domain = _canonicalization("diamond").domain
    with pytest.raises(ValueError, match=message):
        Canonicalization(domain, **arguments)


def test_draws_refuse_another_number_of_electrons():
    draw = RandomCanonicalization(_canonicalization("diamond").domain)
    with pytest.raises(ValueError, match="`electrons` must be the 3 electrons"):
        draw.draw(jax.random.key(0)).orbit(jnp.zeros((4, 3)))
