#!/usr/bin/env bash
# PySCF 2.14.0 reads a CIF as its asymmetric unit and does not apply the symmetry
# operations that the file lists: wurtzite GaN has 1 Ga and 1 N instead of 2 and 2, in a
# cell of the right size. Nothing is said; a calculation then runs on another material.
# ASE 3.29.0 reads 4 atoms.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet pyscf==2.14.0 ase==3.29.0
"$scratch/venv/bin/python" - <<'PYTHON'
import io
import ase.io
from pyscf.pbc import gto

# H. Schulz, K. H. Thiemann, Solid State Communications 23, 815 (1977).
cif = """data_gallium_nitride
_cell_length_a 3.190
_cell_length_b 3.190
_cell_length_c 5.189
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
_symmetry_space_group_name_H-M 'P 63 m c'
_symmetry_Int_Tables_number 186
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-y, x-y, z'
'-x+y, -x, z'
'-x, -y, z+1/2'
'y, -x+y, z+1/2'
'x-y, x, z+1/2'
'-y, -x, z'
'-x+y, y, z'
'x, x-y, z'
'y, x, z+1/2'
'x-y, -y, z+1/2'
'-x, -x+y, z+1/2'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Ga1 Ga 0.33333333 0.66666667 0.000
N1 N 0.33333333 0.66666667 0.377
"""
_, atoms = gto.cell.fromstring(cif, "cif")
found = [str(symbol) for symbol, _ in atoms]
right = ase.io.read(io.BytesIO(cif.encode()), format="cif").get_chemical_symbols()
print("PySCF", found, " ASE", right)
assert sorted(right) == ["Ga", "Ga", "N", "N"]
assert found == ["Ga", "N"]
PYTHON
echo "as described"
