#!/usr/bin/env bash
# spglib 2.8.0: a larger `symprec` can find fewer operations. Rock salt (cube of 4
# Angstrom) with one of its eight atoms 0.0005 Angstrom off along x: 16 operations (space
# group 129) at symprec 0.0005, 8 (space group 99) at 0.001, all 192 (225) at 0.002. The
# displaced crystal itself has 8. So a search for "the largest group within a tolerance"
# must try several, and `symprec` is not a bound on how far an atom may be from its site:
# 0.0005 off takes a symprec of more than 0.001.
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet spglib==2.8.0
"$scratch/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import spglib

a = 4.0
corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
others = [[0.5, 0.5, 0.5], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
positions = np.array(corners + others, dtype=float)
positions[0, 0] += 0.0005 / a
cell = (a * np.eye(3), positions, [1] * 4 + [2] * 4)
found = {}
for symprec in (0.0001, 0.0005, 0.001, 0.002):
    dataset = spglib.get_symmetry_dataset(cell, symprec=symprec)
    found[symprec] = (dataset.number, len(dataset.rotations))
    print(symprec, found[symprec])
assert found[0.0001] == (99, 8)
assert found[0.0005] == (129, 16)
assert found[0.001] == (99, 8)
assert found[0.002] == (225, 192)
PYTHON
echo "as described"
