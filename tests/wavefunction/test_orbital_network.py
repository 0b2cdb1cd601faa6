"""A network that a user wrote: it is pretrained, and its orbitals are averaged, like
those of the library."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

import eqsym as eqs
from eqsym._wavefunction import orbital_network
from toys import waves


class Orbitals(eqs.AbstractOrbitalNetwork):
    """Sums of plane waves, the same for all electrons."""

    occupation: eqs.Occupation
    crystal: eqs.Crystal
    weights: Float[Array, "orbitals 7"]
    full_determinant: bool = eqx.field(default=False, static=True)
    real: bool = eqx.field(default=True, static=True)

    @property
    def crystal_momentum(self):
        return None

    def orbitals(self, electrons, *, phases_at=None):
        w = electrons @ jnp.asarray(self.crystal.supercell.reciprocal).T
        ones = jnp.ones((len(w), 1))
        features = jnp.concatenate([ones, jnp.cos(w), jnp.sin(w)], axis=1)
        rows = (features @ self.weights.T)[None]
        up, down = self.crystal.electrons
        return rows[:, :up, :up], rows[:, up:, :down]

    def from_orbitals(self, up, down):
        found = jnp.linalg.slogdet(up)[0] * jnp.linalg.slogdet(down)[0]
        log = jnp.linalg.slogdet(up)[1] + jnp.linalg.slogdet(down)[1]
        return eqs.LogPsi(found[0], log[0])

    def __call__(self, electrons):
        return self.from_orbitals(*self.orbitals(electrons))


def _network(crystal, occupation):
    weights = 0.3 * jax.random.normal(jax.random.key(0), (2, 7))
    return Orbitals(occupation, crystal, weights)


def test_is_pretrained(lih):
    network = _network(lih.crystal, lih.occupation)
    places = eqs.initial_walkers(lih.crystal, 32, key=jax.random.key(1))
    losses = []
    fitted, _ = eqs.Pretraining(lih, steps=40)(
        network,
        places,
        key=jax.random.key(2),
        callback=lambda step, loss: losses.append(loss),
    )
    assert isinstance(fitted, Orbitals)
    assert losses[-1] < 0.9 * losses[0]
    assert np.any(np.asarray(fitted.weights) != np.asarray(network.weights))


def test_its_orbitals_are_averaged(lih):
    group = eqs.SpaceGroup.of(lih.crystal).subgroup([0])
    inversion = eqs.SpaceGroup(
        lih.crystal, [np.eye(3, dtype=int), -np.eye(3, dtype=int)], np.zeros((2, 3))
    )
    network = _network(lih.crystal, lih.occupation)
    electrons = eqs.initial_walkers(lih.crystal, 1, key=jax.random.key(1))[0]
    same = eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(group))(electrons)
    np.testing.assert_allclose(same.log, network(electrons).log)
    averaged = eqs.SymmetrizedOrbitals(network, eqs.GroupAverage(inversion))
    up, down = (
        (one + other) / 2
        for one, other in zip(
            network.orbitals(electrons), network.orbitals(-electrons), strict=True
        )
    )
    expected = network.from_orbitals(up, down)
    np.testing.assert_allclose(averaged(electrons).log, expected.log)
    np.testing.assert_allclose(averaged(-electrons).log, expected.log)


def test_others_are_refused(lih):
    with pytest.raises(ValueError, match="got the wave function `Waves`"):
        orbital_network("`x` averages", waves(lih.crystal))
