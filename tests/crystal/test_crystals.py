"""The crystals of the examples: groups and distances as published."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import ase.io
import ase.io.cif
import numpy as np
import pytest
import spglib
from ase.spacegroup.spacegroup import parse_sitesym

import eqsym as eqs
from toys import QUICK


_EXAMPLES = Path(__file__).parents[2] / "examples"
_FILES = sorted((_EXAMPLES / "crystals").glob("*.cif"))
_BOHR = 0.529177210903

# Number and symbol of the space group, its operations; distances in Angstrom of the
# nearest nuclei of the other element (or of phosphorus) and how many there are, as in
# the papers that the files name.
_PUBLISHED = {
    "quartz": (154, "P3_221", 6, "Si", [(1.605, 2), (1.614, 2)]),
    "rutile": (136, "P4_2/mnm", 16, "Ti", [(1.9485, 4), (1.9800, 2)]),
    "gallium_nitride": (186, "P6_3mc", 12, "Ga", [(1.949, 3), (1.956, 1)]),
    "zirconia": (14, "P2_1/c", 4, "Zr", None),
    "phosphorene": (53, "Pmna", 8, "P", [(2.224, 2), (2.244, 1)]),
}


def _read(name):
    return ase.io.read(_EXAMPLES / "crystals" / f"{name}.cif")


def _crystal(name):
    return eqs.Crystal.from_ase(_read(name))


def _cell(crystal):
    frac = crystal.lattice.to_fractional(crystal.cart_positions)
    parts = (crystal.lattice.vectors, frac, crystal.atomic_numbers)
    return tuple(part.tolist() for part in parts)


def _quietly(function, *args, **kwargs):
    with warnings.catch_warnings():
        # spglib announces another way to report errors.
        warnings.simplefilter("ignore", DeprecationWarning)
        return function(*args, **kwargs)


def test_all_files_are_tested():
    assert {file.stem for file in _FILES} == set(_PUBLISHED)


@pytest.mark.parametrize("name", _PUBLISHED)
def test_space_group_is_the_published_one(name):
    number, symbol, order, *_ = _PUBLISHED[name]
    crystal = _crystal(name)
    assert eqs.SpaceGroup.of(crystal).order == order
    found = _quietly(spglib.get_symmetry_dataset, _cell(crystal))
    assert (found.number, found.international) == (number, symbol)
    # The cell is primitive, so that no operation is a translation.
    assert len(found.rotations) == order


@pytest.mark.parametrize("name", _PUBLISHED)
def test_operations_in_the_file_are_those_of_the_crystal(name):
    crystal = _crystal(name)
    with open(_EXAMPLES / "crystals" / f"{name}.cif", "rb") as file:
        (block,) = ase.io.cif.parse_cif(file)
    rotations, translations = parse_sitesym(block["_symmetry_equiv_pos_as_xyz"])
    written = eqs.SpaceGroup(crystal, rotations, translations)
    found = eqs.SpaceGroup.of(crystal)
    assert written.order == found.order
    for rotation, translation in zip(
        written.frac_rotations, written.frac_translations, strict=True
    ):
        same = np.all(found.frac_rotations == rotation, axis=(1, 2))
        shifts = found.frac_translations[same] - translation
        assert len(shifts) == 1
        np.testing.assert_allclose(shifts, np.round(shifts), atol=1e-6)


def _neighbors(name, reach):
    """Distances in Angstrom from the first nucleus of an element to nuclei of another
    one (or of the only one) within `reach`."""
    crystal, center = _crystal(name), _PUBLISHED[name][3]
    first = crystal.species.index(center)
    others = [
        i
        for i, species in enumerate(crystal.species)
        if species != center or set(crystal.species) == {center}
    ]
    gaps = crystal.cart_positions[others] - crystal.cart_positions[first]
    images = gaps[:, None] + crystal.lattice.points_within(30.0)
    distances = np.linalg.norm(images.reshape(-1, 3), axis=1) * _BOHR
    return np.sort(distances[(distances > 1e-6) & (distances < reach)])


@pytest.mark.parametrize("name", [n for n, row in _PUBLISHED.items() if row[4]])
def test_distances_of_nearest_nuclei_are_those_published(name):
    shells = _PUBLISHED[name][4]
    expected = np.concatenate([[distance] * count for distance, count in shells])
    found = _neighbors(name, 1.15 * expected[-1])
    np.testing.assert_allclose(found, expected, atol=1.1e-3)


def test_zirconium_has_seven_oxygen_neighbors():
    # Seven from 2.05 to 2.28 Angstrom (Smith and Newkirk, Acta Cryst. 18, 983 (1965)),
    # the next one far away.
    found = _neighbors("zirconia", 3.5)
    assert np.all((found[:7] > 2.04) & (found[:7] < 2.29))
    assert np.all(found[7:] > 3.0)


def test_layer_group_of_phosphorene():
    found = _quietly(
        spglib.get_symmetry_layerdataset, _cell(_crystal("phosphorene")), 2
    )
    assert (found.number, found.international) == (42, "pman")
    assert len(found.rotations) == 8


def test_quartz_has_a_hand():
    # Its mirror image has the other screw axes.
    crystal = _crystal("quartz")
    mirrored = eqs.Crystal(
        crystal.lattice.vectors * [1, 1, -1],
        crystal.species,
        cart_positions=crystal.cart_positions * [1, 1, -1],
        unit="bohr",
    )
    for one, symbol in ((crystal, "3_2"), (mirrored, "3_1")):
        axes = eqs.symmetry_elements(eqs.SpaceGroup.of(one)).axes
        assert {axis.symbol for axis in axes if axis.order == 3} == {symbol}


@pytest.mark.slow
def test_example_prints_its_table_and_draws_every_crystal(tmp_path):
    done = subprocess.run(
        [sys.executable, str(_EXAMPLES / "groups.py")],
        cwd=tmp_path,
        env={**os.environ, **QUICK},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name, (_, symbol, order, *_) in _PUBLISHED.items():
        # Phosphorene is treated as the slab it is.
        symbol = "pman" if name == "phosphorene" else symbol
        (line,) = [x for x in done.stdout.splitlines() if x.startswith(name)]
        volume = _crystal(name).lattice.volume * _BOHR**3 / order
        assert line.split()[1:3] == [symbol, str(order)]
        assert float(line.split()[3]) == pytest.approx(volume, abs=1e-3)
        picture = tmp_path / "runs" / "groups" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
