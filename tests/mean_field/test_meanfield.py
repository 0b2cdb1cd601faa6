import functools
import json
import logging
import os
import subprocess
import sys

import equinox as eqx
import folx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym import HartreeFock, MeanField
from toys import cart_twist


# Neither orthogonal nor symmetric, so that a transposed matrix is noticed.
_LATTICE = np.array([[3.0, 0.0, 0.0], [0.4, 3.3, 0.0], [0.2, -0.5, 3.6]])
_CHECKERBOARD = [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]
_TRIANGULAR = [[1, 1, 0], [0, 3, 0], [0, 1, 1]]


def _hydrogen(lattice=_LATTICE, cell=(0, 0, 0), **kwargs):
    position = np.array([0.3, 0.1, -0.2]) + np.array(cell) @ lattice
    return eqs.Crystal(lattice, ["H"], cart_positions=[position], unit="bohr", **kwargs)


def _lih(**kwargs):
    return eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom", **kwargs)


@pytest.fixture(scope="module")
def twisted():
    """Open shell, complex, supercell not diagonal, left-handed lattice, nucleus far
    from the origin."""
    crystal = _hydrogen(
        _LATTICE[[1, 0, 2]],
        cell=(2, -3, 1),
        supercell=_TRIANGULAR,
        twist=[0.13, 0.37, 0.21],
    )
    assert crystal.electrons == (2, 1)
    return MeanField.solve(crystal, basis="sto-3g")


def _configuration(crystal, seed=0):
    count = sum(crystal.electrons)
    nuclei = np.resize(crystal.supercell_positions, (count, 3))
    rng = np.random.default_rng(seed)
    return jnp.asarray(nuclei + rng.normal(size=(count, 3)))


def _orbitals_at(mean_field, points):
    """Values of the orbitals of both spins, (points, orbitals)."""
    count = sum(mean_field.crystal.electrons)

    def at_point(point):
        up, down = mean_field.orbitals(jnp.broadcast_to(point, (count, 3)))
        return [m[0] if m.size else jnp.zeros(0, m.dtype) for m in (up, down)]

    return [np.asarray(m) for m in jax.jit(jax.vmap(at_point))(jnp.asarray(points))]


def _in_supercell(mean_field, basis, exp_to_discard):
    """PySCF's supercell at the one k-point of the twist, and the orbitals as
    coefficients of its basis functions, fitted to their values."""
    gto = pytest.importorskip("pyscf.pbc.gto")
    crystal = mean_field.crystal
    cell = gto.Cell()
    cell.a = crystal.supercell.vectors * np.sign(
        np.linalg.det(crystal.supercell.vectors)
    )
    cell.unit, cell.verbose, cell.spin = "B", 0, None
    cell.basis, cell.exp_to_discard = basis, exp_to_discard
    species = crystal.species * crystal.cells
    cell.atom = list(zip(species, crystal.supercell_positions.tolist(), strict=True))
    cell.build(False, False)
    k = cart_twist(crystal)
    rng = np.random.default_rng(1)
    nuclei = rng.choice(crystal.supercell_positions, 4 * cell.nao)
    points = nuclei + rng.normal(size=nuclei.shape)
    shift = rng.integers(-2, 3, nuclei.shape) @ crystal.supercell.vectors
    # The lattice sum without PySCF's cutoffs, which keep too few images here and there.
    molecule = cell.to_mol()
    functions = sum(
        np.exp(1j * (image + shift) @ k)[:, None]
        * molecule.eval_gto("GTOval_sph", points - image)
        for image in crystal.supercell.points_within(35.0)
    )
    coefficients = []
    for values in _orbitals_at(mean_field, points + shift):
        values = values / np.sqrt(crystal.cells)
        fit = np.linalg.lstsq(functions, values, rcond=None)[0]
        np.testing.assert_allclose(functions @ fit, values, rtol=0, atol=1e-8)
        coefficients.append(fit)
    overlap = cell.pbc_intor("int1e_ovlp", kpt=k)
    for c in coefficients:
        unity = np.eye(c.shape[1])
        np.testing.assert_allclose(c.conj().T @ overlap @ c, unity, atol=2e-7)
    return cell, coefficients


