"""Densities of Hartree-Fock determinants, sampled, against the density matrices of
PySCF: in reciprocal space by its analytic Fourier transforms, on a grid by its orbitals
on a finer one.

Keys are fixed; with others, one in 100 would have a value off by more than 5 errors,
which have 31 degrees of freedom, among the 500 values compared.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from toys import cart_twist


def _pyscf(crystal, basis, exp_to_discard):
    """The cell, k-point and density matrix of a closed-shell primitive cell."""
    from pyscf.pbc import gto, scf

    kpoint = cart_twist(crystal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell = gto.Cell()
        cell.a, cell.unit = crystal.lattice.vectors, "B"
        cell.atom = list(
            zip(crystal.species, crystal.cart_positions.tolist(), strict=True)
        )
        cell.basis, cell.exp_to_discard = basis, exp_to_discard
        cell.charge, cell.verbose = crystal.charge, 0
        cell.build(dump_input=False, parse_arg=False)
        solver = scf.RHF(cell, kpt=kpoint, exxdiv="ewald").rs_density_fit()
        solver.conv_tol = 1e-9
        solver.chkfile = None
        solver.kernel()
        dm = np.asarray(solver.make_rdm1())
    assert solver.converged
    return cell, kpoint, dm


def _fourier(cell, kpoint, dm, vectors):
    from pyscf.pbc.df import ft_ao

    pairs = ft_ao.ft_aopair(cell, vectors, kpti_kptj=np.array([kpoint, kpoint]))
    return np.einsum("gij,ji->g", pairs, dm)


def _on_grid(cell, kpoint, dm, density, fine):
    """Means over the regions nearest to grid points, by uniform points of the cell."""
    frac = np.stack(np.meshgrid(*[(np.arange(fine) + 0.5) / fine] * 3), -1)
    points = density.lattice.to_cartesian(frac.reshape(-1, 3))
    orbitals = cell.pbc_eval_gto("GTOval", points, kpt=kpoint)
    values = np.einsum("pi,ij,pj->p", orbitals, dm, orbitals.conj()).real
    weights = jnp.asarray(values / len(values))[:, None, None]
    one = jnp.asarray(points)[:, None, None]
    # As many configurations of one electron: only where the points are is used.
    counted = eqs.Density(_one_electron(density.crystal), density.shape)
    return counted.result(np.asarray(counted.total(one, weights)))[0] * (
        density.lattice.volume
    )


def _one_electron(crystal):
    charge = sum(crystal.electrons) + crystal.charge - 1
    return eqs.Crystal(
        crystal.lattice.vectors,
        crystal.species,
        cart_positions=crystal.cart_positions,
        unit="bohr",
        charge=charge,
    )


def _sampled(mean_field, observables, *, walkers, steps, group=None):
    place, chain = jax.random.split(jax.random.key(0))
    crystal = mean_field.crystal
    return eqs.observe(
        eqs.HartreeFock(mean_field),
        observables,
        eqs.Chains(
            eqs.initial_walkers(crystal, walkers, key=place).astype(jnp.float32),
            key=chain,
            steps=steps,
            burn_in=30,
            sampler=eqs.Metropolis(6, width=0.4),
            progress=False,
        ),
        group=group,
    )


def _check(found, expected, most):
    assert found.invalid_samples == 0
    parts = (np.real, np.imag) if np.iscomplexobj(found.mean) else (np.real,)
    assert np.max(np.abs(found.error)) < most
    for part in parts:
        gaps, errors = part(found.mean - expected), part(found.error)
        seen = errors > 0
        assert np.mean(seen) > 0.9
        assert np.max(np.abs(gaps[seen] / errors[seen])) < 5


# No symmetry at all, and complex orbitals.
_TWISTED = eqs.Crystal(
    [[5.0, 0.3, 0.0], [0.8, 4.4, 0.0], [-0.2, 1.5, 4.8]],
    ["He", "H"],
    cart_positions=[[0.3, 0.1, -0.2], [1.6, 0.5, 0.4]],
    unit="bohr",
    charge=1,
    twist=[0.13, 0.37, 0.21],
)


@pytest.mark.slow
def test_twisted_density():
    mean_field = eqs.MeanField.solve(_TWISTED, basis="6-31g", exp_to_discard=None)
    cell, kpoint, dm = _pyscf(_TWISTED, "6-31g", None)
    observables = {
        "fourier": eqs.FourierDensity(_TWISTED, 3.5),
        "density": eqs.Density(_TWISTED, (5, 5, 5)),
    }
    found = _sampled(mean_field, observables, walkers=800, steps=40)
    fourier = _fourier(cell, kpoint, dm, observables["fourier"].vectors)
    assert np.max(np.abs(fourier.imag)) > 0.3
    _check(found["fourier"], fourier, 0.03)
    density = _on_grid(cell, kpoint, dm, observables["density"], 30)
    _check(found["density"], density, 0.02)


@pytest.mark.slow
def test_lithium_hydride(lih):
    cell, kpoint, dm = _pyscf(lih.crystal, "cc-pvdz", 0.1)
    group = eqs.SpaceGroup.of(lih.crystal)
    observables = {"fourier": eqs.FourierDensity(lih.crystal, 6.0)}
    found = _sampled(lih, observables, walkers=800, steps=60, group=group)["fourier"]
    fourier = _fourier(cell, kpoint, dm, observables["fourier"].vectors)
    # The determinant is symmetric; its density is real, and 0 for no G.
    np.testing.assert_allclose(found.mean.imag, 0, atol=1e-5)
    assert found.invalid_samples == 0 and np.max(found.error.real) < 0.02 < np.min(
        fourier.real
    )
    assert np.max(np.abs((found.mean - fourier).real) / found.error.real) < 5
