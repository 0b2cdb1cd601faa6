#!/usr/bin/env bash
# ASE 3.29.0 reads a CIF in which lithium and sodium share one site half and half as an
# ordered crystal of the species that is listed last: exchange two lines of the file, and
# NaF becomes LiF. A site that is occupied to 0.75 becomes a full atom. No warning. The
# truth is in `atoms.info["occupancy"]`, by numbers of sites as strings, of which
# `atoms.arrays["spacegroup_kinds"]` uses only some; a program that asks for symbols and
# positions alone computes another material.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet ase==3.29.0
"$scratch/venv/bin/python" -W error::UserWarning - <<'PYTHON'
import io
import ase.io

cif = """data_mixed
_cell_length_a 4.1
_cell_length_b 4.1
_cell_length_c 4.1
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
_symmetry_Int_Tables_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{}
F1 F 0.5 0.5 0.5 1.0
"""
lithium, sodium = "Li1 Li 0 0 0 0.5", "Na1 Na 0 0 0 0.5"


def read(*sites):
    text = cif.format("\n".join(sites))
    return ase.io.read(io.BytesIO(text.encode()), format="cif")


one, other, part = read(lithium, sodium), read(sodium, lithium), read("Li1 Li 0 0 0 0.75")
for atoms in (one, other, part):
    print(atoms.get_chemical_formula(), atoms.info["occupancy"])
assert one.get_chemical_formula() == "F4Na4"
assert other.get_chemical_formula() == "F4Li4"
assert part.get_chemical_formula() == "F4Li4"
assert one.info["occupancy"]["0"] == {"Li": 0.5, "Na": 0.5}
# Three kinds of sites are listed, two are used.
assert set(one.info["occupancy"]) == {"0", "1", "2"}
assert set(one.arrays["spacegroup_kinds"].tolist()) == {0, 2}
PYTHON
echo "as described"
