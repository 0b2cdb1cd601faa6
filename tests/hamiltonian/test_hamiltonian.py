"""Kinetic energies against exact values and against each other."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Inexact

from eqsym import (
    AbstractWavefunction,
    Crystal,
    ForwardLaplacian,
    Hamiltonian,
    HessianLaplacian,
    LocalEnergy,
    LogPsi,
)
from eqsym._core.math import log_sum, rescaled, sum_of_determinants
from eqsym._core.types import Electrons


KINETIC = [ForwardLaplacian(), HessianLaplacian()]


# Nearly all the time of these tests is compilation.
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def chain(atoms: int, **kwargs) -> Crystal:
    """Hydrogens in a box without symmetry; one electron each."""
    lattice = np.diag([2.0 * atoms, 5.0, 6.0]) + 0.3 * np.eye(3, k=1)
    positions = [[2.0 * i, 0.2 * i, 0.0] for i in range(atoms)]
    return Crystal(
        lattice, ("H",) * atoms, cart_positions=positions, unit="bohr", **kwargs
    )


def configuration(crystal: Crystal, seed: int = 0) -> Float[Array, "electrons 3"]:
    frac = np.random.default_rng(seed).uniform(size=(sum(crystal.electrons), 3))
    return jnp.asarray(frac @ crystal.supercell.vectors)


class PlaneWaves(AbstractWavefunction):
    """Slater determinants of exp(i k.r) or, if `real`, cos(k.r + phase)."""

    crystal: Crystal
    waves: Float[np.ndarray, "orbitals 3"]
    real: bool = eqx.field(static=True)

    crystal_momentum = None

    def __call__(self, electrons: Electrons) -> LogPsi:
        angle = electrons @ jnp.asarray(self.waves, electrons.dtype).T
        if self.real:
            orbitals = jnp.cos(angle + 0.3)
        else:
            orbitals = jnp.exp(jax.lax.complex(jnp.zeros_like(angle), angle))
        up = self.crystal.electrons[0]
        dn = self.crystal.electrons[1]
        return sum_of_determinants(orbitals[None, :up, :up], orbitals[None, up:, :dn])


class Network(AbstractWavefunction):
    """Two layers and sums of products of determinants: the parts of a real ansatz."""

    crystal: Crystal
    layers: list[Float[Array, "_ _"]]
    orbitals: Inexact[Array, "determinants features n"]
    terms: int = eqx.field(static=True)

    crystal_momentum = None

    def __init__(self, crystal: Crystal, *, is_complex: bool, terms: int, key):
        n = max(crystal.electrons)
        keys = jax.random.split(key, 3)
        dtype = jnp.complex128 if is_complex else jnp.float64
        self.crystal = crystal
        self.layers = [
            jax.random.normal(keys[0], (6, 8)),
            jax.random.normal(keys[1], (16, 8)) / 4,
        ]
        self.orbitals = jax.random.normal(keys[2], (3, 8, n), dtype)
        self.terms = terms

    def amplitude(self, electrons: Electrons) -> LogPsi:
        w = electrons @ jnp.asarray(self.crystal.supercell.reciprocal).T
        h = jnp.tanh(
            jnp.concatenate([jnp.sin(w), jnp.cos(w)], axis=-1) @ self.layers[0]
        )
        mean = jnp.broadcast_to(jnp.mean(h, axis=0)[None], h.shape)
        h = h + jnp.tanh(jnp.concatenate([h, mean], axis=-1) @ self.layers[1])
        matrix = jnp.einsum("ef,dfn->den", h.astype(self.orbitals.dtype), self.orbitals)
        up, dn = self.crystal.electrons
        return sum_of_determinants(matrix[:, :up, :up], matrix[:, up:, :dn])

    def __call__(self, electrons: Electrons) -> LogPsi:
        if self.terms == 1:
            return self.amplitude(electrons)
        shifts = 0.4 * jnp.arange(self.terms, dtype=electrons.dtype)
        images = electrons[None] + shifts[:, None, None]
        return log_sum(jax.vmap(self.amplitude)(images))


class Gaussian(AbstractWavefunction):
    """exp(-a r^2 / 2 + i k.r): its local energy is known in closed form."""

    crystal: Crystal
    width: float
    wave: Float[np.ndarray, "3"]

    crystal_momentum = None

    def __call__(self, electrons: Electrons) -> LogPsi:
        phase = jnp.sum(electrons @ jnp.asarray(self.wave))
        value = jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
        return rescaled(value, -0.5 * self.width * jnp.sum(electrons**2))


@pytest.mark.parametrize("kinetic", KINETIC)
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("atoms", [3, 10])
def test_plane_waves_have_their_kinetic_energy(kinetic, real, atoms):
    crystal = chain(atoms)
    integers = np.array(
        [[0, 1, 0], [1, 0, 0], [-1, 1, 0], [0, 0, 2], [1, 1, -1]], dtype=float
    )
    waves = integers @ crystal.supercell.reciprocal
    psi = PlaneWaves(crystal, waves, real)
    up, dn = crystal.electrons
    expected = 0.5 * (np.sum(waves[:up] ** 2) + np.sum(waves[:dn] ** 2))
    got = eqx.filter_jit(kinetic)(psi, configuration(crystal))
    assert got.dtype == (jnp.float64 if real else jnp.complex128)
    assert got == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kinetic", KINETIC)
def test_complex_gaussian_is_exact(kinetic):
    crystal = chain(2)
    psi = Gaussian(crystal, 0.7, np.array([0.3, -0.2, 0.5]))
    x = configuration(crystal)
    # grad log psi = -a r + i k and lap log psi = -3 N a.
    gradient = -0.7 * np.asarray(x) + 1j * psi.wave
    expected = -0.5 * (-3 * 2 * 0.7 + np.sum(gradient**2))
    assert eqx.filter_jit(kinetic)(psi, x) == pytest.approx(
        complex(expected), rel=1e-12
    )


# Determinants are multiplied out up to 4x4.
@pytest.mark.parametrize("is_complex", [False, True])
@pytest.mark.parametrize("atoms, spin", [(1, 1), (5, 1), (4, 4), (5, 5)])
def test_forward_laplacian_is_the_laplacian(atoms, spin, is_complex):
    crystal = chain(atoms, spin=spin)
    psi = Network(crystal, is_complex=is_complex, terms=1, key=jax.random.key(atoms))
    x = configuration(crystal, seed=atoms)
    expected = quick_jit(lambda x: HessianLaplacian()(psi, x))(x)
    got = quick_jit(lambda x: ForwardLaplacian()(psi, x))(x)
    assert got.dtype == expected.dtype
    assert complex(got) == pytest.approx(complex(expected), rel=1e-9)


@pytest.mark.parametrize("is_complex", [False, True])
def test_forward_laplacian_of_sums_of_amplitudes(is_complex):
    crystal = chain(3)
    psi = Network(crystal, is_complex=is_complex, terms=3, key=jax.random.key(0))
    x = configuration(crystal)
    expected = quick_jit(lambda x: HessianLaplacian()(psi, x))(x)
    got = quick_jit(lambda x: ForwardLaplacian()(psi, x))(x)
    assert complex(got) == pytest.approx(complex(expected), rel=1e-9)


def test_no_operation_falls_back_to_the_full_hessian(caplog):
    crystal = chain(9)
    for is_complex in (False, True):
        psi = Network(crystal, is_complex=is_complex, terms=2, key=jax.random.key(0))
        jax.eval_shape(ForwardLaplacian(), psi, configuration(crystal))
    assert not caplog.records


def test_laplacian_agrees_with_finite_differences():
    crystal = chain(3)
    psi = Network(crystal, is_complex=True, terms=1, key=jax.random.key(1))
    x = configuration(crystal)
    step = 1e-3
    directions = jnp.eye(x.size).reshape(-1, *x.shape)

    @jax.jit
    def ratio(y):
        there, here = psi(y), psi(x)
        return jnp.exp(there.complex_log - here.complex_log)

    laplacian = 0.0
    for order, weight in ((0, -5 / 2), (1, 4 / 3), (2, -1 / 12)):
        for sign in (1, -1) if order else (1,):
            there = jax.vmap(ratio)(x[None] + sign * order * step * directions)
            laplacian += weight * complex(jnp.sum(there)) / step**2
    got = complex(quick_jit(lambda x: ForwardLaplacian()(psi, x))(x))
    assert got == pytest.approx(-0.5 * laplacian, rel=1e-6)


def test_dtypes_follow_the_electrons():
    crystal = chain(3)
    hamiltonian = Hamiltonian(crystal)
    x = configuration(crystal).astype(jnp.float32)
    for real in (True, False):
        psi = PlaneWaves(crystal, crystal.supercell.reciprocal, real)
        energy = eqx.filter_jit(hamiltonian.local_energy)(psi, x)
        assert energy.potential.dtype == jnp.float32
        assert energy.kinetic.dtype == (jnp.float32 if real else jnp.complex64)
        assert energy.total.dtype == energy.kinetic.dtype


def test_local_energy_adds_up_over_a_batch():
    crystal = chain(2)
    hamiltonian = Hamiltonian(crystal, kinetic=HessianLaplacian(), alpha=0.8)
    psi = Gaussian(crystal, 0.7, np.zeros(3))
    x = jnp.stack([configuration(crystal, seed) for seed in range(4)])
    energy = quick_jit(jax.vmap(lambda x: hamiltonian.local_energy(psi, x)))(x)
    assert isinstance(energy, LocalEnergy)
    assert energy.total.shape == (4,)
    potential = jax.vmap(Hamiltonian(crystal).ewald)(x)
    np.testing.assert_allclose(energy.potential, potential, atol=2e-7)
    total = np.asarray(energy.kinetic) + np.asarray(energy.potential)
    np.testing.assert_allclose(energy.total, total)


def test_kinetic_energy_has_no_conjugation():
    """The local energy of exp(i k.r) f(r) has an imaginary part -k.grad log f."""
    crystal = chain(1)
    wave = np.array([0.3, -0.2, 0.5])
    psi = Gaussian(crystal, 0.7, wave)
    x = configuration(crystal)
    got = eqx.filter_jit(Hamiltonian(crystal).local_energy)(psi, x).total
    assert float(got.imag) == pytest.approx(0.7 * float(x[0] @ wave), rel=1e-12)


def test_hydrogen_atom_in_a_large_box_has_its_energy():
    """exp(-r) is an eigenstate up to the periodic images: the neutral atom polarizes
    nothing at this distance, so that the local energy varies by what its images do to a
    dipole, -2 pi r^2 / (3 V) to leading order."""
    edge = 60.0
    crystal = Crystal(np.eye(3) * edge, ("H",), cart_positions=[[0, 0, 0]], unit="bohr")

    class Atom(AbstractWavefunction):
        crystal: Crystal
        crystal_momentum = None

        def __call__(self, electrons: Electrons) -> LogPsi:
            square = jnp.sum(electrons**2)
            return LogPsi(jnp.ones_like(square), -jnp.sqrt(square))

    local_energy = eqx.filter_jit(Hamiltonian(crystal).local_energy)
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = jnp.asarray(rng.normal(size=(1, 3)))
        energy = local_energy(Atom(crystal), x).total
        correction = -2 * np.pi / (3 * edge**3) * float(jnp.sum(x**2))
        # The next order is r^4 / edge^5.
        assert float(energy) == pytest.approx(-0.5 + correction, abs=3e-7)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`alpha`"):
        Hamiltonian(chain(1), alpha=0.0)
