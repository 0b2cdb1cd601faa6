#!/usr/bin/env bash
# PySCF 2.14.0: whether a restricted Hartree-Fock solution of a crystal is called stable
# depends on how the crystal is divided into cells. Six hydrogen atoms in a ring under
# periodic boundary conditions, 4 Bohr apart: one atom with 6 k-points, two with 3, six
# with 1, all with the same energy per atom. `stability(external=True)` says stable for
# the first and unstable for the other two: it tries rotations that keep crystal momentum
# only, and the antiferromagnetic one, which doubles the period of the chain, changes it
# in the smallest cell. So "stable" does not mean that an unrestricted solution of the
# same supercell is not lower.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet pyscf==2.14.0
"$scratch/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from pyscf.pbc import df, gto, scf

energies, stable = {}, {}
for atoms in (1, 2, 6):
    cell = gto.Cell()
    cell.a = np.diag([4.0 * atoms, 10.0, 10.0])
    cell.atom = [("H", (4.0 * i, 0.0, 0.0)) for i in range(atoms)]
    cell.unit, cell.basis, cell.verbose = "B", "6-31g", 0
    # An odd number of electrons in a cell is fine with an even number of k-points.
    cell.spin = None
    cell.build()
    mf = scf.KRHF(cell, cell.make_kpts([6 // atoms, 1, 1]), exxdiv="ewald")
    mf.with_df = df.RSDF(cell, mf.kpts)
    mf.conv_tol = 1e-10
    energies[atoms] = mf.kernel() / atoms
    assert mf.converged
    found = mf.stability(internal=False, external=True, return_status=True)
    stable[atoms] = bool(found[3])
    print(f"{atoms} atoms: {energies[atoms]:.6f} Ha per atom, stable: {stable[atoms]}")
assert np.ptp(list(energies.values())) < 1e-5
assert stable == {1: True, 2: False, 6: False}
PYTHON
echo "as described"
