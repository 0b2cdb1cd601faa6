"""What symmetrization promises, on all 230 space groups, the 80 layer groups and among
them the 17 plane groups, with random lattice parameters."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jaxtyping import Array, Complex, Float

import eqsym as eqs
from group_toys import crystal_for, database, space_group_type


def _first_settings():
    """The first Hall number of each space group, and all of the layer groups."""
    seen, found = set(), []
    for hall in range(1, 531):
        number = space_group_type(hall).number
        if number not in seen:
            seen.add(number)
            found.append(hall)
    return (*found, *range(-1, -117, -1))


_HALL_NUMBERS = _first_settings()


class Pair(eqs.AbstractWavefunction):
    """Two electrons of the same spin in two generic periodic orbitals."""

    crystal: eqs.Crystal
    waves: Float[Array, "waves 3"]
    coefficients: Complex[Array, "2 waves"]

    @property
    def crystal_momentum(self):
        return np.zeros(3)

    def __call__(self, electrons):
        angles = electrons @ self.waves.T
        waves = (jnp.cos(angles) + jnp.sin(2 * angles)).astype(complex)
        orbitals = waves @ self.coefficients.T
        value = orbitals[0, 0] * orbitals[1, 1] - orbitals[0, 1] * orbitals[1, 0]
        size = jnp.abs(value)
        return eqs.LogPsi(value / size.astype(complex), jnp.log(size))


def _pair(crystal, rng):
    integers = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, -1, 2], [1, 2, -1]])
    coefficients = rng.normal(size=(2, 5)) + 1j * rng.normal(size=(2, 5))
    waves = jnp.asarray(integers @ crystal.lattice.reciprocal)
    return Pair(crystal, waves, jnp.asarray(coefficients))


# Amplitudes of many configurations; compiled once for each order of a group.
@eqx.filter_jit
def _amplitudes(waves, coefficients, configurations):
    pair = Pair(_ANY, waves, coefficients)
    found = eqx.filter_vmap(pair)(configurations)
    return found.sign * jnp.exp(found.log).astype(complex)


_ANY = eqs.Crystal(
    5 * np.eye(3), ["H", "H"], frac_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], unit="bohr"
)


def _check(hall, seed):
    rng = np.random.default_rng(seed)
    crystal = crystal_for(*database(hall), seed, spin=2)
    group = eqs.SpaceGroup.from_hall_number(crystal, hall)
    pair = _pair(crystal, rng)
    x = jnp.asarray(crystal.lattice.to_cartesian(rng.uniform(size=(2, 3))))

    def amplitudes(configurations):
        return np.asarray(_amplitudes(pair.waves, pair.coefficients, configurations))

    def projected(symmetrizer, configuration):
        orbit = symmetrizer.orbit(configuration)
        values = amplitudes(orbit.images)
        return np.asarray(orbit.weights).astype(complex) @ values, values

    average = eqs.GroupAverage(group)
    eqs.Symmetrized(pair, average)  # is not refused
    value, values = projected(average, x)
    scale = np.max(np.abs(values))
    close = {"rtol": 0, "atol": 1e-7 * scale}
    np.testing.assert_allclose(np.sum(average.orbit(x).weights), 1)

    # Invariant and antisymmetric; a projection, and one of those that add up to 1.
    some = rng.permutation(group.order)[:4]
    images = group.apply(x, jnp.asarray(some))
    for image in images:
        np.testing.assert_allclose(projected(average, image)[0], value, **close)
    np.testing.assert_allclose(projected(average, x[::-1])[0], -value, **close)
    table = eqs.character_table(group)
    parts = [
        np.asarray(eqs.IrrepProjection(group, irrep).orbit(x).weights).astype(complex)
        for irrep in table.irreps
    ]
    # f at x is its amplitude at the image by the identity.
    bare = amplitudes(x[None])[0]
    np.testing.assert_allclose(np.sum(parts, axis=0) @ values, bare, **close)
    np.testing.assert_allclose(parts[0] @ values, value, **close)

    # Canonicalization: the same images with other weights.
    canonical = eqs.Canonicalization(eqs.FundamentalDomain.of(group))
    weights = np.asarray(canonical.weights(x))
    np.testing.assert_allclose(np.sum(weights, axis=1), 1)
    expected = np.mean(weights, axis=0) @ values
    orbit = canonical.orbit(x)
    found = np.asarray(orbit.weights) @ amplitudes(orbit.images)
    np.testing.assert_allclose(found, expected, **close)
    for image in images[:2]:
        again = np.mean(np.asarray(canonical.weights(image)), axis=0)
        np.testing.assert_allclose(
            again @ projected(average, image)[1], expected, **close
        )
    swapped = np.mean(np.asarray(canonical.weights(x[::-1])), axis=0)
    found = swapped @ amplitudes(group.apply_inverse(x[::-1]))
    np.testing.assert_allclose(found, -expected, **close)


@settings(max_examples=5, deadline=None)
@given(hall=st.sampled_from(_HALL_NUMBERS), seed=st.integers(0, 2**16))
def test_symmetrization(hall, seed):
    _check(hall, seed)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(hall=st.sampled_from(_HALL_NUMBERS), seed=st.integers(0, 2**16))
def test_symmetrization_on_more_groups(hall, seed):
    _check(hall, seed)


def test_list_of_groups_is_complete():
    numbers = {space_group_type(h).number for h in _HALL_NUMBERS if h > 0}
    assert numbers == set(range(1, 231))
    assert sum(h < 0 for h in _HALL_NUMBERS) == 116
