"""Twists: stars counted by hand, energies of equivalent twists, means and errors."""

import dataclasses
import functools
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._mean_field import shell_gaps
from eqsym._mean_field.cells import crystal_cell
from eqsym._mean_field.settings import Settings


def _graphene(**kwargs):
    return eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr", **kwargs)


def _salt(**kwargs):
    return eqs.Crystal.rock_salt("Li", "H", a=7.6, unit="bohr", **kwargs)


def _orthorhombic(**kwargs):
    return eqs.Crystal(
        np.diag([4.0, 5.0, 6.0]),
        ["H"],
        frac_positions=[[0, 0, 0]],
        unit="bohr",
        **kwargs,
    )


def _polar(**kwargs):
    # One mirror and no inversion: time reversal does what inversion would.
    return eqs.Crystal(
        [[4.0, 0, 0], [0.9, 5.0, 0], [0, 0, 6.0]],
        ["Li", "H", "H"],
        frac_positions=[[0, 0, 0], [0.31, 0.17, 0], [0.62, 0.71, 0]],
        unit="bohr",
        **kwargs,
    )


_CASES = [
    (_graphene, 1),
    (_graphene, (2, 2, 1)),
    (_graphene, (2, 1, 1)),
    (_graphene, [[1, 1, 0], [-1, 2, 0], [0, 0, 1]]),
    (_salt, 1),
    (_salt, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]]),
    (_salt, (1, 1, 2)),
    (_orthorhombic, 1),
    (_polar, 1),
]


def _stars(crystal, mesh, shift):
    """The sizes of the sets of equivalent twists, point by point and in Cartesian
    coordinates, and the twists of each."""
    rotations = eqs.SpaceGroup.of(crystal).cart_rotations
    reciprocal = crystal.supercell.reciprocal
    points = [
        (np.array(n) + shift) / mesh for n in itertools.product(*map(range, mesh))
    ]
    left, stars = dict(enumerate(points)), []
    while left:
        first = next(iter(left.values()))
        images = [s * r @ (first @ reciprocal) for r in rotations for s in (1, -1)]
        fracs = np.array(images) @ np.linalg.inv(reciprocal)
        star = {
            i: point
            for i, point in left.items()
            if np.any(
                np.all(
                    np.abs(fracs - point - np.round(fracs - point)) < 1e-6,
                    axis=1,
                )
            )
        }
        stars.append(list(star.values()))
        left = {i: point for i, point in left.items() if i not in star}
    return stars


@settings(max_examples=40)
@given(
    st.sampled_from(_CASES),
    st.tuples(*[st.integers(1, 4)] * 2, st.integers(1, 3)),
    st.tuples(*[st.sampled_from([0, 0.5])] * 3),
)
def test_weights_are_the_shares_of_the_stars(case, mesh, shift):
    build, supercell = case
    crystal = build(supercell=supercell)
    found = eqs.irreducible_twists(crystal, mesh, shift=shift)
    stars = _stars(crystal, mesh, shift)
    assert len(found.crystals) == len(stars) == len(found.weights)
    assert abs(np.sum(found.weights) - 1) < 1e-12
    for twist, weight in zip(found.twists, found.weights, strict=True):
        gaps = [np.min(_distance(np.array(star), twist)) for star in stars]
        assert np.sum(np.array(gaps) < 1e-9) == 1
        assert weight == pytest.approx(len(stars[np.argmin(gaps)]) / np.prod(mesh))


def _distance(points, twist):
    gaps = points - twist
    return np.max(np.abs(gaps - np.round(gaps)), axis=1)


def test_known_meshes():
    # fcc 2x2x2 with shift: the two special points of Chadi and Cohen (1973), with
    # weights 1/4 and 3/4.
    found = eqs.irreducible_twists(_salt(), (2, 2, 2), shift=(0.5, 0.5, 0.5))
    assert sorted(found.weights) == [0.25, 0.75]
    # 3x3 of graphene: Gamma, K (two), and six halfway to K'.
    found = eqs.irreducible_twists(_graphene(), (3, 3, 1))
    np.testing.assert_allclose(sorted(found.weights), [1 / 9, 2 / 9, 6 / 9])
    np.testing.assert_array_equal(found.twists[0], 0)


def test_rounded_coordinates_need_not_cost_twists(caplog):
    exact = _graphene()
    frac = np.round(exact.lattice.to_fractional(exact.cart_positions), 4)
    rough = eqs.Crystal(
        exact.lattice.vectors, exact.species, frac_positions=frac, unit="bohr"
    )
    expected = eqs.irreducible_twists(exact, (6, 6, 1), vacuum=(2,))
    assert not caplog.messages
    more = eqs.irreducible_twists(rough, (6, 6, 1))
    assert (len(expected.crystals), len(more.crystals)) == (7, 13)
    (message,) = caplog.messages
    assert "with 0.001: 24 (P6/mmm)" in message
    found = eqs.irreducible_twists(rough, (6, 6, 1), symprec=1e-3)
    np.testing.assert_array_equal(found.twists, expected.twists)
    np.testing.assert_array_equal(found.weights, expected.weights)
    assert found.crystals[0].lattice == rough.lattice


