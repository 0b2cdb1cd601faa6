"""SolidNet: boundary conditions, exchange, realness, features, layers."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._wavefunction import bloch
from eqsym._wavefunction.solidnet import Layer
from toys import cart_twist


_SEEDS = st.integers(0, 2**16)
# Neither orthogonal nor symmetric, one of them left-handed.
_LATTICE = np.array([[3.0, 0.0, 0.0], [0.4, 3.3, 0.0], [0.2, -0.5, 3.6]])
_POSITIONS = [[0.3, 0.1, -0.2], [1.4, 1.7, 1.5]]


def _crystal(lattice=_LATTICE, species=("H", "H"), **kwargs):
    positions = _POSITIONS[: len(species)]
    return eqs.Crystal(
        lattice, species, cart_positions=positions, unit="bohr", **kwargs
    )


def _occupation(crystal):
    """As many k-points as there are electrons, one after another."""
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    return eqs.Occupation(tuple(k[np.arange(n) % len(k)] for n in crystal.electrons))


def _network(crystal, **kwargs):
    kwargs = {"widths": ((6, 4), (6, 4)), "determinants": 2} | kwargs
    return eqs.SolidNet(crystal, _occupation(crystal), key=jax.random.key(7), **kwargs)


_GENERAL = [[1, 1, 0], [0, 2, 1], [0, 0, 1]]
_CASES = {
    "real": (dict(supercell=_GENERAL), {}),
    "real, made complex": (dict(supercell=(2, 1, 1)), dict(real=False)),
    "complex, unequal": (
        dict(supercell=_GENERAL, spin=2, twist=(0.1, -0.4, 0.27)),
        {},
    ),
    "complex, factored": (
        dict(supercell=_GENERAL, spin=2, twist=(0.1, -0.4, 0.27)),
        dict(full_determinant=False),
    ),
    "antiperiodic, nu": (
        dict(supercell=_GENERAL, twist=(0.5, 0.0, 0.5)),
        dict(features=eqs.NuFeatures()),
    ),
    "left-handed, k that are not real": (
        dict(lattice=_LATTICE[[1, 0, 2]], species=("H",), supercell=(3, 1, 1)),
        dict(full_determinant=False),
    ),
    "real, k and -k": (dict(supercell=(3, 1, 1)), {}),
    "real, only k and -k, factored": (
        dict(supercell=(2, 1, 1), twist=(0.5, 0.5, 0.0)),
        dict(full_determinant=False, features=eqs.NuFeatures()),
    ),
    "one spin": (dict(twist=(0.0, 0.0, 0.3), spin=2), {}),
    "one spin, factored": (dict(spin=-2), dict(full_determinant=False)),
    "one electron": (dict(species=("H",), twist=(0.2, 0.0, 0.0)), {}),
    "attention": (
        dict(supercell=_GENERAL, spin=2, twist=(0.1, -0.4, 0.27)),
        dict(width=8, layers=2, heads=2),
    ),
    "attention, real, k and -k, factored": (
        dict(supercell=(3, 1, 1)),
        dict(width=8, heads=4, split=False, layer_norm=True, full_determinant=False),
    ),
    "attention of one electron": (
        dict(species=("H",), twist=(0.2, 0.0, 0.0)),
        dict(width=4, layers=1),
    ),
}


def _case(name):
    where, how = _CASES[name]
    if "width" not in how:
        return _network(_crystal(**where), **how)
    crystal = _crystal(**where)
    how = {"pair_width": 4, "determinants": 2} | how
    key = jax.random.key(7)
    return eqs.Jastrow(eqs.AttentionNet(crystal, _occupation(crystal), key=key, **how))


def _electrons(crystal, seed):
    frac = np.random.default_rng(seed).uniform(-1, 2, (sum(crystal.electrons), 3))
    return jnp.asarray(crystal.supercell.to_cartesian(frac))


def _images(crystal):
    """All images of a configuration that should have the same modulus: moved by
    primitive vectors, one electron moved by supercell vectors, two of them exchanged.
    As permutations, shifts and expected factors."""
    n, (n_up, _) = sum(crystal.electrons), crystal.electrons
    permutations, shifts, factors = [], [], []

    def add(permutation, shift, factor):
        permutations.append(permutation)
        shifts.append(shift)
        factors.append(factor)

    total = sum(k.sum(axis=0) for k in _occupation(crystal).cart_kpoints)
    same, still = np.arange(n), np.zeros((n, 3))
    for vector in crystal.lattice.vectors:
        add(same, still + vector, np.exp(1j * vector @ total))
    for i, vector in itertools.product(range(n), crystal.supercell.vectors):
        shift = still.copy()
        shift[i] = vector
        add(
            same,
            shift,
            np.exp(1j * vector @ cart_twist(crystal)),
        )
    for i, j in itertools.combinations(range(n), 2):
        if (i < n_up) == (j < n_up):
            swapped = same.copy()
            swapped[[i, j]] = j, i
            add(swapped, still, -1)
    return np.stack(permutations), np.stack(shifts), np.stack(factors)


@functools.cache
def _compiled(name):
    wavefunction = _case(name)
    permutations, shifts, factors = _images(wavefunction.crystal)

    def values(electrons):
        images = electrons[permutations] + jnp.asarray(shifts)
        psi = wavefunction(electrons)
        moved = jax.vmap(wavefunction)(images)
        ratio = moved.sign * jnp.conj(psi.sign)[None]
        return ratio * jnp.exp(moved.log - psi.log).astype(ratio.dtype)

    return jax.jit(values), factors


@pytest.mark.parametrize("name", sorted(_CASES))
@settings(max_examples=15)
@given(seed=_SEEDS)
def test_translations_twist_and_exchange(name, seed):
    values, factors = _compiled(name)
    electrons = _electrons(_crystal(**_CASES[name][0]), seed)
    np.testing.assert_allclose(values(electrons), factors, rtol=0, atol=1e-8)


def test_checkpoint_of_a_real_function_at_k_and_minus_k(tmp_path):
    wavefunction = _case("real, k and -k")
    eqs.checkpoint.save(tmp_path, 1, wavefunction)
    scaled = jax.tree.map(
        lambda x: 2 * x if eqx.is_inexact_array(x) else x, wavefunction
    )
    found = eqs.checkpoint.restore(tmp_path, 1, scaled)
    electrons = jnp.asarray(_electrons(wavefunction.crystal, 0))
    values = [psi(electrons) for psi in (wavefunction, found, scaled)]
    assert values[0].is_real
    assert values[0].log == values[1].log != values[2].log
    assert values[0].sign == values[1].sign


def test_spins_are_distinguishable():
    """Otherwise the exchange of any two electrons would give -1 by accident."""
    wavefunction = _case("real")
    electrons = _electrons(wavefunction.crystal, 0)
    both = jnp.stack([electrons, electrons[np.array([2, 1, 0, 3])]])
    logs = jax.jit(jax.vmap(wavefunction))(both).log
    assert abs(logs[0] - logs[1]) > 1e-3


@pytest.mark.parametrize(
    ("where", "can_be_real"),
    [
        (dict(), True),
        (dict(supercell=(2, 1, 1)), True),
        (dict(twist=(0.5, 0.0, -0.5)), True),
        (dict(twist=(1.0, 0.0, 2.5)), True),
        # k and -k are both occupied, by orbitals of the same number.
        (dict(supercell=(3, 1, 1)), True),
        (dict(supercell=(2, 1, 1), twist=(0.5, 0.0, 0.0)), True),
        (dict(supercell=(3, 1, 1), charge=-6), True),
        (dict(twist=(0.25, 0.0, 0.0)), False),
    ],
)
def test_real_where_time_reversal_allows_it(where, can_be_real):
    crystal = _crystal(**where)
    wavefunction = _network(crystal)
    psi = jax.eval_shape(wavefunction, _electrons(crystal, 0))
    assert psi.is_real == wavefunction.real == can_be_real
    if can_be_real:
        assert not _network(crystal, real=False).real
    else:
        with pytest.raises(ValueError, match=r"twist \[0.25, 0.0, 0.0\]"):
            _network(crystal, real=True)


@pytest.mark.parametrize(("spin", "name"), [(1, "up"), (-1, "down")])
def test_open_shells_are_complex(spin, name):
    """The orbital at one of k and -k is occupied, the other one is not."""
    crystal = _crystal(species=("H",), supercell=(3, 1, 1), spin=spin)
    assert not _network(crystal).real
    shown = "\\[\\[0.0, 0.0, 0.0\\], \\[0.333333, 0.0, 0.0\\]\\]"
    message = f"spin {name}, {shown} .* shell is open. Choose another .*_twists"
    with pytest.raises(ValueError, match=message):
        _network(crystal, real=True)


@pytest.mark.parametrize("full", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_real_and_imaginary_parts_are_of_conjugates(full):
    """Two columns Re phi and Im phi are worth det[phi, phi*] / -2i: so is the complex
    network that has phi at k, and its conjugate at -k."""
    crystal = _crystal(supercell=(3, 1, 1), charge=-2, spin=4)
    steps = ([1, 2, 0, 2, 1, 0], [2, 1])
    k = [np.outer(s, crystal.lattice.reciprocal[0] / 3) for s in steps]
    networks = [
        eqs.SolidNet(
            crystal,
            eqs.Occupation(tuple(k)),
            widths=((6, 4), (6, 4)),
            determinants=2,
            full_determinant=full,
            real=real,
            key=jax.random.key(7),
        )
        for real in (None, False)
    ]
    assert networks[0].real
    # Of which orbital each column is, and the sign of its imaginary part.
    columns = [np.array([[0, 0, 1, 2, 2, 3], [1, -1, 0, 1, -1, 0]])]
    columns.append(np.array([[0, 0], [1, -1]]))
    if full:
        columns[1][0] += 4
        columns = [np.concatenate(columns, axis=1)] * 2
    orbital_sets = []
    for (where, sign), own in zip(columns, networks[0].bloch.orbital_sets, strict=True):

        def taken(x, sign=1.0, where=where):
            rows = x.reshape(2, -1, x.shape[-1])[:, where]
            return (rows * sign).reshape(-1, x.shape[-1])

        new = (
            taken(own.real_part.weight),
            taken(own.imaginary_part.weight, sign[None, :, None].astype(float)),
            taken(own.weights),
            taken(own.exponents),
        )
        orbital_sets.append(
            eqx.tree_at(
                lambda o: (
                    o.real_part.weight,
                    o.imaginary_part.weight,
                    o.weights,
                    o.exponents,
                ),
                own,
                new,
            )
        )
    networks[1] = eqx.tree_at(
        lambda f: f.bloch.orbital_sets, networks[1], tuple(orbital_sets)
    )
    electrons = jnp.stack([_electrons(crystal, seed) for seed in range(4)])
    real, other = (
        jax.tree.map(np.asarray, eqx.filter_jit(jax.vmap(f))(electrons))
        for f in networks
    )
    ratio = other.sign * real.sign * np.exp(other.log - real.log)
    np.testing.assert_allclose(ratio, (-2j) ** 3, rtol=1e-8)


def test_real_part_of_the_orbitals():
    crystal = _crystal(supercell=(2, 1, 1))
    electrons = _electrons(crystal, 3)
    real, full = (
        eqx.filter_jit(_network(crystal, real=flag).orbitals)(electrons)
        for flag in (True, False)
    )
    for a, b in zip(real, full, strict=True):
        np.testing.assert_allclose(a, b.real, rtol=1e-12)
        assert np.max(np.abs(b.imag)) > 1e-2


def test_sum_of_determinants():
    for full, spin in itertools.product((True, False), (0, 2)):
        crystal = _crystal(supercell=(2, 1, 1), spin=spin, twist=(0.1, 0.0, 0.0))
        wavefunction = _network(
            crystal, full_determinant=full, determinants=3, widths=((5, 3),)
        )
        assert wavefunction.determinants == 3
        electrons = _electrons(crystal, 5)
        both = jax.jit(lambda x, f=wavefunction: (f.orbitals(x), f(x)))
        orbitals, psi = both(electrons)
        up, down = map(np.asarray, orbitals)
        if full:
            expected = np.linalg.det(np.concatenate([up, down], axis=1))
        else:
            expected = np.linalg.det(up) * np.linalg.det(down)
        found = np.asarray(psi.sign) * np.exp(np.asarray(psi.log))
        np.testing.assert_allclose(found, np.sum(expected), rtol=1e-11)


def _tri(vectors, r):
    """Cassella et al., Phys. Rev. Lett. 130, 036401 (2023), term by term."""
    w = 2 * np.pi * r @ np.linalg.inv(vectors)
    a = vectors / (2 * np.pi)
    square = sum(
        (np.sin(w[l]) * np.sin(w[m]) + (1 - np.cos(w[l])) * (1 - np.cos(w[m])))
        * (a[l] @ a[m])
        for l, m in itertools.product(range(3), repeat=2)
    )
    return np.sqrt(square), np.concatenate([np.sin(w) @ a, np.cos(w) @ a])


def _nu(vectors, r):
    """Li, Li, Chen, Nat. Commun. 13, 7895 (2022), term by term."""
    w = 2 * np.pi * r @ np.linalg.inv(vectors)
    w = (w + np.pi) % (2 * np.pi) - np.pi
    a = vectors / (2 * np.pi)
    f = np.abs(w) * (1 - np.abs(w / np.pi) ** 3 / 4)
    g = w * (1 - 1.5 * np.abs(w / np.pi) + 0.5 * np.abs(w / np.pi) ** 2)
    square = sum(
        (a[l] @ a[m]) * (f[l] ** 2 if l == m else g[l] * g[m])
        for l, m in itertools.product(range(3), repeat=2)
    )
    return np.sqrt(square), g @ a


_FEATURES = {"tri": (eqs.TriFeatures(), _tri), "nu": (eqs.NuFeatures(), _nu)}


@pytest.mark.parametrize("name", sorted(_FEATURES))
@settings(max_examples=30)
@given(seed=_SEEDS)
def test_features(name, seed):
    features, naive = _FEATURES[name]
    lattice = eqs.Lattice(_LATTICE)
    rng = np.random.default_rng(seed)
    r = rng.normal(size=(4, 3)) * 3
    found = features(lattice, jnp.asarray(r))
    assert found.vector.shape == (4, features.size)
    for i in range(4):
        distance, vector = naive(_LATTICE, r[i])
        np.testing.assert_allclose(found.distance[i], distance, atol=1e-10)
        np.testing.assert_allclose(found.vector[i], vector, atol=1e-10)
    moved = features(lattice, jnp.asarray(r + rng.integers(-3, 4, (4, 3)) @ _LATTICE))
    np.testing.assert_allclose(moved.distance, found.distance, atol=1e-9)
    np.testing.assert_allclose(moved.vector, found.vector, atol=1e-9)


@pytest.mark.parametrize("name", sorted(_FEATURES))
def test_distance_at_small_displacements(name):
    features, _ = _FEATURES[name]
    lattice = eqs.Lattice(_LATTICE)
    direction = np.array([0.36, -0.48, 0.8])
    for size in (1e-3, 1e-6, 1e-9):
        r = jnp.asarray(size * direction)
        distance, gradient = jax.value_and_grad(
            lambda r: features(lattice, r).distance
        )(r)
        np.testing.assert_allclose(distance, size, rtol=3 * size + 1e-7)
        np.testing.assert_allclose(gradient, direction, atol=10 * size + 1e-7)
    value, gradient = jax.value_and_grad(lambda r: features(lattice, r).distance)(
        jnp.zeros(3)
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, np.zeros(3))


@pytest.mark.parametrize("electrons", [(2, 1), (0, 2)])
def test_layer_is_one_dense_layer(electrons):
    """h_i, mean_up h, mean_dn h, mean_up h_ij, mean_dn h_ij through one matrix, means
    of empty channels left out; and pairs each through another."""
    n_up, n = electrons[0], sum(electrons)
    layer = Layer(electrons, (5, 4), (6, 4), last=False, key=jax.random.key(0))
    biases = np.linspace(-1, 1, 6), np.linspace(-1, 1, 4)
    layer = eqx.tree_at(
        lambda layer: (layer.own.bias, layer.pair.bias),
        layer,
        tuple(map(jnp.asarray, biases)),
    )
    h = np.random.default_rng(0).normal(size=(n, 5))
    g = np.random.default_rng(1).normal(size=(n, n, 4))
    channels = [s for s in (slice(0, n_up), slice(n_up, n)) if s.start < s.stop]
    matrix = np.concatenate(
        [layer.own.weight, layer.shared.weight, layer.paired.weight], axis=1
    )
    expected = []
    for i in range(n):
        row = np.concatenate(
            [h[i], *(h[s].mean(axis=0) for s in channels)]
            + [g[i, s].mean(axis=0) for s in channels]
        )
        expected.append(np.tanh(matrix @ row + biases[0]))
    pairs = np.tanh(g @ np.asarray(layer.pair.weight).T + biases[1])
    new_h, new_g = layer(jnp.asarray(h), jnp.asarray(g), tuple(channels))
    np.testing.assert_allclose(new_h, np.array(expected), rtol=1e-12)
    # Same width: residual.
    np.testing.assert_allclose(new_g, (g + pairs) / np.sqrt(2), rtol=1e-12)
    square = Layer(electrons, (5, 4), (5, 4), last=True, key=jax.random.key(0))
    assert square.pair is None
    _, kept = square(jnp.asarray(h), jnp.asarray(g), tuple(channels))
    np.testing.assert_array_equal(kept, g)


def test_orbitals_term_by_term():
    """phi^d_j(r_i) = (u.h + i v.h) sum_I pi_I exp(-|sigma_I| s_iI) exp(i k_j.r_i), with
    features in the place of h."""
    crystal = _crystal(supercell=(2, 1, 1), twist=(0.1, 0.0, 0.0))
    wavefunction = _network(crystal, full_determinant=False)
    rng = np.random.default_rng(3)
    n_up, nuclei = crystal.electrons[0], len(crystal.species)
    orbitals = eqx.tree_at(
        lambda o: (o.weights, o.exponents),
        wavefunction.bloch.orbital_sets[0],
        replace_fn=lambda x: jnp.asarray(rng.normal(size=x.shape)),
    )
    h, s = rng.normal(size=(n_up, 6)), rng.uniform(size=(n_up, nuclei))
    angles = rng.normal(size=(n_up, n_up))
    found = orbitals(*map(jnp.asarray, (h, s, angles)), False, None)
    for d, i, j in itertools.product(range(2), range(n_up), range(n_up)):
        c = d * n_up + j
        u, v, weights, exponents = (
            np.asarray(x[c])
            for x in (
                orbitals.real_part.weight,
                orbitals.imaginary_part.weight,
                orbitals.weights,
                orbitals.exponents,
            )
        )
        envelope = np.sum(weights * np.exp(-np.abs(exponents) * s[i]))
        expected = (u @ h[i] + 1j * (v @ h[i])) * envelope * np.exp(1j * angles[i, j])
        np.testing.assert_allclose(found[d, i, j], expected, rtol=1e-12)


@pytest.mark.parametrize("features", [eqs.TriFeatures(), eqs.NuFeatures()])
def test_finite_where_electrons_meet(features):
    """At a nucleus, and with one of the other spin: value and first derivatives."""
    crystal = _crystal(supercell=(2, 1, 1), twist=(0.1, 0.0, 0.0))
    wavefunction = _network(crystal, features=features)
    electrons = _electrons(crystal, 0)
    electrons = electrons.at[0].set(crystal.cart_positions[0]).at[2].set(electrons[1])
    value, gradient = eqx.filter_jit(jax.value_and_grad(lambda x: wavefunction(x).log))(
        electrons
    )
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("real", [True, False])
def test_finite_where_a_determinant_vanishes(real):
    """One determinant of two with a matrix that has an entry, or all entries, 0."""
    crystal = _crystal(species=("H",), supercell=(2, 1, 1))
    wavefunction = _network(
        crystal, full_determinant=False, real=real, widths=((4, 2),)
    )
    names = ["real_part"] if real else ["real_part", "imaginary_part"]
    for name in names:
        wavefunction = eqx.tree_at(
            lambda f, name=name: getattr(f.bloch.orbital_sets[0], name).weight,
            wavefunction,
            replace_fn=lambda w: w.at[0].set(0.0),
        )
    if real:
        imaginary = wavefunction.bloch.orbital_sets[0].imaginary_part
        if imaginary is not None:
            wavefunction = eqx.tree_at(
                lambda f: f.bloch.orbital_sets[0].imaginary_part.weight,
                wavefunction,
                replace_fn=lambda w: w.at[0].set(0.0),
            )
    electrons = _electrons(crystal, 0)
    up, _ = eqx.filter_jit(wavefunction.orbitals)(electrons)
    assert up[0, 0, 0] == 0
    parameters, rest = eqs.partition(wavefunction)
    log = lambda p, x: eqs.combine(p, rest)(x).log
    value, gradients = eqx.filter_jit(jax.value_and_grad(log, (0, 1)))(
        parameters, electrons
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    kinetic = [
        eqx.filter_jit(k)(wavefunction, electrons)
        for k in (eqs.ForwardLaplacian(), eqs.HessianLaplacian())
    ]
    np.testing.assert_allclose(kinetic[0], kinetic[1], rtol=1e-8)


def test_keys():
    crystal = _crystal()
    same = [_network(crystal) for _ in range(2)]
    assert eqx.tree_equal(*same)
    other = eqs.SolidNet(
        crystal,
        _occupation(crystal),
        widths=((6, 4), (6, 4)),
        determinants=2,
        key=jax.random.key(8),
    )
    for a, b in zip(same[0].layers, other.layers, strict=True):
        assert not np.any(a.own.weight == b.own.weight)


def test_single_precision():
    wavefunction = _case("complex, unequal")
    electrons = _electrons(wavefunction.crystal, 4)
    exact = eqx.filter_jit(wavefunction)(electrons)
    psi = eqx.filter_jit(wavefunction)(electrons.astype(jnp.float32))
    assert (psi.log.dtype, psi.sign.dtype) == (jnp.float32, jnp.complex64)
    np.testing.assert_allclose(psi.log, exact.log, atol=1e-3)
    np.testing.assert_allclose(psi.sign, exact.sign, atol=1e-3)


@pytest.mark.parametrize("height", [0.0, 26.3])
def test_single_precision_on_both_sides_of_a_layer(height):
    """Electrons close to nuclei have the same amplitude, to the last bit, where they
    are wrapped to the other end of a cell of 50 Bohr: local energies of graphene were
    1 mHa too high."""
    cell = np.diag([4.0, 4.1, 50.25])
    at = [[0, 0, height], [2.0, 2.0, height]]
    crystal = eqs.Crystal(cell, ("C", "C"), cart_positions=at, unit="bohr", charge=8)
    wavefunction = _network(crystal, widths=((8, 4), (8, 4)))
    rng = np.random.default_rng(5)
    rows = crystal.cart_positions[[0, 1, 0, 1]] + 0.15 * rng.normal(size=(50, 4, 3))
    # So that both places are numbers of single precision.
    near = np.round(rows * 2**17) / 2**17
    far = near + cell[2] * rng.integers(-1, 2, size=(50, 4, 1))
    log = eqx.filter_jit(jax.vmap(lambda x: wavefunction(x).log))
    found = [log(jnp.asarray(rows, jnp.float32)) for rows in (near, far)]
    assert found[0].dtype == jnp.float32
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(determinants=0), "`determinants` must be at least 1, got 0"),
        (dict(widths=()), "`widths` must name at least one layer"),
    ],
)
def test_errors(change, message):
    with pytest.raises(ValueError, match=message):
        _network(_crystal(), **change)


def test_does_not_depend_on_the_description():
    """Other lattice vectors, k-points that differ by reciprocal vectors, nuclei that
    differ by lattice vectors: amplitudes are the same."""
    twist, supercell = (0.1, 0.0, 0.25), np.array([[2, 0, 0], [0, 1, 0], [0, 1, 1]])
    usual = eqs.Crystal.rock_salt(
        "Li", "H", a=7.6, unit="bohr", supercell=supercell, twist=twist, charge=4
    )
    turn = np.array([[1, 0, 0], [0, 1, 0], [3, 2, 1]])
    vectors = turn @ usual.lattice.vectors
    other = eqs.Crystal(
        vectors,
        usual.species,
        cart_positions=usual.cart_positions + np.array([[0], [1]]) * vectors[2],
        supercell=np.round(supercell @ np.linalg.inv(turn)).astype(int),
        twist=twist,
        charge=4,
        unit="bohr",
    )
    np.testing.assert_allclose(other.supercell.vectors, usual.supercell.vectors)
    k = _occupation(usual).cart_kpoints
    rng = np.random.default_rng(0)
    moved = [x + rng.integers(-2, 3, x.shape) @ usual.lattice.reciprocal for x in k]
    occupations = (
        (usual, eqs.Occupation(tuple(k))),
        (other, eqs.Occupation(tuple(moved))),
    )
    electrons = _electrons(usual, 1)
    one, two = (
        eqx.filter_jit(
            eqs.SolidNet(*both, widths=((6, 4),), determinants=1, key=jax.random.key(0))
        )(electrons)
        for both in occupations
    )
    np.testing.assert_allclose(one.log, two.log, rtol=1e-10)
    np.testing.assert_allclose(one.sign, two.sign, atol=1e-10)


_NARROW = {
    "at one k-point": (dict(supercell=(4, 1, 1)), 1, {}, 4),
    "two determinants": (
        dict(supercell=(4, 1, 1)),
        1,
        dict(full_determinant=False),
        4,
    ),
    "real parts of phases": (dict(supercell=(4, 1, 1)), 2, {}, 2),
    "real and imaginary parts": (dict(supercell=(4, 1, 1)), 4, {}, 2),
    "complex": (dict(supercell=(4, 1, 1)), 2, dict(real=False), 2),
    "more up than down": (dict(supercell=(4, 1, 1), spin=2), 1, {}, 5),
}


@pytest.mark.parametrize("name", sorted(_NARROW))
def test_refuses_a_last_layer_that_is_too_narrow(name, monkeypatch):
    """Where, and only where, the orbitals at the start are linearly dependent."""
    where, points, how, needed = _NARROW[name]
    crystal = _crystal(**where)
    # At 0 and the boundary, or at k and -k.
    steps = np.arange(max(crystal.electrons)) % points
    steps = 2 * steps if points < 4 else 2 * (steps % 2) + 1
    k = steps[:, None] * crystal.lattice.reciprocal[0] / 4
    occupation = eqs.Occupation(tuple(k[:n] for n in crystal.electrons))

    def rank(width):
        network = eqs.SolidNet(
            crystal,
            occupation,
            widths=((8, 4), (width, 4)),
            determinants=1,
            key=jax.random.key(0),
            **how,
        )
        up, down = eqx.filter_jit(network.orbitals)(_electrons(crystal, 2))
        if network.full_determinant:
            return np.linalg.matrix_rank(jnp.concatenate([up, down], 1)[0], rtol=1e-11)
        return sum(np.linalg.matrix_rank(x[0], rtol=1e-11) for x in (up, down))

    assert rank(needed) == sum(crystal.electrons)
    message = f"last of its `widths`, must be at least {needed} features per electron"
    with pytest.raises(ValueError, match=message):
        rank(needed - 1)
    monkeypatch.setattr(bloch, "_check_width", lambda *args: None)
    assert rank(needed - 1) < sum(crystal.electrons)


def test_refuses_the_occupation_of_another_crystal():
    other = _occupation(_crystal(supercell=(2, 1, 1)))
    with pytest.raises(ValueError, match="`occupation` must have as many .* 1 of spin"):
        eqs.SolidNet(_crystal(), other, key=jax.random.key(0))
    twisted = _crystal(twist=(0.25, 0.0, 0.0))
    with pytest.raises(ValueError, match="k-points with the twist .*0.25, 0.0, 0.0"):
        eqs.SolidNet(twisted, _occupation(_crystal()), key=jax.random.key(0))
