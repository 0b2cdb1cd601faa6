"""The orbitals that networks end in, of a network of one's own."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs


class Means(eqs.AbstractBlochNetwork):
    """Features of an electron and the mean over all others."""

    bloch: eqs.BlochOrbitals
    own: eqx.nn.Linear
    other: eqx.nn.Linear

    def __init__(self, crystal, occupation, width=6, asked=6):
        last, own, other = jax.random.split(jax.random.key(0), 3)
        nuclei = len(crystal.species)
        self.bloch = eqs.BlochOrbitals(
            crystal, occupation, width=asked, determinants=2, key=last
        )
        self.own = eqx.nn.Linear(7 * nuclei, width, key=own)
        self.other = eqx.nn.Linear(7, width, key=other)

    def last_features(self, electrons, near):
        pairs = self.bloch.pairs(electrons, electrons)
        rows, others = (
            jnp.concatenate([x.distance[..., None], x.vector], axis=-1)
            for x in (near, pairs)
        )
        own = jax.vmap(self.own)(rows.reshape(len(electrons), -1))
        mean = jnp.mean(jnp.tanh(jax.vmap(jax.vmap(self.other))(others)), axis=1)
        return jnp.tanh(own + mean)


def _crystal(**kwargs):
    return eqs.Crystal.rock_salt("Li", "H", a=7.6, unit="bohr", **kwargs)


def _occupation(crystal):
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    return eqs.Occupation(tuple(k[np.arange(n) % len(k)] for n in crystal.electrons))


@pytest.mark.parametrize("twist", [(0, 0, 0), (0.1, -0.4, 0.27)])
def test_a_network_of_ones_own_keeps_all_promises(twist):
    crystal = _crystal(supercell=(2, 1, 1), twist=twist)
    network = Means(crystal, _occupation(crystal))
    assert network.real == (twist == (0, 0, 0))
    eqs.check_wavefunction(network, key=jax.random.key(1), derivatives=False)


def test_features_of_another_shape_are_refused():
    crystal = _crystal()
    network = Means(crystal, _occupation(crystal), asked=5)
    electrons = eqs.initial_walkers(crystal, 1, key=jax.random.key(0))[0]
    with pytest.raises(ValueError, match=r"`last_features` of Means .*\(4, 5\), got"):
        eqx.filter_eval_shape(network, electrons)


@pytest.mark.parametrize("make", [eqs.SolidNet, eqs.AttentionNet])
def test_no_cusp_at_nuclei_with_a_pseudopotential(make):
    small = dict(widths=[(8, 4)]) if make is eqs.SolidNet else dict(width=8, layers=1)
    for cores, smooth in (
        ({"Li": None, "H": "ccecp"}, [False, True]),
        (None, [False] * 2),
    ):
        crystal = _crystal(pseudopotential=cores)
        network = make(crystal, _occupation(crystal), key=jax.random.key(0), **small)
        electrons = eqs.initial_walkers(crystal, 1, key=jax.random.key(1))[0]
        nuclei = jnp.asarray(crystal.cart_positions)

        def log(distance, nucleus, network=network, electrons=electrons):
            place = nucleus + distance * jnp.asarray([0.6, 0.0, 0.8])
            return network(electrons.at[0].set(place)).log

        slopes = jax.jit(jax.vmap(jax.grad(log), (0, None)))
        for nucleus, is_smooth in zip(nuclei, smooth, strict=True):
            below, above = slopes(jnp.asarray([-1e-8, 1e-8]), nucleus)
            assert (abs(above - below) < 1e-4) == is_smooth
