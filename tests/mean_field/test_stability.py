"""The second variation of the energy: against differences of energies, and against the
same crystal described by another cell."""

import numpy as np
import pytest
import scipy.linalg

import eqsym as eqs
from eqsym._mean_field import solver, stability


def _inside(monkeypatch, check, crystal, **kwargs):
    """Calls `check(scf, determinant, integrals, image)` while integrals are there."""
    original = solver._instabilities

    def spy(scf, crystal, image):
        found = []

        def instead(determinant, integrals, image):
            check(scf, determinant, integrals, image)
            return found

        monkeypatch.setattr(solver, "instabilities", instead)
        return original(scf, crystal, image)

    monkeypatch.setattr(solver, "_instabilities", spy)
    eqs.MeanField.solve(crystal, **kwargs)
    monkeypatch.undo()


def _matrices(determinant, integrals, image):
    """For every change of crystal momentum; exchange and direct term."""
    fitted = [stability._transformed(c, integrals) for c in determinant.coefficients]
    table = stability._shift_table(determinant.frac_kpoints)
    rotations = [stability._Rotations(determinant, fitted, q) for q in table]
    back = np.argmin(table, axis=1)
    assert np.all(table[np.arange(len(table)), back] == 0)
    return rotations, [
        stability._second_variation(there, rotations[back[q]], image)
        for q, there in enumerate(rotations)
    ]


@pytest.mark.slow
def test_second_variation_of_the_energy(monkeypatch):
    """Three k-points, complex orbitals, more spin-up than spin-down electrons."""
    crystal = eqs.Crystal(
        [[0.4, 3.3, 0.0], [3.0, 0.0, 0.0], [0.2, -0.5, 3.6]],
        ["H"],
        cart_positions=[[0.3, 0.1, -0.2]],
        unit="bohr",
        supercell=[[1, 1, 0], [0, 3, 0], [0, 1, 1]],
        twist=[0.13, 0.37, 0.21],
    )
    compared = []

    def check(scf, determinant, integrals, image):
        rotations, matrices = _matrices(determinant, integrals, image)
        rng = np.random.default_rng(0)
        x = rng.normal(size=(rotations[0].count, 2)) @ [1, 1j]
        both = np.concatenate([x, x.conj()])
        exchange, direct = matrices[0]
        expected = (both.conj() @ (exchange + direct) @ both).real / 2 / crystal.cells

        def energy(angle):
            rotated = solver._rotated(scf, rotations[0].split(x), angle, True)
            return scf.energy_tot(scf.make_rdm1(rotated, scf.mo_occ))

        step = 1e-3
        found = (energy(step) + energy(-step) - 2 * energy(0.0)) / (2 * step**2)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
        compared.append(expected)

    _inside(monkeypatch, check, crystal, basis="6-31g")
    assert len(compared) == 1 and abs(compared[0]) > 0.1


def test_curvatures_do_not_depend_on_the_cell(monkeypatch):
    """A supercell of a chain, as six cells of one atom and as two of three: changes of
    crystal momentum together have the same curvatures."""
    spectra = []

    def check(scf, determinant, integrals, image):
        _, matrices = _matrices(determinant, integrals, image)
        for factor in (0.0, 2.0):
            values = [np.linalg.eigvalsh(a + factor * b) for a, b in matrices]
            spectra.append(np.sort(np.concatenate(values)))

    for atoms in (1, 3):
        crystal = eqs.Crystal.hydrogen_chain(
            spacing=1.8,
            vacuum=8.0,
            atoms=atoms,
            unit="bohr",
            supercell=(6 // atoms, 1, 1),
        )
        _inside(monkeypatch, check, crystal, basis="sto-3g")
    # 3 occupied and 3 empty orbitals, in both blocks.
    assert len(spectra[0]) == 18
    for one, other in zip(spectra[:2], spectra[2:], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("real", [True, False])
def test_lowest_rotation(real):
    """Lowers the form X+ A X + Re X+ B X* by its curvature."""
    rng = np.random.default_rng(1)

    def random():
        parts = rng.normal(size=(2, 3, 3))
        return parts[0] if real else parts[0] + 1j * parts[1]

    a, b = random(), random()
    a, b = a + a.conj().T, b + b.T
    matrix = np.block([[a, b], [b.conj(), a.conj()]]).astype(np.complex128)
    value, (x, *_) = stability._lowest(matrix, 3)
    if real:
        assert not np.iscomplexobj(x)
        np.testing.assert_allclose(value, scipy.linalg.eigvalsh(a + b)[0])
    else:
        np.testing.assert_allclose(value, np.linalg.eigvalsh(matrix)[0])
    assert value < 0
    form = (x.conj() @ a @ x + x.conj() @ b @ x.conj()).real
    np.testing.assert_allclose(form, value * np.linalg.norm(x) ** 2)