def _energy_in_supercell(mean_field, basis="sto-3g", exp_to_discard=0.1):
    """Energy of the determinant, per primitive cell, by PySCF for the supercell: no
    folding of k-points, and a Madelung constant PySCF is right about."""
    kuhf = pytest.importorskip("pyscf.pbc.scf.kuhf")
    cell, coefficients = _in_supercell(mean_field, basis, exp_to_discard)
    crystal = mean_field.crystal
    k = cart_twist(crystal)
    scf = kuhf.KUHF(cell, k[None], exxdiv="ewald").rs_density_fit()
    density = np.array([[c @ c.conj().T] for c in coefficients])
    return scf.energy_tot(density) / crystal.cells


def test_energy_lih(lih):
    assert abs(lih.energy - -8.45740) < 1e-5


def test_orbitals_lih(lih):
    _in_supercell(lih, "cc-pvdz", 0.1)
    assert lih.occupation.cart_kpoints[0].shape == (2, 3)
    assert not np.any(lih.occupation.cart_kpoints[0])


@pytest.mark.parametrize(
    "crystal",
    [
        _hydrogen(supercell=_CHECKERBOARD),
        pytest.param(
            _hydrogen(supercell=_CHECKERBOARD, spin=-2), marks=pytest.mark.slow
        ),
        _hydrogen(supercell=_TRIANGULAR, charge=1),
    ],
    ids=["closed", "one spin only", "charged"],
)
def test_energy_of_supercell(crystal, capsys):
    mean_field = MeanField.solve(crystal, basis="sto-3g", progress=True)
    shown = capsys.readouterr().err
    assert "Mean field: 1it" in shown and "integrals" in shown and "Ha]" in shown
    # Both fit densities with the same functions, screening integrals differently.
    assert abs(mean_field.energy - _energy_in_supercell(mean_field)) < 2e-7
    # Every k is its own negative.
    psi = jax.eval_shape(HartreeFock(mean_field), _configuration(crystal))
    assert psi.is_real


def test_energy_of_supercell_twisted(twisted):
    assert abs(twisted.energy - _energy_in_supercell(twisted)) < 2e-7
    x = _configuration(twisted.crystal)
    assert not jax.eval_shape(HartreeFock(twisted), x).is_real


_compiled = eqx.filter_jit(lambda mean_field, x: mean_field.orbitals(x))


@hypothesis.given(
    st.tuples(*[st.integers(-4, 4)] * 3),
    st.lists(st.floats(-9, 9), min_size=9, max_size=9),
)
@hypothesis.settings(max_examples=50)
def test_bloch(twisted, translation, positions):
    electrons = jnp.asarray(positions).reshape(3, 3)
    shift = np.array(translation) @ twisted.crystal.lattice.vectors
    here = _compiled(twisted, electrons)
    there = _compiled(twisted, electrons + shift[None])
    for k, a, b in zip(twisted.occupation.cart_kpoints, here, there, strict=True):
        # Not 1e-15: Gaussians below 1e-10 are left out, and which ones depends on the
        # cell that rounding assigns to a point on a face.
        expected = np.asarray(a) * np.exp(1j * k @ shift)
        np.testing.assert_allclose(b, expected, rtol=0, atol=1e-9)


def test_kpoints_fold_to_the_twist(twisted):
    crystal = twisted.crystal
    for k, count in zip(
        twisted.occupation.cart_kpoints, crystal.electrons, strict=True
    ):
        assert k.shape == (count, 3)
        turns = (k - cart_twist(crystal)) @ crystal.supercell.vectors.T / (2 * np.pi)
        np.testing.assert_allclose(turns, np.round(turns), atol=1e-10)