def test_only_the_twist_of_the_crystal_changes():
    crystal = _salt(supercell=(1, 1, 2), charge=1, spin=3, twist=(0.1, 0.2, 0.3))
    for one in eqs.irreducible_twists(crystal, (1, 1, 2)).crystals:
        assert one.electrons == crystal.electrons and one.charge == 1
        assert one.species == crystal.species and one.lattice == crystal.lattice
        np.testing.assert_array_equal(one.matrix, crystal.matrix)
        np.testing.assert_allclose(one.cart_positions, crystal.cart_positions)
        assert one.twist[2] in (0, 0.5) and np.all(one.twist[:2] == 0)


def test_twists_print_as_a_table():
    lines = str(eqs.irreducible_twists(_graphene(), (3, 3, 1))).splitlines()
    assert lines[0].split() == ["k_1", "k_2", "k_3", "weight"]
    assert [float(line.split()[-1]) for line in lines[1:]] == [
        0.11111,
        0.66667,
        0.22222,
    ]


def test_average_of_hartree_fock_energies_is_the_mean_over_the_mesh():
    # Each twist is solved on its own, those left out too.
    mesh, shift = (3, 2, 1), (0, 0.5, 0)
    lattice = [[4.0, 0, 0], [0, 5.0, 0], [0, 0, 6.0]]

    def energy(twist):
        crystal = eqs.Crystal(
            lattice,
            ["H", "H"],
            frac_positions=[[0.0, 0, 0], [0.4, 0, 0]],
            unit="bohr",
            twist=twist,
        )
        return eqs.MeanField.solve(crystal, basis="sto-3g").energy

    found = eqs.irreducible_twists(
        eqs.Crystal(
            lattice, ["H", "H"], frac_positions=[[0, 0, 0], [0.4, 0, 0]], unit="bohr"
        ),
        mesh,
        shift=shift,
    )
    assert len(found.crystals) == 2
    full = [
        energy((np.array(n) + shift) / mesh)
        for n in itertools.product(*map(range, mesh))
    ]
    evaluations = [_evaluation(energy(twist)) for twist in found.twists]
    mean = eqs.twist_average(evaluations, found.weights).mean.energy.mean
    # The spread shows that the weights matter.
    assert np.ptp(full) > 1e-2
    assert mean == pytest.approx(np.mean(full), abs=1e-6)
    assert abs(np.mean([e.energy.mean for e in evaluations]) - mean) > 1e-3


def _evaluation(energy, error=0.0, symmetry=None, **kwargs):
    one = eqs.Estimate(energy, error)
    zero = eqs.Estimate(0.0, 0.0)
    counts = {"samples": 10, "invalid_samples": 0} | kwargs
    return eqs.Evaluation(one, one, one, one, zero, symmetry, **counts)


def test_error_of_the_mean():
    weights = np.array([0.25, 0.75])
    parts = [
        _evaluation(-1.0, 0.04, eqs.Estimate(0.2, 0.0), samples=7, invalid_samples=1),
        _evaluation(-2.0, 0.01, eqs.Estimate(0.4, 0.0)),
    ]
    found = eqs.twist_average(parts, weights)
    for name in ("energy", "variance", "kinetic", "potential"):
        part = getattr(found.mean, name)
        assert part.mean == pytest.approx(-1.75)
        assert part.error == pytest.approx(np.sqrt(0.01**2 + 0.0075**2))
    assert found.mean.symmetry.mean == pytest.approx(0.35)
    assert (found.mean.samples, found.mean.invalid_samples) == (17, 1)
    mixed = [parts[0], _evaluation(-2.0)]
    assert eqs.twist_average(mixed, weights).mean.symmetry is None


def test_error_is_the_scatter_of_means_of_independent_runs():
    rng = np.random.default_rng(0)
    weights, errors = np.array([0.2, 0.5, 0.3]), np.array([0.1, 0.02, 0.3])
    draws = rng.normal(-1.0, errors, size=(400, 3))
    means = [
        eqs.twist_average(
            [_evaluation(*pair) for pair in zip(row, errors, strict=True)], weights
        ).mean.energy
        for row in draws
    ]
    # The standard error of a standard deviation from n draws is 1 / sqrt(2 n) of it,
    # 3.5 %: within four of them.
    scatter = np.std([one.mean for one in means])
    assert means[0].error == pytest.approx(scatter, rel=0.14)


def test_twists_with_one_key_are_refused():
    """Their errors do not add up as those of independent runs; see arithmetic."""
    one, other, third = (_evaluation(-x, 0.1) for x in (1.0, 2.0, 3.0))
    energy = one.energy + third.energy
    shared = dataclasses.replace(other, energy=energy)
    for parts in ([one, one], [one, other, shared], [shared, third]):
        weights = np.full(len(parts), 1 / len(parts))
        with pytest.raises(ValueError, match=r"come from the same .*a key of its own"):
            eqs.twist_average(parts, weights)
    with pytest.raises(ValueError, match=r"`evaluations\[0\]` and `evaluations\[2\]`"):
        eqs.twist_average([one, other, shared], np.full(3, 1 / 3))


