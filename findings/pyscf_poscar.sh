#!/usr/bin/env bash
# PySCF 2.14.0 reads three kinds of valid POSCAR files wrongly, without a word; ASE 3.29.0
# reads them as VASP does (VASP manual, page "POSCAR"):
# 1. Species that come back ("Fe O Fe"): the second block of Fe is dropped, and its atoms
#    are missing. VASP takes the blocks one after the other.
# 2. Cartesian positions with a scale other than 1: VASP scales lattice and positions,
#    PySCF the lattice alone.
# 3. A negative scale, which is the volume of the cell in cubic Angstrom: PySCF multiplies
#    the vectors by it, here to a cell of -64 Angstrom instead of 4.
# Seen: 2 atoms instead of 3; the second atom at 0.5 instead of 1.0 Angstrom; a = -64.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet pyscf==2.14.0 ase==3.29.0
"$scratch/venv/bin/python" - <<'PYTHON'
import io
import ase.io
import numpy as np
from pyscf.pbc import gto

repeated = """repeated species
1.0
4 0 0
0 4 0
0 0 4
Fe O Fe
1 1 1
Direct
0 0 0
0.5 0.5 0.5
0.5 0.5 0
"""
two = """hydrogen
{scale}
{a} 0 0
0 {a} 0
0 0 {a}
H
2
{mode}
0 0 0
{x} {x} {x}
"""
scaled = two.format(scale="2.0", a="2.0", mode="Cartesian", x="0.5")
volume = two.format(scale="-64.0", a="1.0", mode="Direct", x="0.25")


def pyscf(text):
    lattice, atoms = gto.cell.fromstring(text, "poscar")
    return np.array(lattice), [str(a[0]) for a in atoms], np.array([a[1] for a in atoms])


def ase_(text):
    atoms = ase.io.read(io.StringIO(text), format="vasp")
    return atoms.cell[:], atoms.get_chemical_symbols(), atoms.positions


print("PySCF", pyscf(repeated)[1], " ASE", ase_(repeated)[1])
assert ase_(repeated)[1] == ["Fe", "O", "Fe"]
assert pyscf(repeated)[1] == ["Fe", "O"]

print("PySCF", pyscf(scaled)[2][1], " ASE", ase_(scaled)[2][1])
assert np.allclose(ase_(scaled)[2][1], 1.0)
assert np.allclose(pyscf(scaled)[2][1], 0.5)

print("PySCF", pyscf(volume)[0][0, 0], " ASE", ase_(volume)[0][0, 0])
assert np.isclose(ase_(volume)[0][0, 0], 4.0)
assert np.isclose(pyscf(volume)[0][0, 0], -64.0)
PYTHON
echo "as described"
