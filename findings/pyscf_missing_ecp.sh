#!/usr/bin/env bash
# PySCF 2.14.0: an effective core potential that its library has, but not for one of the
# elements, is left out. The atom keeps all its electrons, in a basis that was made for
# the valence only, and the cell is built without an error: a line on standard error is
# all that says so, whatever `verbose` is. Here xenon in `ccecp`, which PySCF has for
# iodine and caesium but not for xenon: 54 electrons and an all-electron nucleus in
# `def2-svp`, whose own potential stands for 28. A basis that is missing for an element,
# in contrast, raises `BasisNotFoundError`. So compare `cell.atom_charges()` with the
# charges of the valence before trusting an energy.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet pyscf==2.14.0
"$scratch/venv/bin/python" -W ignore - 2>"$scratch/messages" <<'PYTHON'
from pyscf.gto import basis
from pyscf.lib.exceptions import BasisNotFoundError
from pyscf.pbc import gto

VECTORS = [[0.0, 5.8, 5.8], [5.8, 0.0, 5.8], [5.8, 5.8, 0.0]]


def xenon(**kwargs):
    return gto.M(a=VECTORS, unit="B", atom="Xe 0 0 0", verbose=0, **kwargs)


own = xenon(basis="def2-svp", ecp="def2-svp")
missing = xenon(basis="def2-svp", ecp="ccecp")
for name, cell in (("def2-svp", own), ("ccecp", missing)):
    charges = cell.atom_charges().tolist()
    print(f"{name}: {cell.nelectron} electrons, charges {charges}")
assert (own.nelectron, own.atom_charges().tolist()) == (26, [26])
assert (missing.nelectron, missing.atom_charges().tolist()) == (54, [54])
assert basis.load_ecp("ccecp", "I")[0] == 46 and not basis.load_ecp("ccecp", "Xe")
try:
    xenon(basis="ccecp-cc-pvdz")
except (BasisNotFoundError, KeyError) as error:
    print(f"a basis that is missing: {type(error).__name__}")
else:
    raise AssertionError("a missing basis does not raise any more")
PYTHON
grep -q "ECP ccecp not found for  Xe" "$scratch/messages"
echo "as described"
