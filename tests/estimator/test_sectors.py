"""Symmetry sectors: against quadrature, the trivial one against `post_hoc`."""

import functools
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from toys import grid, Lattice, walkers, waves


# One electron in a cube, without its symmetry; with the pyritohedral part of it, whose
# irreps are complex; and a complex function.
_CASES = {
    "real": (dict(a=(0.6, 0.2, -0.3), c=(0.2, 0.0, 0.4)), None),
    "complex irreps": (dict(a=(0.6, 0.2, -0.3), c=(0.2, 0.0, 0.4)), 200),
    "complex": (dict(a=(0.5, 0.2, -0.2), b=(0.3, -0.4, 0.2), c=(0.1, 0.2, 0.0)), None),
}
_SETTINGS = dict(burn_in=15, sampler=eqs.Metropolis(10, width=1.0), progress=False)


@functools.cache
def _case(name):
    wavefunction = waves(**_CASES[name][0])
    crystal, number = wavefunction.crystal, _CASES[name][1]
    group = (
        eqs.SpaceGroup.of(crystal)
        if number is None
        else eqs.SpaceGroup.from_number(crystal, number)
    )
    return wavefunction, Lattice(crystal), group


@functools.cache
def _exact(name):
    """Weight and energy of each sector: `<P f|H f> / <P f|P f>` on a grid."""
    wavefunction, hamiltonian, group = _case(name)
    places = grid(wavefunction.crystal, 12)

    def amplitude(x):
        value = wavefunction(x)
        return value.sign * jnp.exp(value.log).astype(value.sign.dtype)

    local = jax.vmap(lambda x: hamiltonian.local_energy(wavefunction, x).total)
    f = np.asarray(jax.vmap(amplitude)(places))
    hf = f * np.asarray(eqx.filter_jit(local)(places))
    images = eqx.filter_jit(
        jax.vmap(lambda x: jax.vmap(amplitude)(group.apply_inverse(x)))
    )
    values = np.asarray(images(places))
    norm, found = np.mean(np.abs(f) ** 2), {}
    for irrep in eqs.irreps(group):
        factors = irrep.dimension / group.order * irrep.characters.conj()
        part = values @ factors
        weight = np.mean(np.abs(part) ** 2)
        energy = np.mean(part.conj() * hf) / weight
        found[irrep.label] = weight / norm, energy.real
    return np.real(np.mean(f.conj() * hf)) / norm, found


@functools.cache
def _sectors(name, local_energies):
    wavefunction, hamiltonian, group = _case(name)
    return eqs.sectors(
        wavefunction,
        hamiltonian,
        group,
        eqs.Chains(
            walkers(wavefunction.crystal, 200),
            key=jax.random.key(1),
            steps=15,
            **_SETTINGS,
        ),
        local_energies=local_energies,
    )


@pytest.mark.parametrize("local_energies", [1, 4, 48])
@pytest.mark.parametrize("name", _CASES)
def test_sectors(name, local_energies):
    """Within 4 standard errors, 0.006 % false alarms each among keys, some 30 numbers
    in a case; weights add up to 1 for every sample."""
    found = _sectors(name, local_energies)
    energy, exact = _exact(name)
    assert abs(found.energy.mean - energy) < 4 * found.energy.error < 0.1
    np.testing.assert_allclose(sum(s.weight.mean for s in found.sectors), 1, rtol=1e-9)
    present = 0
    for sector in found.sectors:
        weight, lowest = exact[sector.label]
        assert abs(sector.weight.mean - weight) < 4 * sector.weight.error + 1e-12
        if sector.energy is None:
            assert weight < 0.01
            continue
        present += 1
        assert abs(sector.energy.mean - lowest) < 4 * sector.energy.error
        assert abs(sector.difference.mean - (lowest - energy)) < (
            4 * sector.difference.error
        )
    assert present >= 4
    assert (found.samples, found.invalid_samples) == (3000, 0)


def test_trivial_sector_is_what_averaging_gives():
    """The same walkers, points and energies as `post_hoc` with the same key."""
    wavefunction, hamiltonian, group = _case("real")
    averaged = eqs.post_hoc(
        wavefunction,
        hamiltonian,
        group,
        eqs.Chains(
            walkers(wavefunction.crystal, 200),
            key=jax.random.key(1),
            steps=15,
            **_SETTINGS,
        ),
        local_energies=4,
        orbit_points=None,
    )
    found = _sectors("real", 4)
    trivial = found["A1g"]
    for one, other in (
        (trivial.weight, averaged.weight),
        (trivial.energy, averaged.averaged.energy),
        (trivial.difference, averaged.difference),
        (found.energy, averaged.plain.energy),
    ):
        np.testing.assert_allclose(one.mean, other.mean, rtol=1e-7)
        np.testing.assert_allclose(one.error, other.error, rtol=1e-5)


def test_a_symmetric_function_has_one_sector():
    wavefunction, hamiltonian, group = _case("real")
    symmetric = eqx.tree_at(
        lambda f: (f.a, f.c), wavefunction, (jnp.full(3, 0.4), jnp.zeros(3))
    )
    found = eqs.sectors(
        symmetric,
        hamiltonian,
        group,
        eqs.Chains(
            walkers(symmetric.crystal, 20), key=jax.random.key(1), steps=3, **_SETTINGS
        ),
        local_energies=2,
    )
    for sector in found.sectors:
        if sector.label == "A1g":
            np.testing.assert_allclose(sector.weight.mean, 1, rtol=1e-10)
            assert abs(sector.difference.mean) < 1e-10
        else:
            assert sector.weight.mean < 1e-12
            assert sector.energy is sector.difference is None


def test_tables():
    found = _sectors("real", 4)
    printed = str(found).splitlines()
    assert len(printed) == 2 + 10
    assert "A1g" in printed[2] and str(found["A1g"].energy) in printed[2]
    stored = json.loads(json.dumps(found.to_dict()))
    assert stored["sectors"]["T1u"]["dimension"] == 3
    assert stored["sectors"]["T1u"]["weight"]["mean"] == found["T1u"].weight.mean
    with pytest.raises(KeyError, match="A1g, A2g"):
        found["B1"]


def test_picture():
    found = _sectors("real", 4)
    top, bottom = eqs.plot.sectors(found).axes
    assert top.get_yscale() == "log"
    assert len(top.patches) == sum(s.weight.mean > 0 for s in found.sectors)
    names = [label.get_text() for label in bottom.get_xticklabels()]
    assert names == [s.label for s in found.sectors]
    drawn = np.asarray(bottom.lines[0].get_ydata(), float)
    energies = [s.energy.mean for s in found.sectors if s.energy is not None]
    np.testing.assert_allclose(drawn, energies)


def test_errors():
    wavefunction, hamiltonian, group = _case("real")
    x, key = walkers(wavefunction.crystal, 4), jax.random.key(0)
    with pytest.raises(ValueError, match="`local_energies` must be at least 1"):
        eqs.sectors(
            wavefunction,
            hamiltonian,
            group,
            eqs.Chains(x, key=key),
            local_energies=0,
        )
    other = eqs.SpaceGroup.of(eqs.Crystal.bcc("H", a=5.0, unit="bohr"))
    with pytest.raises(ValueError, match="of `lattice` differs by"):
        eqs.sectors(wavefunction, hamiltonian, other, eqs.Chains(x, key=key))