def test_average_prints_and_converts():
    found = eqs.twist_average(
        [_evaluation(-1.0, 0.04), _evaluation(-2.0, 0.01)], np.array([0.25, 0.75])
    )
    lines = str(found).splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["0", "0.2500"],
        ["1", "0.7500"],
    ]
    assert lines[3].split()[:2] == ["mean", "-1.750(12)"]
    written = json.loads(json.dumps(found.to_dict()))
    assert written["weights"] == [0.25, 0.75]
    assert written["mean"]["energy"]["mean"] == pytest.approx(-1.75)
    assert written["evaluations"][1]["energy"] == {"mean": -2.0, "error": 0.01}


@pytest.mark.parametrize(
    "mesh, shift, words",
    [
        ((2, 2), (0, 0, 0), "`mesh` must be three integers"),
        ((2, 2, 1.5), (0, 0, 0), "`mesh` must be three integers"),
        ((2, 0, 1), (0, 0, 0), "`mesh` must be positive"),
        ((2, 2, 2), (0, 0, 0.3), "`shift` must be three numbers"),
        ((2, 2, 2), (0, 0), "`shift` must be three numbers"),
    ],
)
def test_wrong_meshes(mesh, shift, words):
    with pytest.raises(ValueError, match=words):
        eqs.irreducible_twists(_salt(), mesh, shift=shift)


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]])
def test_wrong_weights(weights):
    with pytest.raises(ValueError, match="`weights` must"):
        eqs.twist_average([_evaluation(-1.0), _evaluation(-2.0)], np.array(weights))


def _ring(atoms, **kwargs):
    """Atoms in cells of one."""
    return eqs.Crystal.hydrogen_chain(
        spacing=1.8,
        vacuum=10.0,
        atoms=1,
        unit="bohr",
        supercell=(atoms, 1, 1),
        **kwargs,
    )


def test_closed_shells_of_a_chain():
    """One band, which rises from 0 to the border of the zone: as many k-points as there
    are electrons of one spin are next to 0 if no two are as far from it as each other.
    The gap is the rise from the last to the next: it grows towards the twist 1/2."""
    find = functools.partial(eqs.closed_shell_twists, basis="sto-3g")
    found = find(_ring(4), (8, 1, 1))
    np.testing.assert_allclose(found.twists[:, 0], [0.5, 0.375, 0.25, 0.125])
    assert not np.any(found.twists[:, 1:])
    assert np.all(np.diff(found.gaps) < -0.2)
    np.testing.assert_allclose(found.weights, np.array([1, 2, 2, 2]) / 7)
    assert [tuple(c.twist) for c in found.crystals] == list(map(tuple, found.twists))
    first, second, *_ = str(found).splitlines()
    assert first.split()[-2:] == ["gap", "[Ha]"] and len(str(found).splitlines()) == 5
    assert second.split()[:1] + second.split()[3:4] == ["0.50000", "0.14286"]
    # Three electrons of one spin fill 0 and the two next to it, one of the other 0.
    polarized = find(_ring(4, spin=2), (2, 1, 1))
    np.testing.assert_array_equal(polarized.twists, [[0, 0, 0]])


def test_no_closed_shell():
    with pytest.raises(
        ValueError, match="`mesh`: none of its 1 inequiv.* finer `mesh`"
    ):
        eqs.closed_shell_twists(_ring(4), (1, 1, 1), basis="sto-3g")
    with pytest.raises(ValueError, match="`basis` 'sto-3g' .* leaves 4 functions"):
        eqs.closed_shell_twists(_ring(4, charge=-6), (1, 1, 1), basis="sto-3g")


@pytest.mark.slow
def test_levels_of_superposed_atoms():
    """PySCF's own at the density of superposed atoms: Hartree and exchange potential
    from integrals and not from a sum over atoms."""
    dft = pytest.importorskip("pyscf.pbc.dft")
    crystal = _ring(3, twist=(0.2, 0, 0))
    settings = Settings(crystal, "sto-3g", None, False, None, None)
    cell = crystal_cell(crystal, settings)
    near = cell.make_kpts([8, 1, 1])
    kpoints = crystal.frac_kpoints @ crystal.lattice.reciprocal
    functional = dft.KRKS(cell, np.concatenate([near, kpoints]), xc="lda,")
    functional.chkfile = None
    functional = functional.rs_density_fit()
    functional.grids = dft.BeckeGrids(cell)
    density = functional.get_init_guess(key="minao")[:8]
    potential = functional.get_veff(cell, density, kpts=near, kpts_band=kpoints)
    fock = functional.get_hcore(cell, kpoints) + np.asarray(potential)
    levels = np.sort(functional.eig(fock, functional.get_ovlp(cell, kpoints))[0], None)
    functional.with_df._cderi_to_save.close()
    gap = shell_gaps(crystal, np.array([[0.2, 0, 0]]), "sto-3g", None)
    # Three electrons, two of one spin.
    expected = min(levels[1] - levels[0], levels[2] - levels[1])
    np.testing.assert_allclose(gap, expected, atol=2e-3)
