"""Networks as the start for another crystal."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._training.reuse import _sources


def _crystal(a=4.02, species=("Li", "H"), **kwargs):
    return eqs.Crystal.rock_salt(*species, a=a, unit="angstrom", **kwargs)


@functools.cache
def _mean_field(a=4.02, twist=(0, 0, 0), supercell=1):
    crystal = _crystal(a, twist=twist, supercell=supercell)
    return eqs.MeanField.solve(crystal, basis="sto-3g")


def _solid(crystal, **kwargs):
    """Without a mean field: bands are filled from k-point to k-point."""
    k = crystal.frac_kpoints @ crystal.lattice.reciprocal
    bands = np.concatenate([k] * 2)
    occupation = eqs.Occupation(tuple(bands[:n] for n in crystal.electrons))
    kwargs = dict(widths=((8, 4), (8, 4)), determinants=2) | kwargs
    return eqs.SolidNet(crystal, occupation, key=jax.random.key(0), **kwargs)


def _networks(mean_field):
    settings = mean_field.crystal, mean_field.occupation
    key = jax.random.key(0)
    solid = eqs.SolidNet(*settings, widths=((8, 4), (8, 4)), determinants=2, key=key)
    attention = eqs.AttentionNet(
        *settings, width=8, heads=2, layers=2, pair_width=4, determinants=2, key=key
    )
    return [solid, eqs.Jastrow(attention)]


def _weights(wavefunction):
    """Outside of orbitals, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(eqs.partition(wavefunction)[0])
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return {name: leaf for name, leaf in named.items() if ".bloch." not in name}


def _bare(wavefunction):
    return getattr(wavefunction, "wavefunction", wavefunction)


def _walkers(crystal):
    return eqs.initial_walkers(crystal, 4, key=jax.random.key(1))


@pytest.mark.parametrize("supercell", [1, (2, 1, 1)])
def test_to_itself(supercell):
    """All orbitals have a real part that was trained as it is. At k = 0 the imaginary
    part has no use, and is forgotten."""
    mean_field = _mean_field(supercell=supercell)
    crystal = mean_field.crystal
    for network in _networks(mean_field):
        again = eqs.transfer(network, crystal, mean_field, key=jax.random.key(5))
        if supercell == 1:
            assert eqx.tree_equal(again, network)
        psi = eqx.filter_jit(jax.vmap(lambda x, f=network: f(x)))(_walkers(crystal))
        new = eqx.filter_jit(jax.vmap(lambda x, f=again: f(x)))(_walkers(crystal))
        np.testing.assert_array_equal(new.log, psi.log)


def test_back_to_the_primitive_cell():
    """Orbitals at k = 0 stay what they are."""
    old, new = _mean_field(supercell=(2, 1, 1)), _mean_field()
    network, _ = _networks(old)
    found = eqs.transfer(network, new.crystal, new, key=jax.random.key(5))
    k = network.bloch.columns(0).kpoints
    at_zero = np.all(np.abs(k) < 1e-9, axis=1)
    for one, before in zip(
        found.bloch.orbital_sets, network.bloch.orbital_sets, strict=True
    ):
        weights = before.real_part.weight.reshape(2, len(k), -1)[:, at_zero]
        np.testing.assert_array_equal(
            one.real_part.weight, weights.reshape(one.real_part.weight.shape)
        )


@pytest.mark.parametrize(
    "target",
    [dict(twist=(0.25, 0.1, 0.0)), dict(a=4.2), dict(supercell=(2, 1, 1))],
    ids=["twist", "lattice constant", "supercell"],
)
def test_to_another_crystal(target):
    old, new = _mean_field(), _mean_field(**target)
    for network in _networks(old):
        found = eqs.transfer(network, new.crystal, new, key=jax.random.key(5))
        assert type(found) is type(network)
        weights = _weights(network)
        assert len(weights) > 5
        for name, values in _weights(found).items():
            np.testing.assert_array_equal(values, weights[name])
        walkers = _walkers(new.crystal)
        # All orbitals have a trained one, which has no phase at k = 0: at any k the
        # same but for the phase.
        up, _ = _bare(found).orbitals(walkers[0])
        assert np.all(np.isfinite(up))
        if "supercell" in target:
            kpoints = _bare(found).bloch.columns(0).kpoints
            same = np.all(np.isclose(kpoints, kpoints[:1]), axis=1)
            assert len(np.unique(np.round(kpoints, 6), axis=0)) == 2
            # Real: with the phase times a constant one, cos(k r - theta).
            ratios = np.asarray(up[..., ~same] / up[..., same])
            angles = walkers[0][:4] @ kpoints[~same][0]
            waves = np.stack([np.cos(angles), np.sin(angles)], axis=1)
            ratios = np.moveaxis(ratios, 1, 0).reshape(4, -1)
            constants, *_ = np.linalg.lstsq(waves, ratios)
            np.testing.assert_allclose(waves @ constants, ratios, rtol=1e-6)
            np.testing.assert_allclose(np.sum(constants**2, axis=0), 1, rtol=1e-6)
        elif "twist" in target:
            eqs.check_wavefunction(found, key=jax.random.key(2), derivatives=False)
            before, _ = _bare(network).orbitals(walkers[0])
            np.testing.assert_allclose(np.abs(up), np.abs(before), rtol=1e-9)


