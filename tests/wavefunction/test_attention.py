"""AttentionNet: descriptions of a crystal, cells of a supercell, errors. Boundary
conditions are tried in test_solidnet.py, derivatives in test_sparse.py."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs


def _occupation(crystal):
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    return eqs.Occupation(tuple(k[np.arange(n) % len(k)] for n in crystal.electrons))


def _network(crystal, **kwargs):
    kwargs = {"width": 8, "heads": 2, "layers": 2, "pair_width": 4} | kwargs
    return eqs.AttentionNet(
        crystal, _occupation(crystal), key=jax.random.key(3), **kwargs
    )


def _lih(**kwargs):
    return eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom", **kwargs)


def test_the_same_for_every_basis_of_the_lattice():
    crystal = _lih()
    a1, a2, a3 = crystal.lattice.vectors
    other = eqs.Crystal(
        np.array([a1, a2, a3 + 3 * a1 + 2 * a2]),
        crystal.species,
        cart_positions=crystal.cart_positions,
        unit="bohr",
    )
    walkers = eqs.initial_walkers(crystal, 2, key=jax.random.key(0))
    one, two = (
        eqx.filter_jit(eqs.Jastrow(_network(c)))(walkers[0]) for c in (crystal, other)
    )
    assert one.sign == two.sign
    np.testing.assert_allclose(one.log, two.log, rtol=1e-12)


def test_electrons_know_which_cells_they_are_in():
    """Features of electrons are those of the primitive cell, of pairs those of the
    supercell: moving one electron by a vector of the lattice changes the modulus."""
    network = _network(_lih(supercell=(2, 1, 1)))
    electrons = eqs.initial_walkers(network.crystal, 1, key=jax.random.key(0))[0]
    moved = electrons.at[0].add(jnp.asarray(network.crystal.lattice.vectors[0]))
    logs = eqx.filter_jit(jax.vmap(network))(jnp.stack([electrons, moved])).log
    assert abs(logs[0] - logs[1]) > 1e-4


@pytest.mark.parametrize("width", [8, 64])
def test_features_stay_of_order_one_in_wide_cells(width):
    crystal = eqs.Crystal.graphene(
        a=4.65, vacuum=100.0, unit="bohr", pseudopotential="ccecp"
    )
    network = _network(crystal, width=width, layers=3)
    electrons = eqs.initial_walkers(crystal, 1, key=jax.random.key(0))[0]
    h = eqx.filter_jit(network.last_features)(electrons, network.bloch.near(electrons))
    assert 0.1 < jnp.std(h) < 10


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(heads=3), "`heads` must divide the `width`, 8, .* got 3"),
        (dict(layers=0), "`layers` must be"),
        (dict(width=1, heads=1), "`width`, .* must be at least 2 features"),
        (dict(width=8.5), "`width` must be"),
    ],
)
def test_errors(kwargs, message, unchecked):
    with pytest.raises(ValueError, match=message):
        _network(_lih(), **kwargs)
