"""Symmetrized wave functions: invariance, boundary conditions, projection, chunks."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Float, Inexact

import group_toys
from eqsym import (
    AbstractSymmetrizer,
    AbstractWavefunction,
    character_table,
    combine,
    Crystal,
    ForwardLaplacian,
    GroupAverage,
    HessianLaplacian,
    IrrepProjection,
    irreps,
    LogPsi,
    Occupation,
    Orbit,
    partition,
    SolidNet,
    SpaceGroup,
    Symmetrized,
    SymmetrizedOrbitals,
    symmetry_ratio,
)


class Determinants(AbstractWavefunction):
    """det_up det_dn of smooth orbitals with the primitive lattice's Bloch phases and a
    mean field of all electrons, without any further symmetry."""

    crystal: Crystal
    waves: Float[Array, "waves 3"]
    coefficients: Inexact[Array, "orbitals 2 waves"]
    frac_kpoints: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    @property
    def kpoints(self):
        return np.array(self.frac_kpoints) @ self.crystal.lattice.reciprocal

    @property
    def crystal_momentum(self):
        up, dn = self.crystal.electrons
        return np.sum(self.kpoints[:up], axis=0) + np.sum(self.kpoints[:dn], axis=0)

    def __call__(self, electrons):
        angles = electrons @ self.waves.T
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
        mean = jnp.mean(jnp.tanh(features), axis=0, keepdims=True)
        features = features * (1 + mean) + 0.3
        coefficients = self.coefficients.reshape(len(self.kpoints), -1)
        orbitals = features.astype(coefficients.dtype) @ coefficients.T
        if jnp.issubdtype(coefficients.dtype, jnp.complexfloating):
            phases = electrons @ jnp.asarray(self.kpoints, electrons.dtype).T
            orbitals = orbitals * jax.lax.complex(jnp.cos(phases), jnp.sin(phases))
        up, dn = self.crystal.electrons
        signs, logs = jnp.linalg.slogdet(orbitals[:up, :up])
        if dn:
            more = jnp.linalg.slogdet(orbitals[up:, :dn])
            signs, logs = signs * more[0], logs + more[1]
        return LogPsi(signs, logs)


class Cosines(AbstractWavefunction):
    """exp of a sum of plane waves over all electrons, plus an odd part; for one
    electron of each spin. With waves of a full star, the first is symmetric."""

    crystal: Crystal
    waves: Float[Array, "waves 3"]
    odd: Float[Array, ""]

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def parts(self, electrons):
        angles = electrons @ self.waves.T
        even = jnp.exp(0.2 * jnp.sum(jnp.cos(angles)))
        return even, self.odd * even * jnp.sum(jnp.sin(angles[:, 0]))

    def __call__(self, electrons):
        even, odd = self.parts(electrons)
        return LogPsi(jnp.sign(even + odd), jnp.log(jnp.abs(even + odd)))


class Halves(AbstractSymmetrizer):
    """Weights that vanish for all but two images, and are complex."""

    group: SpaceGroup

    characters = None

    def orbit(self, electrons):
        weights = jnp.zeros(self.group.order, jnp.complex128).at[:2].set([0.5, 0.5j])
        return Orbit(weights, self.group.apply(electrons))


def _determinants(crystal, *, real=False, seed=0, kpoints=None):
    rng = np.random.default_rng(seed)
    integers = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 2]])
    if kpoints is None:
        kpoints = crystal.frac_kpoints[
            np.arange(max(crystal.electrons)) % crystal.cells
        ]
    shape = (len(kpoints), 2, len(integers))
    coefficients = rng.normal(size=shape)
    if not real:
        coefficients = coefficients + 1j * rng.normal(size=shape)
    return Determinants(
        crystal,
        jnp.asarray(integers @ crystal.lattice.reciprocal),
        jnp.asarray(coefficients),
        tuple(map(tuple, np.asarray(kpoints, float).tolist())),
    )


# Electrons so that the total crystal momentum times the translations by which products
# of the nonsymmorphic operations differ is a multiple of 2 pi.
_CASES = {
    "rock salt, real": (
        Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", spin=2),
        48,
        True,
    ),
    "diamond": (
        Crystal.diamond("C", a=6.7, unit="bohr", charge=9, spin=1),
        48,
        False,
    ),
    "diamond at L": (
        Crystal.diamond(
            "C", a=6.7, unit="bohr", charge=8, spin=4, twist=(0.5, 0.5, 0.5)
        ),
        12,
        False,
    ),
    "graphene at K": (
        Crystal.graphene(
            a=4.65, vacuum=20.0, unit="bohr", charge=9, twist=(1 / 3, 1 / 3, 0.0)
        ),
        12,
        False,
    ),
    "tetragonal supercell": (
        Crystal.rock_salt(
            "Li",
            "H",
            a=7.7,
            unit="bohr",
            supercell=[[1, 1, -1], [1, -1, 1], [-2, 2, 2]],
            charge=28,
            twist=(0.0, 0.0, 0.3),
        ),
        8,
        False,
    ),
}
_SEEDS = st.integers(0, 2**16)


def _wavefunction(name):
    crystal, order, real = _CASES[name]
    group = SpaceGroup.of(crystal)
    assert group.order == order
    return _determinants(crystal, real=real), GroupAverage(group)


def _electrons(crystal, seed):
    frac = np.random.default_rng(seed).uniform(-1, 2, size=(sum(crystal.electrons), 3))
    return jnp.asarray(crystal.supercell.to_cartesian(frac))


def _swap(electrons, i, j):
    return electrons.at[jnp.array([i, j])].set(electrons[jnp.array([j, i])])


@functools.cache
def _compiled(name):
    """f at all images; P f at x, at all images, after a same-spin exchange, after one
    electron went around the supercell: as plain numbers, on the scale of f."""
    wavefunction, average = _wavefunction(name)
    symmetrized = Symmetrized(wavefunction, average)
    crystal, group = wavefunction.crystal, average.group
    vectors = jnp.asarray(crystal.supercell.vectors)

    def values(electrons):
        bare = jax.vmap(wavefunction)(group.apply_inverse(electrons))
        scale = jnp.max(bare.log)
        plain = lambda psi: psi.sign * jnp.exp(psi.log - scale).astype(psi.sign.dtype)
        around = electrons[None] + jnp.zeros((3, *electrons.shape)).at[:, -1].set(
            vectors
        )
        return {
            "bare": plain(bare),
            "at x": plain(symmetrized(electrons)),
            "at images": plain(jax.vmap(symmetrized)(group.apply(electrons))),
            "swapped": plain(symmetrized(_swap(electrons, 0, 1))),
            "around": plain(jax.vmap(symmetrized)(around)),
            "ratio": symmetry_ratio(wavefunction, average, electrons),
        }

    return jax.jit(values)


@pytest.mark.parametrize("name", sorted(_CASES))
@settings(max_examples=15)
@given(seed=_SEEDS)
def test_average(name, seed):
    crystal = _CASES[name][0]
    values = _compiled(name)(_electrons(crystal, seed))
    values = {key: np.asarray(value) for key, value in values.items()}
    expected = values["at x"]
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-10)
    close(expected, np.mean(values["bare"]))
    close(values["at images"], np.full(values["bare"].shape, expected))
    close(values["swapped"], -expected)
    phases = np.exp(2j * np.pi * crystal.twist)
    close(values["around"], phases * expected)
    close(values["ratio"] * values["bare"][0], expected)
    assert expected.dtype == (np.float64 if _CASES[name][2] else np.complex128)


@pytest.mark.parametrize("name", ["rock salt, real", "diamond at L"])
def test_average_is_idempotent(name):
    wavefunction, average = _wavefunction(name)
    once = Symmetrized(wavefunction, average)
    twice = Symmetrized(once, average)
    electrons = jnp.stack([_electrons(wavefunction.crystal, i) for i in range(3)])
    first, second = (jax.jit(jax.vmap(f))(electrons) for f in (once, twice))
    np.testing.assert_allclose(second.sign, first.sign, atol=1e-8)
    np.testing.assert_allclose(second.log, first.log, atol=1e-8)
    ratios = jax.jit(jax.vmap(lambda x: symmetry_ratio(once, average, x)))(electrons)
    np.testing.assert_allclose(ratios, 1.0, atol=1e-8)


def _star(odd):
    crystal = Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", charge=2)
    # The star of conventional (2, 0, 0), half of it.
    waves = 4 * jnp.pi / 7.7 * jnp.eye(3)
    average = GroupAverage(SpaceGroup.of(crystal))
    return Cosines(crystal, waves, jnp.asarray(odd)), average


@functools.cache
def _compiled_star(chunk):
    def values(odd, electrons):
        wavefunction, average = _star(odd)
        even, rest = wavefunction.parts(electrons)
        symmetrized = Symmetrized(wavefunction, average, chunk)(electrons)
        ratio = symmetry_ratio(wavefunction, average, electrons, operation_chunk=chunk)
        return even, rest, symmetrized, ratio

    return jax.jit(values)


@pytest.mark.parametrize("chunk", [None, 7, 48])
@settings(max_examples=15)
@given(seed=_SEEDS, odd=st.sampled_from([0.0, 0.4]))
def test_average_is_the_symmetric_part(chunk, seed, odd):
    electrons = _electrons(_star(odd)[0].crystal, seed)
    even, rest, symmetrized, ratio = _compiled_star(chunk)(odd, electrons)
    np.testing.assert_allclose(symmetrized.log, jnp.log(even), atol=1e-10)
    assert symmetrized.sign == 1
    np.testing.assert_allclose(ratio, even / (even + rest), rtol=1e-8)


def test_average_of_an_odd_function_vanishes():
    wavefunction, average = _star(1e12)
    electrons = _electrons(wavefunction.crystal, 0)
    assert abs(symmetry_ratio(wavefunction, average, electrons)) < 1e-10


def _parts(symmetrized):
    """log |psi| and the phase, as real numbers."""

    def values(electrons):
        psi = symmetrized(electrons)
        return jnp.stack([psi.log, psi.sign.real, psi.sign.imag])

    return values


@pytest.mark.parametrize("chunk", [4, 5, 100])
def test_chunks_do_not_matter(chunk):
    wavefunction, average = _wavefunction("diamond at L")
    electrons = jnp.stack([_electrons(wavefunction.crystal, i) for i in range(3)])
    results = []
    for size in (None, chunk):
        values = _parts(Symmetrized(wavefunction, average, size))
        both = lambda x, f=values: (f(x), jax.jacrev(f)(x))
        results.append(jax.jit(jax.vmap(both))(electrons))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-9), *results)


def test_chunks_of_very_different_size():
    class Slope(AbstractWavefunction):
        crystal: Crystal

        crystal_momentum = None

        def __call__(self, electrons):
            return LogPsi(jnp.ones(()), 1e4 * electrons[0, 0])

    average = _star(0.0)[1]
    slope = Slope(average.group.crystal)
    electrons = _electrons(slope.crystal, 0)
    whole = Symmetrized(slope, average)(electrons).log
    np.testing.assert_allclose(
        whole, 1e4 * np.max(np.abs(electrons[0])) + np.log(8 / 48), rtol=1e-12
    )
    for chunk in (1, 5):
        parts = Symmetrized(slope, average, chunk)(electrons).log
        np.testing.assert_allclose(parts, whole, rtol=1e-12)


@pytest.mark.parametrize("chunk", [None, 20])
def test_zero_and_complex_weights(chunk):
    wavefunction, average = _wavefunction("rock salt, real")
    electrons = _electrons(wavefunction.crystal, 0)
    symmetrizer = Halves(average.group)
    values = _parts(Symmetrized(wavefunction, symmetrizer, chunk))
    log, real, imag = np.asarray(jax.jit(values)(electrons))
    bare = jax.jit(jax.vmap(wavefunction))(average.group.apply(electrons)[:2])
    shift = np.max(bare.log)
    plain = np.asarray(bare.sign) * np.exp(np.asarray(bare.log) - shift)
    expected = 0.5 * plain[0] + 0.5j * plain[1]
    np.testing.assert_allclose((real + 1j * imag) * np.exp(log - shift), expected)
    assert np.all(np.isfinite(jax.jit(jax.jacrev(values))(electrons)))
    ratio = symmetry_ratio(wavefunction, symmetrizer, electrons, operation_chunk=chunk)
    np.testing.assert_allclose(ratio, expected / plain[0])


def _turns_about_z(wavefunction):
    once = np.array([[0, -1, 0], [1, -1, 0], [0, 0, 1]])
    turns = [np.eye(3), once, once @ once]
    return GroupAverage(SpaceGroup(wavefunction.crystal, turns, np.zeros((3, 3))))


@functools.cache
def _kinetic(kinetic, chunk):
    wavefunction, _ = _wavefunction("graphene at K")
    symmetrized = Symmetrized(wavefunction, _turns_about_z(wavefunction), chunk)
    electrons = _electrons(wavefunction.crystal, 3)
    return eqx.filter_jit(kinetic)(symmetrized, electrons)


@pytest.mark.parametrize("chunk", [None, 2])
def test_kinetic_energy_of_chunks(chunk):
    found = _kinetic(ForwardLaplacian(), chunk)
    expected = _kinetic(HessianLaplacian(), None)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_second_derivatives_of_chunks():
    # Complex determinants in a loop: forward over reverse mode is wrong here in
    # jax 0.10.2, which the Hessian must not depend on.
    whole, parts = (_kinetic(HessianLaplacian(), chunk) for chunk in (None, 2))
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_single_precision():
    wavefunction, average = _wavefunction("rock salt, real")
    single = eqx.tree_at(
        lambda f: (f.waves, f.coefficients),
        wavefunction,
        replace_fn=lambda x: x.astype(jnp.float32),
    )
    electrons = _electrons(wavefunction.crystal, 1)
    expected = eqx.filter_jit(Symmetrized(wavefunction, average))(electrons)
    psi = eqx.filter_jit(Symmetrized(single, average))(electrons.astype(jnp.float32))
    assert psi.sign.dtype == psi.log.dtype == jnp.float32
    np.testing.assert_allclose(psi.log, expected.log, atol=1e-3)
    assert float(psi.sign) == float(expected.sign)


def test_only_the_wave_function_is_trained():
    wavefunction, average = _wavefunction("diamond at L")
    parameters, _ = partition(Symmetrized(wavefunction, average))
    bare, _ = partition(wavefunction)
    assert jax.tree.leaves(parameters) == jax.tree.leaves(bare)
    weights = jnp.ones(3)

    class Weighted(AbstractSymmetrizer):
        group: SpaceGroup
        weights: Inexact[Array, " images"]

        characters = None

        def orbit(self, electrons):
            return Orbit(self.weights, self.group.apply(electrons)[:3])

    weighted = Weighted(average.group, weights)
    parameters, rest = partition(Symmetrized(wavefunction, weighted))
    assert jax.tree.leaves(parameters) == jax.tree.leaves(bare)
    assert rest.symmetrizer.weights is weights


def test_crystal_is_that_of_the_wave_function():
    wavefunction, average = _wavefunction("diamond")
    assert Symmetrized(wavefunction, average).crystal is wavefunction.crystal


def test_refuses_a_group_of_another_crystal():
    wavefunction, _ = _wavefunction("diamond")
    other = SpaceGroup.of(Crystal.diamond("C", a=6.8, unit="bohr"))
    with pytest.raises(ValueError, match="`symmetrizer` does not fit .*`lattice`"):
        Symmetrized(wavefunction, GroupAverage(other))
    with pytest.raises(ValueError, match="`symmetrizer` does not fit .*`lattice`"):
        symmetry_ratio(
            wavefunction,
            GroupAverage(other),
            _electrons(wavefunction.crystal, 0),
        )
    same = SpaceGroup.of(Crystal.diamond("C", a=6.7, unit="bohr", charge=1))
    Symmetrized(wavefunction, GroupAverage(same))


@pytest.mark.parametrize("chunk", [0, -3])
def test_refuses_chunks_that_are_none(chunk):
    with pytest.raises(ValueError, match="`operation_chunk` must be a positive number"):
        Symmetrized(*_wavefunction("diamond"), chunk)


# One Hall number of each point group, without centring translations.
_HALLS = [1, 2, 3, 18, 57, 108, 125, 227, 349, 355, 357, 366, 376, 388, 400, 430, 435]
_HALLS += [438, 446, 456, 462, 468, 469, 471, 477, 481, 485, 489, 494, 503, 511, 517]
# P2_1, Pmc2_1, Pnmm, P4_1, P4_2/mnm, P6_122, Pa-3, P4_132.
_SCREWS_AND_GLIDES = [6, 128, 281, 350, 419, 472, 501, 509]


@functools.cache
def _hall_group(hall, **kwargs):
    rotations, shifts = group_toys.database(hall)
    crystal = group_toys.crystal_for(rotations, shifts, **kwargs)
    return SpaceGroup(crystal, rotations, shifts)


def _bloch(crystal, seed, momenta, count=8):
    """A function of one electron that is a sum of plane waves in the Bloch waves of
    some momenta (in fractions), without any other symmetry. In numpy."""
    rng = np.random.default_rng(seed)
    waves = (
        rng.integers(-2, 3, size=(len(momenta), count, 3)) + np.array(momenta)[:, None]
    )
    waves = waves.reshape(-1, 3) @ crystal.lattice.reciprocal
    factors = rng.normal(size=(2, len(waves)))
    return lambda r: np.exp(1j * r @ waves.T) @ (factors[0] + 1j * factors[1])


@settings(max_examples=25)
@given(st.sampled_from(_HALLS + _SCREWS_AND_GLIDES), _SEEDS, st.booleans())
def test_projections_onto_irreps(hall, seed, by_rows):
    group = _hall_group(hall)
    crystal = group.crystal
    one, other = (_bloch(crystal, seed + i, [[0, 0, 0]]) for i in range(2))

    def f(x):
        first, second = x[..., 0, :], x[..., 1, :]
        return one(first) * other(second) - one(second) * other(first)

    x = _electrons(crystal, seed)
    projections = [
        IrrepProjection(group, irrep, row)
        for irrep in irreps(group)
        for row in (range(irrep.dimension) if by_rows else [None])
    ]
    orbits = [projection.orbit(x) for projection in projections]
    weights = np.array([np.asarray(orbit.weights, complex) for orbit in orbits])
    images = orbits[-1].images
    once, twice = np.asarray(images), jax.vmap(group.apply_inverse)(images)
    at_x = weights @ f(once)
    at_images = f(np.asarray(twice)) @ weights.T
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-8)
    # P P' = 0 for different ones, P P = P.
    close(weights @ at_images, np.diag(at_x))
    close(np.sum(at_x), f(np.asarray(x)))
    close(weights @ f(once[:, ::-1]), -at_x)
    for projection, row in zip(projections, weights, strict=True):
        d = projection.irrep.dimension
        # The matrix of the identity.
        close(row[0], (1 if by_rows else d) * d / group.order)
    close(projections[0].orbit(x).weights, 1 / group.order)
    close(at_images[:, 0], at_x[0])


def _in_supercell(name):
    """A function of total crystal momentum 0 on electrons of other momenta."""
    if name == "diamond":
        crystal = Crystal.diamond(
            "C", a=6.7, unit="bohr", supercell=2, charge=92, spin=4
        )
        kpoints = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) / 2
    else:
        u = 0.305
        frac = [[0, 0, 0], [0.5, 0.5, 0.5], [u, u, 0], [-u, -u, 0]]
        frac += [[0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
        crystal = Crystal(
            np.diag([8.7, 8.7, 5.6]),
            ["Ti", "Ti", "O", "O", "O", "O"],
            frac_positions=frac,
            unit="bohr",
            supercell=(1, 1, 2),
            charge=150,
            spin=2,
            twist=(0.5, 0.5, 0.0),
        )
        kpoints = np.full((2, 3), 0.5)
    return _determinants(crystal, kpoints=kpoints), SpaceGroup.of(crystal)


@functools.cache
def _compiled_irreps(name):
    wavefunction, group = _in_supercell(name)
    labels = [irrep.label for irrep in irreps(group)]

    def values(electrons):
        scale = wavefunction(electrons).log
        plain = lambda psi: psi.sign * jnp.exp(psi.log - scale).astype(psi.sign.dtype)
        vectors = jnp.asarray(group.crystal.supercell.vectors)
        around = electrons[None] + jnp.zeros((3, *electrons.shape)).at[:, -1].set(
            vectors
        )
        places = jnp.concatenate(
            [electrons[None], _swap(electrons, 0, 1)[None], around]
        )
        images = group.apply_inverse(electrons)
        found = []
        for label in (labels[0], labels[-1]):
            symmetrized = Symmetrized(wavefunction, IrrepProjection(group, label), 7)
            found.append(plain(jax.vmap(symmetrized)(places)))
        return plain(jax.vmap(wavefunction)(images)), jnp.stack(found)

    return jax.jit(values), [labels[0], labels[-1]]


@pytest.mark.parametrize("name, order", [("diamond", 48), ("rutile", 16)])
@settings(max_examples=10)
@given(seed=_SEEDS)
def test_irreps_in_a_supercell(name, order, seed):
    wavefunction, group = _in_supercell(name)
    crystal = wavefunction.crystal
    assert group.order == order
    values, labels = _compiled_irreps(name)
    bare, found = map(np.asarray, values(_electrons(crystal, seed)))
    for label, (at_x, swapped, *around) in zip(labels, found, strict=True):
        irrep = character_table(group)[label]
        expected = irrep.dimension * np.mean(np.conj(irrep.characters) * bare)
        close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-9)
        close(at_x, expected)
        close(swapped, -expected)
        close(around, np.exp(2j * np.pi * crystal.twist) * expected)


def test_complex_irreps():
    wavefunction, _ = _wavefunction("rock salt, real")
    axis = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    group = SpaceGroup(
        wavefunction.crystal, [np.eye(3), axis, axis @ axis], np.zeros((3, 3))
    )
    electrons = _electrons(wavefunction.crystal, 0)
    bare = wavefunction(electrons)
    ratios = [
        symmetry_ratio(wavefunction, IrrepProjection(group, label), electrons)
        for label in ("A", "1E", "2E")
    ]
    assert [jnp.iscomplexobj(ratio) for ratio in ratios] == [False, True, True]
    np.testing.assert_allclose(np.sum(np.array(ratios)), 1, atol=1e-9)
    np.testing.assert_allclose(ratios[1], np.conj(ratios[2]), atol=1e-9)
    psi = Symmetrized(wavefunction, IrrepProjection(group, "1E"))(electrons)
    np.testing.assert_allclose(
        np.exp(psi.log - bare.log) * np.asarray(psi.sign) * np.asarray(bare.sign),
        ratios[1],
        rtol=1e-9,
    )


def test_irreps_that_do_not_exist():
    group, other = _hall_group(446), _hall_group(438)
    with pytest.raises(ValueError, match="`irrep` must be one .* A1, A2, E, got 'T1u'"):
        IrrepProjection(group, "T1u")
    with pytest.raises(ValueError, match="`irrep` A2 must be one of `group`"):
        IrrepProjection(group, character_table(other)["A2"])
    with pytest.raises(ValueError, match="`row` of the irrep E must be from 0 to 1"):
        IrrepProjection(group, "E", 2)


class Bloch(AbstractWavefunction):
    """Stands for a function with (or without) a total crystal momentum."""

    crystal: Crystal
    momentum: tuple[float, ...] | None = eqx.field(static=True)

    @property
    def crystal_momentum(self):
        if self.momentum is None:
            return None
        return np.array(self.momentum) @ self.crystal.lattice.reciprocal

    def __call__(self, electrons):
        raise NotImplementedError


def _acts(group, f, seed):
    """Whether U_g U_h f = U_gh f, by numbers."""
    x = np.asarray(_electrons(group.crystal, seed))
    once = np.asarray(group.apply_inverse(jnp.asarray(x)))[:, 0]
    shifted = once[:, None] - group.cart_translations[None]
    # First g^-1, then h^-1: rows of R^-1 are columns of R.
    twice = np.einsum("ghi,hij->ghj", shifted, group.cart_rotations)
    return np.allclose(f(twice), f(once)[group.multiplication_table], atol=1e-6)


_ALL_HALVES = list(itertools.product([0.0, 0.5], repeat=3))


@settings(max_examples=40)
@given(
    st.sampled_from(_SCREWS_AND_GLIDES + [511]),
    st.sampled_from([None, *_ALL_HALVES]),
    _SEEDS,
)
def test_refuses_momenta_on_which_operations_form_no_group(hall, momentum, seed):
    group = _hall_group(hall, electrons=1, supercell=2)
    crystal = group.crystal
    f = _bloch(crystal, seed, _ALL_HALVES if momentum is None else [momentum])
    wavefunction = Bloch(crystal, momentum)
    if not _acts(group, f, seed):
        message = "is None" if momentum is None else "do not multiply"
        with pytest.raises(ValueError, match=message):
            Symmetrized(wavefunction, GroupAverage(group))
        return
    found = Symmetrized(wavefunction, GroupAverage(group)).crystal_momentum
    if momentum is None:
        assert found is None
        return
    turned = np.array(momentum) @ group.frac_rotations - np.array(momentum)
    if np.allclose(turned, np.round(turned)):
        np.testing.assert_array_equal(found, wavefunction.crystal_momentum)
    else:
        assert found is None


@settings(max_examples=30)
@given(
    st.sampled_from(_SCREWS_AND_GLIDES + [511]), st.sampled_from(_ALL_HALVES), _SEEDS
)
def test_refuses_twists_at_which_operations_form_no_group(hall, twist, seed):
    rotations, shifts = group_toys.database(hall)
    crystal = group_toys.crystal_for(rotations, shifts, electrons=1, twist=twist)
    group = SpaceGroup.of(crystal)
    acts = _acts(group, _bloch(crystal, seed, [twist]), seed)
    # The twist tells as much as the momentum does.
    for momentum in (None, twist):
        wavefunction = Bloch(crystal, momentum)
        if acts:
            Symmetrized(wavefunction, GroupAverage(group))
        else:
            with pytest.raises(ValueError, match="do not multiply on it"):
                Symmetrized(wavefunction, GroupAverage(group))


def test_refuses_a_half_translation_that_changes_the_sign():
    # Two atoms where one would do: the square of the translation by half a cell.
    crystal = Crystal.hydrogen_chain(
        spacing=2.0, vacuum=20.0, unit="bohr", supercell=(2, 1, 1)
    )
    group = SpaceGroup.of(crystal)
    Symmetrized(Bloch(crystal, (0.0, 0.0, 0.0)), GroupAverage(group))
    with pytest.raises(ValueError, match=r"exp\(.*1 i pi\), whose crystal momentum"):
        Symmetrized(Bloch(crystal, (0.5, 0.0, 0.0)), GroupAverage(group))


@settings(max_examples=15)
@given(st.sampled_from([6, 128, 438]), st.sampled_from(_ALL_HALVES[1:]), _SEEDS)
def test_refuses_irreps_without_the_momentum(hall, momentum, seed):
    full = _hall_group(hall, electrons=1, supercell=2).with_translations()
    crystal = full.crystal
    # So many waves that some are in no special direction.
    f = _bloch(crystal, seed, [momentum], count=40)
    places = np.asarray(full.apply_inverse(_electrons(crystal, seed)))[:, 0]
    found, refused = [], []
    for irrep in irreps(full):
        projection = IrrepProjection(full, irrep)
        value = np.mean(np.conj(irrep.characters) * f(places))
        # Nothing can be refused where nothing is known, or where it is right.
        Symmetrized(Bloch(crystal, None), projection)
        if abs(value) < 1e-8:
            refused.append(irrep.label)
            with pytest.raises(ValueError, match="zero everywhere") as error:
                Symmetrized(Bloch(crystal, momentum), projection)
            named = str(error.value).split("onto one of ")[1].rstrip(".").split(", ")
        else:
            found.append(irrep.label)
            Symmetrized(Bloch(crystal, momentum), projection)
    # The trivial one is among those that are not there.
    assert refused[0] == irreps(full)[0].label and named == found
    with pytest.raises(ValueError, match="zero everywhere"):
        Symmetrized(Bloch(crystal, momentum), GroupAverage(full))


def test_partial_sums_are_not_checked():
    crystal = Crystal.diamond("C", a=6.7, unit="bohr", supercell=2)
    group = SpaceGroup.of(crystal)
    symmetrized = Symmetrized(Bloch(crystal, None), Halves(group))
    assert symmetrized.crystal_momentum is None


def test_momentum_of_a_network():
    crystal = Crystal.hydrogen_chain(
        spacing=2.0, vacuum=20.0, atoms=1, unit="bohr", supercell=(3, 1, 1)
    )
    frac = np.array([[0, 0, 0], [1 / 3, 0, 0]])
    kpoints = frac @ crystal.lattice.reciprocal
    network = SolidNet(
        crystal,
        Occupation((kpoints, kpoints[1:])),
        widths=((4, 2),),
        determinants=2,
        key=jax.random.key(0),
    )
    momentum = network.crystal_momentum
    np.testing.assert_allclose(momentum, 2 / 3 * crystal.lattice.reciprocal[0])
    electrons = _electrons(crystal, 0)
    moved = electrons + jnp.asarray(crystal.lattice.vectors[:1])
    psi = jax.jit(jax.vmap(network))(jnp.stack([electrons, moved]))
    here, there = (jax.tree.map(lambda v, i=i: v[i], psi) for i in (0, 1))
    np.testing.assert_allclose(there.log, here.log, atol=1e-9)
    phase = np.exp(1j * momentum @ crystal.lattice.vectors[0])
    np.testing.assert_allclose(there.sign, phase * here.sign, atol=1e-9)


def test_real_network_at_k_and_minus_k():
    """Its total momentum is 0, and every projection is right: inversion exchanges k and
    -k, and primitive translations inside the supercell change nothing."""
    crystal = Crystal.hydrogen_chain(
        spacing=2.0, vacuum=20.0, atoms=2, unit="bohr", supercell=(3, 1, 1)
    )
    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    network = SolidNet(
        crystal,
        Occupation((kpoints, kpoints)),
        widths=((4, 2),),
        determinants=2,
        key=jax.random.key(0),
    )
    assert network.real and np.any(kpoints)
    inversion = SpaceGroup(crystal, [np.eye(3), -np.eye(3)], np.zeros((2, 3)))
    average = GroupAverage(inversion)
    functions = (
        network,
        Symmetrized(network, average),
        Symmetrized(network, IrrepProjection(inversion, "Au")),
        Symmetrized(network, GroupAverage(inversion.with_translations())),
        SymmetrizedOrbitals(network, average),
    )
    assert functions[-1].crystal_momentum is None
    electrons = _electrons(crystal, 0)

    @jax.jit
    def values(electrons):
        psi = [f(electrons) for f in functions]
        return jnp.stack([f.sign * jnp.exp(f.log) for f in psi])

    here, there = values(electrons), values(-electrons)
    plain, even, odd, translated, orbitals = here
    scale = float(jnp.abs(plain))
    close = functools.partial(np.testing.assert_allclose, atol=1e-9 * scale)
    close(even + odd, plain)
    close(there[1:], here[1:] * np.array([1.0, -1.0, 1.0, 1.0]), rtol=1e-9)
    close(translated, even)
    assert abs(even) > 1e-3 * scale < abs(odd) and abs(orbitals) > 0


@pytest.mark.parametrize(
    ("quantity", "times"), [("amplitude", 10), ("gradient", 11), ("energy", 10)]
)
def test_memory_is_that_of_one_chunk(quantity, times):
    crystal = Crystal.rock_salt("Li", "H", a=7.7, unit="bohr", charge=2)
    network = SolidNet(
        crystal,
        Occupation((np.zeros((1, 3)), np.zeros((1, 3)))),
        widths=((16, 8),) * 2,
        determinants=1,
        key=jax.random.key(0),
    )
    walkers = jnp.zeros((16, 2, 3))

    @eqx.filter_jit
    def values(wavefunction):
        if quantity == "energy":
            return jax.vmap(lambda x: ForwardLaplacian()(wavefunction, x))(walkers)
        parameters, rest = partition(wavefunction)
        total = lambda p: jnp.sum(jax.vmap(combine(p, rest))(walkers).log)
        return (jax.grad(total) if quantity == "gradient" else total)(parameters)

    def memory(wavefunction):
        compiled = values.lower(wavefunction).compile().compiled
        return compiled.memory_analysis().temp_size_in_bytes

    average = GroupAverage(SpaceGroup.of(crystal))
    assert average.group.order == 48
    # Four images of 48, twice: the first part and those in the loop. The gradient of
    # the network alone needs so little that the rest of the sum counts too.
    assert memory(Symmetrized(network, average, 4)) < times * memory(network)
