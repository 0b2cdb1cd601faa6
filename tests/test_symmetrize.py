"""Symmetrized wave functions: invariance, boundary conditions, projection, chunks."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Float, Inexact

from eqsym._ansatz.base import AbstractWavefunction
from eqsym._crystal import Crystal
from eqsym._group import SpaceGroup
from eqsym._hamiltonian import ForwardLaplacian, HessianLaplacian
from eqsym._symmetrize import (
    AbstractSymmetrizer,
    GroupAverage,
    Orbit,
    Symmetrized,
    symmetry_ratio,
)
from eqsym._types import LogPsi, partition


class Determinants(AbstractWavefunction):
    """det_up det_dn of smooth orbitals with the primitive lattice's Bloch phases and a
    mean field of all electrons, without any further symmetry."""

    crystal: Crystal
    waves: Float[Array, "waves 3"]
    kpoints: Float[Array, "orbitals 3"]
    coefficients: Inexact[Array, "orbitals 2 waves"]

    @property
    def crystal_momentum(self):
        # Not from `kpoints`, which may be traced.
        kpoints = _frac_kpoints(self.crystal)
        up, dn = self.crystal.electrons
        total = np.sum(kpoints[:up], axis=0) + np.sum(kpoints[:dn], axis=0)
        return total @ self.crystal.lattice.reciprocal

    def __call__(self, electrons):
        angles = electrons @ self.waves.T
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
        mean = jnp.mean(jnp.tanh(features), axis=0, keepdims=True)
        features = features * (1 + mean) + 0.3
        coefficients = self.coefficients.reshape(len(self.kpoints), -1)
        orbitals = features.astype(coefficients.dtype) @ coefficients.T
        if jnp.issubdtype(coefficients.dtype, jnp.complexfloating):
            phases = electrons @ self.kpoints.T
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


def _frac_kpoints(crystal):
    return crystal.frac_kpoints[np.arange(max(crystal.electrons)) % crystal.cells]


def _determinants(crystal, *, real=False, seed=0):
    rng = np.random.default_rng(seed)
    integers = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 2]])
    kpoints = _frac_kpoints(crystal)
    shape = (len(kpoints), 2, len(integers))
    coefficients = rng.normal(size=shape)
    if not real:
        coefficients = coefficients + 1j * rng.normal(size=shape)
    return Determinants(
        crystal,
        jnp.asarray(integers @ crystal.lattice.reciprocal),
        jnp.asarray(kpoints @ crystal.lattice.reciprocal),
        jnp.asarray(coefficients),
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
        ratio = symmetry_ratio(wavefunction, average, electrons, chunk=chunk)
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
    ratio = symmetry_ratio(wavefunction, symmetrizer, electrons, chunk=chunk)
    np.testing.assert_allclose(ratio, expected / plain[0])


def _turns_about_z(wavefunction):
    once = np.array([[0, -1, 0], [1, -1, 0], [0, 0, 1]])
    turns = [np.eye(3), once, once @ once]
    return GroupAverage(SpaceGroup(wavefunction.crystal, turns, np.zeros((3, 3))))


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_kinetic_energy_of_chunks(threshold):
    wavefunction, _ = _wavefunction("graphene at K")
    average = _turns_about_z(wavefunction)
    electrons = _electrons(wavefunction.crystal, 3)
    expected = eqx.filter_jit(HessianLaplacian())(
        Symmetrized(wavefunction, average), electrons
    )
    kinetic = ForwardLaplacian(sparsity_threshold=threshold)
    for chunk in (None, 1, 2):
        found = eqx.filter_jit(kinetic)(
            Symmetrized(wavefunction, average, chunk), electrons
        )
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_second_derivatives_of_chunks():
    # Complex determinants in a loop: forward over reverse mode is wrong here in
    # jax 0.10.2, which the Hessian must not depend on.
    wavefunction, _ = _wavefunction("graphene at K")
    average = _turns_about_z(wavefunction)
    electrons = _electrons(wavefunction.crystal, 3)
    whole, parts = (
        eqx.filter_jit(HessianLaplacian())(
            Symmetrized(wavefunction, average, chunk), electrons
        )
        for chunk in (None, 2)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-9)


def test_single_precision():
    wavefunction, average = _wavefunction("rock salt, real")
    single = eqx.tree_at(
        lambda f: (f.waves, f.kpoints, f.coefficients),
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
    with pytest.raises(ValueError, match="`symmetrizer` does not fit .* lattice"):
        Symmetrized(wavefunction, GroupAverage(other))
    with pytest.raises(ValueError, match="`symmetrizer` does not fit .* lattice"):
        symmetry_ratio(
            wavefunction,
            GroupAverage(other),
            _electrons(wavefunction.crystal, 0),
        )
    same = SpaceGroup.of(Crystal.diamond("C", a=6.7, unit="bohr", charge=1))
    Symmetrized(wavefunction, GroupAverage(same))


@pytest.mark.parametrize("chunk", [0, -3])
def test_refuses_chunks_that_are_none(chunk):
    with pytest.raises(ValueError, match="`chunk` must be a positive number"):
        Symmetrized(*_wavefunction("diamond"), chunk)