def test_hartree_fock(lih):
    psi = HartreeFock(lih)
    assert psi.crystal is lih.crystal
    assert not jax.tree.leaves(eqs.partition(psi)[0])
    x = _configuration(lih.crystal)
    up, down = _compiled(lih, x)
    amplitude = np.linalg.det(up) * np.linalg.det(down)
    found = eqx.filter_jit(psi)(x)
    np.testing.assert_allclose(found.sign * jnp.exp(found.log), amplitude)
    exchanged = eqx.filter_jit(psi)(x[jnp.array([1, 0, 2, 3])])
    np.testing.assert_allclose(exchanged.sign, -found.sign)
    np.testing.assert_allclose(exchanged.log, found.log)


def test_dtype_follows_the_electrons(lih, twisted):
    for mean_field, dtype in (lih, jnp.float32), (twisted, jnp.complex64):
        x = _configuration(mean_field.crystal)
        single = _compiled(mean_field, x.astype(jnp.float32))
        for a, b in zip(single, _compiled(mean_field, x), strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_forward_laplacian(twisted):
    x = _configuration(twisted.crystal)

    def log_psi(x):
        return HartreeFock(twisted)(x).complex_log

    gradient = jax.jacfwd(log_psi)
    expected = jnp.einsum("iaia", jax.jit(jax.jacfwd(gradient))(x))
    # folx promotes inside.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        found = jax.jit(folx.forward_laplacian(log_psi))(x).laplacian
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_far_in_the_vacuum(lih):
    """Amplitudes there are tiny, not zero."""
    crystal = eqs.Crystal.hydrogen_chain(spacing=2.0, vacuum=40.0, unit="bohr")
    mean_field = MeanField.solve(crystal, basis="sto-3g")
    x = jnp.array([[0.3, 20.0, 0.1], [0.0, 0.0, 19.9]])
    psi = eqx.filter_jit(HartreeFock(mean_field))(x)
    assert np.isfinite(psi.log) and psi.log < -50


def _same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


@pytest.mark.parametrize("name", ["lih", "twisted"])
def test_save_and_load(name, tmp_path, request):
    mean_field = request.getfixturevalue(name)
    path = tmp_path / "mean field"
    mean_field.save(path)
    mean_field.save(path)
    assert os.listdir(tmp_path) == ["mean field"]
    _same(MeanField.load(path), mean_field)


_LOAD = """
import sys
sys.modules["pyscf.pbc"] = None
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
from eqsym import MeanField
mean_field = MeanField.load(sys.argv[1])
x = jax.numpy.asarray(np.load(sys.argv[2]))
np.savez(sys.argv[3], *mean_field.orbitals(x))
"""


def test_load_without_the_solver(twisted, tmp_path):
    x = _configuration(twisted.crystal)
    twisted.save(tmp_path / "a.npz")
    np.save(tmp_path / "x.npy", x)
    paths = [str(tmp_path / name) for name in ("a.npz", "x.npy", "y.npz")]
    subprocess.run([sys.executable, "-c", _LOAD, *paths], check=True)
    with np.load(paths[2]) as found:
        for a, b in zip(found.values(), twisted.orbitals(x), strict=True):
            np.testing.assert_array_equal(a, b)


_SOLVE = """
import sys
import eqsym as eqs
from eqsym import MeanField
assert "pyscf" not in sys.modules
crystal = eqs.Crystal([[3, 0, 0], [0, 4, 0], [0, 0, -5]], ["He"],
                      cart_positions=[[0, 0, 0]], unit="bohr", supercell=[2, 1, 1])
MeanField.solve(crystal, basis="sto-3g")
"""


def test_solve_is_silent_and_tidy(tmp_path):
    environment = {**os.environ, "PYSCF_TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _SOLVE],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir(tmp_path) == []


def test_solve_keeps_its_result(tmp_path):
    """In a folder that it makes, and reads it again if settings and crystal agree."""
    path = tmp_path / "new" / "mean_field.npz"
    crystal = _hydrogen(supercell=_CHECKERBOARD)
    solve = functools.partial(MeanField.solve, path=path)
    solved = solve(crystal, basis="sto-3g")
    _same(solve(crystal, basis={"H": "STO3G", "He": "cc-pvdz"}), solved)
    for other, named in [
        ({"basis": "nonsense"}, "`basis` 'sto-3g', asked for 'nonsense'"),
        ({}, "`basis` 'sto-3g', asked for 'cc-pvdz'"),
        (
            {"basis": "sto-3g", "exp_to_discard": None},
            "`exp_to_discard` 0.1, asked for None",
        ),
        (
            {"basis": "sto-3g", "unrestricted": True, "moments": [0.5]},
            "`unrestricted` False, asked for True; `moments` None, asked for .0.5,.",
        ),
        (
            {"basis": "sto-3g", "smearing": 0.01},
            "`smearing` None, asked for 0.01",
        ),
    ]:
        with pytest.raises(ValueError, match=named):
            solve(crystal, **other)
    with pytest.raises(ValueError, match="Name another file"):
        solve(_hydrogen(), basis="sto-3g")
    # The vacuum changes no energy: the file is of the same crystal, and keeps its own.
    slab = _hydrogen(supercell=_CHECKERBOARD, vacuum=(2,))
    found = solve(slab, basis="sto-3g")
    assert (found.crystal.vacuum, found.energy) == ((2,), solved.energy)
    found.save(path)
    assert MeanField.load(path).crystal == slab


def test_files_of_other_versions(twisted, tmp_path):
    path = tmp_path / "a.npz"
    twisted.save(path)
    with np.load(path) as archive:
        stored = dict(archive)
    header = json.loads(str(stored["header"]))
    header["format"] = "eqsym mean field, version 1"
    stored["header"] = np.array(json.dumps(header))
    np.savez(path, **stored)
    with pytest.raises(ValueError, match="version 1'.*Solve again"):
        MeanField.load(path)


def test_damaged_files(twisted, tmp_path):
    path = tmp_path / "a.npz"
    twisted.save(path)
    content = path.read_bytes()
    foreign = tmp_path / "foreign.npz"
    np.savez(foreign, x=np.zeros(3))
    damaged = [
        content[: len(content) // 2],
        content[:-7],
        b"",
        b"not an archive",
        content[:2000] + bytes(100) + content[2100:],
        foreign.read_bytes(),
    ]
    for number, data in enumerate(damaged):
        broken = tmp_path / f"broken{number}.npz"
        broken.write_bytes(data)
        with pytest.raises(ValueError, match=f"`path`: .*broken{number}.npz"):
            MeanField.load(broken)
    with pytest.raises(FileNotFoundError):
        MeanField.load(tmp_path / "nothing.npz")


def _chain(atoms, length, spacing, **kwargs):
    """A supercell of `length` atoms, in cells of `atoms`."""
    return eqs.Crystal.hydrogen_chain(
        spacing=spacing,
        vacuum=10.0,
        atoms=atoms,
        unit="bohr",
        supercell=(length // atoms, 1, 1),
        **kwargs,
    )


def _solved(crystal, caplog, **kwargs):
    """With the warnings, as one text."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="eqsym"):
        mean_field = MeanField.solve(crystal, basis="sto-3g", **kwargs)
    return mean_field, caplog.text


@pytest.mark.parametrize("atoms", [1, 2, 4])
def test_open_shell_warns_in_every_description(atoms, caplog):
    """Four k-points on a ring, two orbitals: k = 1/4 and -1/4 are degenerate, whether
    they are k-points, at the border of the zone, or folded to its center. At the twist
    1/2 they are at 1/8 and -1/8, and those at 3/8 are empty."""
    mean_field, warned = _solved(_chain(atoms, 4, 1.8), caplog)
    assert mean_field.gap == 0
    assert "degenerate" in warned
    assert "halves, [0.5, 0.0, 0.0] has the largest gap, 0.9" in warned


def test_closed_shells_can_be_demanded(tmp_path, caplog):
    crystal, path = _chain(1, 4, 1.8), tmp_path / "a.npz"
    solve = functools.partial(MeanField.solve, basis="sto-3g", path=path)
    message = (
        r"`closed_shell`: at the twist \[0.0, 0.0, 0.0\] the shell is open, with a gap "
        r"of 0 Ha .* Choose another twist, .*\[0.5, 0.0, 0.0\] has the largest gap"
    )
    with pytest.raises(ValueError, match=message):
        solve(crystal, closed_shell=True)
    assert not path.exists()
    solve(crystal)
    with pytest.raises(ValueError, match=message):
        solve(crystal, closed_shell=True)
    closed = _chain(1, 4, 1.8, twist=(0.5, 0, 0))
    mean_field, warned = _solved(closed, caplog, closed_shell=True)
    assert mean_field.gap > 0.9 and mean_field.real and "degenerate" not in warned


@pytest.mark.slow
def test_smearing(caplog):
    """PySCF's own, whose exchange with images is right for this supercell; then the
    lowest levels are occupied."""
    khf = pytest.importorskip("pyscf.pbc.scf.khf")
    from pyscf.pbc.scf.addons import smearing_

    width = 0.4
    crystal = _chain(1, 4, 1.8, twist=(0.3, 0, 0))
    mean_field, warned = _solved(crystal, caplog, smearing=width)
    assert not warned
    cell = pytest.importorskip("pyscf.pbc.gto").Cell()
    cell.a, cell.unit = crystal.lattice.vectors, "B"
    cell.atom = [("H", crystal.cart_positions[0].tolist())]
    cell.basis, cell.exp_to_discard = "sto-3g", 0.1
    cell.spin, cell.verbose = None, 0
    cell.build(False, False)
    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    scf = khf.KRHF(cell, kpoints, exxdiv="ewald").rs_density_fit()
    scf.conv_tol, scf.chkfile = 1e-10, None
    smearing_(scf, sigma=width, method="fermi").kernel()
    occupied = np.array(scf.mo_occ)
    assert np.max(occupied) < 1.99
    order = np.argsort(np.ravel(scf.mo_energy))
    whole = np.zeros(4)
    whole[order[:2]] = 2
    density = scf.make_rdm1(scf.mo_coeff, whole.reshape(4, 1))
    assert abs(scf.energy_tot(density) - mean_field.energy) < 1e-6
    scf.with_df._cderi_to_save.close()
    gap = np.ravel(scf.mo_energy)[order[2]] - np.ravel(scf.mo_energy)[order[1]]
    assert abs(gap - mean_field.gap) < 1e-5
    # Levels that cross, and stay degenerate: whole electrons, and a warning.
    opened, warned = _solved(_chain(1, 4, 1.8), caplog, smearing=width)
    assert opened.gap == 0 and "degenerate" in warned
    assert opened.occupation.cart_kpoints[0].shape == (2, 3)


@pytest.fixture(scope="module")
def paired():
    """Three k-points, of which two are k and -k."""
    crystal = _chain(2, 6, 1.8)
    return MeanField.solve(crystal, basis="sto-3g")


def test_real_orbitals_at_k_and_minus_k(paired, tmp_path):
    """Real and imaginary parts of Bloch orbitals; the determinants are the same, and so
    are local energies."""
    crystal = paired.crystal
    assert paired.real and not np.all(paired.occupation.cart_kpoints[0] == 0)
    x = _configuration(crystal)
    shift = crystal.lattice.vectors[0]
    functions = [HartreeFock(paired), HartreeFock(paired, real=False)]
    hamiltonian = eqs.Hamiltonian(crystal, kinetic=eqs.HessianLaplacian())

    @eqx.filter_jit
    def values(f, x):
        places = jnp.stack([x, x + jnp.asarray(shift)[None]])
        orbitals = jax.vmap(lambda e: f.mean_field.orbitals(e, real=f.real))(places)
        return orbitals, jax.vmap(f)(places), hamiltonian(f, x).total

    (real, psi, energy), (bloch, phi, same) = (
        jax.tree.map(np.asarray, values(f, x)) for f in functions
    )
    assert psi.is_real and not phi.is_real
    for k, a, b in zip(paired.occupation.cart_kpoints, real, bloch, strict=True):
        np.testing.assert_allclose(b[1], b[0] * np.exp(1j * k @ shift), atol=1e-9)
        np.testing.assert_allclose(k[1], -k[2])
        np.testing.assert_allclose(a[0][:, 0], b[0][:, 0].real, atol=1e-12)
        root = np.sqrt(2)
        np.testing.assert_allclose(a[0][:, 1], root * b[0][:, 1].real, atol=1e-12)
        np.testing.assert_allclose(a[0][:, 2], root * b[0][:, 1].imag, atol=1e-12)
        np.testing.assert_allclose(b[0][:, 2], b[0][:, 1].conj(), atol=1e-12)
    np.testing.assert_allclose(psi.log, phi.log, rtol=1e-12)
    np.testing.assert_allclose(psi.sign[1], psi.sign[0])
    np.testing.assert_allclose(phi.sign[1], phi.sign[0])
    np.testing.assert_allclose(energy, same, rtol=1e-9)
    paired.save(tmp_path / "a.npz")
    _same(MeanField.load(tmp_path / "a.npz"), paired)


def test_open_shells_have_no_real_orbitals(twisted, caplog):
    with pytest.raises(ValueError, match="`real` must be False or None at the twist"):
        HartreeFock(twisted, real=True)
    opened, _ = _solved(_chain(1, 4, 1.8), caplog)
    for ask in (
        lambda: HartreeFock(opened, real=True),
        lambda: opened.orbitals(_configuration(opened.crystal), real=True),
    ):
        with pytest.raises(ValueError, match="k and -k, because the shell is open"):
            ask()


def test_closed_shell_is_the_same_in_every_description(caplog):
    energies = []
    for atoms in (1, 2, 6):
        mean_field, warned = _solved(_chain(atoms, 6, 1.8), caplog)
        assert not warned
        energies.append(mean_field.energy / atoms)
    np.testing.assert_allclose(energies, energies[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("atoms", [1, 2, 6])
def test_warns_of_a_lower_unrestricted_determinant(atoms, caplog):
    """Even if its order does not fit the primitive cell."""
    warned = _solved(_chain(atoms, 6, 4.0), caplog)[1]
    assert "different orbitals for the spins" in warned
    assert "`unrestricted=True`" in warned
    assert ("several times as large" in warned) == (atoms == 1)


def _antiferromagnet(cells):
    """By plain PySCF, which is right about diagonal supercells: energies per cell of
    two atoms, restricted and not."""
    gto = pytest.importorskip("pyscf.pbc.gto")
    from pyscf.pbc import scf

    cell = gto.Cell()
    cell.a, cell.unit, cell.verbose = np.diag([8.0, 10.0, 10.0]), "B", 0
    cell.atom = [("H", (0, 0, 0)), ("H", (4, 0, 0))]
    cell.basis, cell.exp_to_discard = "sto-3g", 0.1
    cell.build(False, False)
    density = np.zeros((2, cells, 2, 2))
    density[0, :, 0, 0] = density[1, :, 1, 1] = 1
    kpoints = cell.make_kpts([cells, 1, 1])
    energies = []
    for solver, start in ((scf.KRHF, density.sum(axis=0)), (scf.KUHF, density)):
        fitted = solver(cell, kpoints, exxdiv="ewald").rs_density_fit()
        fitted.kernel(start)
        energies.append(float(fitted.e_tot))
    return energies


@pytest.mark.parametrize(
    "cells, gain, moments",
    [
        (1, 0.034, (1, -1)),
        pytest.param(3, 0.086, None, marks=pytest.mark.slow),
    ],
)
def test_unrestricted_energy(cells, gain, moments, caplog):
    """With moments, and without: an order is found."""
    restricted, expected = _antiferromagnet(cells)
    assert gain < (restricted - expected) / 2 < gain + 0.001
    crystal = _chain(2, 2 * cells, 4.0)
    assert abs(_solved(crystal, caplog)[0].energy - restricted) < 1e-6
    found, warned = _solved(crystal, caplog, unrestricted=True, moments=moments)
    assert not warned
    assert abs(found.energy - expected) < 1e-6


def test_an_order_has_no_open_shell(caplog):
    """Without order the shell is open; the order found is the one of the moments. At
    one atom per cell there is none."""
    crystal = _chain(4, 4, 1.8)
    kwargs = {"unrestricted": True}
    found, warned = _solved(crystal, caplog, **kwargs)
    ordered, _ = _solved(crystal, caplog, moments=(1, -1, 1, -1), **kwargs)
    assert not warned
    assert abs(found.energy - ordered.energy) < 1e-6
    assert "degenerate" in _solved(_chain(1, 4, 1.8), caplog, **kwargs)[1]


@pytest.mark.slow
def test_finds_an_order_far_away(caplog):
    """Extrapolation leads a small rotation back to the saddle point, at -74.42061. The
    energy is the one with `moments`."""
    crystal = eqs.Crystal.graphene(a=4.0, vacuum=7.0, unit="angstrom")
    found, warned = _solved(crystal, caplog, unrestricted=True)
    assert not warned
    assert abs(found.energy - -74.426177) < 1e-5


@pytest.mark.parametrize("moments, advised", [(None, "`moments`"), ((0, 0), "other")])
def test_says_if_it_stays_on_a_saddle_point(moments, advised, caplog, monkeypatch):
    monkeypatch.setattr("eqsym._mean_field.solver._FOLLOWED", 0)
    kwargs = {"unrestricted": True, "moments": moments}
    warned = _solved(_chain(2, 2, 4.0), caplog, **kwargs)[1]
    assert "has a lower energy" in warned and "did not reach" in warned
    assert f"Solve with {advised}" in warned and "or else another supercell" in warned


def test_says_if_it_cannot_check(caplog, monkeypatch):
    monkeypatch.setattr("eqsym._mean_field.stability._LARGEST", 1)
    assert "too many orbitals to check" in _solved(_chain(2, 2, 4.0), caplog)[1]


def test_moments_choose_the_order():
    """Of two solutions that are mirror images, the one that is asked for."""
    at_nuclei = []
    for sign in (1, -1):
        mean_field = MeanField.solve(
            _chain(2, 2, 4.0),
            basis="sto-3g",
            unrestricted=True,
            moments=(sign, -sign),
        )
        up, down = _orbitals_at(mean_field, mean_field.crystal.cart_positions)
        at_nuclei.append((np.abs(up) ** 2 - np.abs(down) ** 2)[:, 0])
    one, other = at_nuclei
    assert one[0] > 0.1
    np.testing.assert_allclose(one, -one[::-1], atol=1e-6)
    np.testing.assert_allclose(one, -other, atol=1e-6)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"moments": (1, -1)}, "`moments` need .*`unrestricted=True`"),
        ({"unrestricted": True, "moments": (1,)}, "`moments` must be one .* 2 atoms"),
        ({"unrestricted": True, "moments": (np.nan, 0)}, "`moments` must be finite"),
        (
            {"unrestricted": True, "moments": (2, -2)},
            "charges of nuclei and cores, .1, 1.",
        ),
        ({"unrestricted": True, "moments": (1, 1)}, "add up to 2 .* `spin` .* 0"),
        ({"exp_to_discard": -1.0}, "`exp_to_discard` must be .* got -1.0"),
    ],
)
def test_bad_settings(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MeanField.solve(_chain(2, 2, 4.0), **kwargs)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"exp_to_discard": None}, "`exp_to_discard` None is linearly"),
        ({"basis": "nonsense"}, "`basis` must be .* got 'nonsense'"),
        ({"basis": {"Li": "sto-3g"}}, "`basis` must be .*'H'"),
        ({"basis": "sto-3g", "exp_to_discard": 5.0}, "leaves 1 functions"),
    ],
)
def test_bad_basis(kwargs, message):
    with pytest.raises(ValueError, match=message):
        MeanField.solve(_lih(), **kwargs)


def test_no_convergence():
    crystal = eqs.Crystal(
        _LATTICE, ["He"], cart_positions=[[0, 0, 0]], unit="bohr", supercell=[1, 1, 2]
    )
    with pytest.raises(RuntimeError, match="did not converge in 2 .* `max_cycles`"):
        MeanField.solve(crystal, max_cycles=2)