@pytest.mark.parametrize("twist", [(0.03, 0, 0), (-0.04, 0.01, 0)])
def test_orbitals_come_from_the_nearest_kpoint(twist):
    """Also if it is the other one of k and -k of a real function."""
    network = _solid(_crystal(supercell=(3, 1, 1)))
    assert network.real and len(network.bloch.columns(0).kpoints) == 8
    new = _crystal(supercell=(3, 1, 1), twist=twist)
    step = np.asarray(twist) @ new.supercell.reciprocal
    bloch = _solid(new).bloch
    for spin in (0, 1):
        found, k = _sources(bloch, network.bloch, spin), bloch.columns(spin).kpoints
        np.testing.assert_allclose(k - step, found.kpoints, atol=1e-9)
        assert np.all(found.numbers >= 0) and np.any(found.conjugate)
        # Each of them once for each of k and -k.
        used = np.stack([found.numbers, found.conjugate], axis=1)
        assert len(np.unique(used, axis=0)) == len(used) == 12


def test_orbitals_do_not_depend_on_the_description():
    old = _crystal(supercell=(2, 1, 2))
    a1, a2, a3 = old.lattice.vectors
    rows = np.array([a1, a2, a3 + 3 * a1 + 2 * a2])
    new = eqs.Crystal(
        rows,
        old.species,
        cart_positions=old.cart_positions,
        unit="bohr",
        supercell=np.round(old.supercell.vectors @ np.linalg.inv(rows)).astype(int),
    )
    network, bloch = _solid(old), _solid(new).bloch
    found, k = _sources(bloch, network.bloch, 0), bloch.columns(0).kpoints
    np.testing.assert_allclose(found.kpoints, k, atol=1e-9)


def test_a_network_that_is_complex_by_choice_stays_so():
    mean_field = _mean_field()
    network = eqs.SolidNet(
        mean_field.crystal,
        mean_field.occupation,
        widths=((8, 4),),
        real=False,
        key=jax.random.key(0),
    )
    again = eqs.transfer(network, mean_field.crystal, mean_field, key=jax.random.key(1))
    assert eqx.tree_equal(again, network)


def test_from_a_twist_to_a_real_function():
    """What was a phase of an orbital is not lost with its imaginary part."""
    old, new = _mean_field(twist=(0.25, 0.1, 0.0)), _mean_field()
    for network in _networks(old):
        phase = 0.7
        parts = lambda f: [
            part.weight
            for x in _bare(f).bloch.orbital_sets
            for part in (x.real_part, x.imaginary_part)
        ]
        cos, sin = np.cos(phase), np.sin(phase)
        turned = []
        for re in parts(network)[::2]:
            turned += [cos * re, sin * re]
        network = eqx.tree_at(parts, network, turned)
        found = eqs.transfer(network, new.crystal, new, key=jax.random.key(1))
        assert _bare(found).real
        sets = zip(
            _bare(found).bloch.orbital_sets,
            _bare(network).bloch.orbital_sets,
            strict=True,
        )
        for one, before in sets:
            assert one.imaginary_part is None
            whole = before.real_part.weight / cos
            np.testing.assert_allclose(
                np.abs(one.real_part.weight), np.abs(whole), rtol=1e-6
            )


def test_real_parts_are_not_zero_at_their_nucleus():
    """An orbital around hydrogen has the phase i there at a k-point at the boundary."""
    old, new = _mean_field(), _mean_field(supercell=(2, 1, 1))
    network, _ = _networks(old)
    # Nothing but an envelope around hydrogen.
    up, down = network.bloch.orbital_sets
    weights = jnp.zeros_like(up.weights).at[:, 1].set(1)
    sets = [eqx.tree_at(lambda f: f.weights, x, weights) for x in (up, down)]
    network = eqx.tree_at(lambda f: f.bloch.orbital_sets, network, tuple(sets))
    found = eqs.transfer(network, new.crystal, new, key=jax.random.key(0))
    hydrogen = jnp.asarray(new.crystal.supercell_positions)[1::2]
    electrons = _walkers(new.crystal)[0].at[:2].set(hydrogen + 0.01)
    up, _ = found.orbitals(electrons)
    sizes = np.abs(np.asarray(up))[:, :2]
    kpoints = found.bloch.columns(0).kpoints
    same = np.all(np.isclose(kpoints, kpoints[:1]), axis=1)
    assert np.all(sizes[..., ~same] > 0.3 * sizes[..., same])


def test_errors(lih):
    mean_field = _mean_field()
    network, _ = _networks(mean_field)
    key = jax.random.key(0)

    def moved(crystal, mean_field=mean_field, network=network):
        return eqs.transfer(network, crystal, mean_field, key=key)

    with pytest.raises(ValueError, match="the nuclei .* Li H, got Na H"):
        moved(_crystal(species=("Na", "H")))
    with pytest.raises(ValueError, match="nuclei .* got Li H .*ccecp"):
        moved(_crystal(pseudopotential="ccecp"))
    with pytest.raises(ValueError, match=r"same spins .*\(2, 2\), got \(4, 0\)"):
        moved(_crystal(spin=4), eqs.MeanField.solve(_crystal(spin=4), basis="sto-3g"))
    with pytest.raises(ValueError, match="`mean_field` must belong to `crystal`"):
        moved(_crystal(a=4.3))
    with pytest.raises(ValueError, match="`AbstractBlochNetwork`.* `HartreeFock`"):
        moved(mean_field.crystal, network=eqs.HartreeFock(lih))
