"""The same crystal is the same crystal."""

import re

import jax
import numpy as np
import pytest

import eqsym as eqs
from toys import hydrogen, Lattice, walkers, waves


CARBIDE = dict(
    lattice=[[5.0, 0.3, 0.1], [4.2, 4.4, 0.0], [-2.0, 3.0, 6.5]],
    species=("Si", "C"),
    cart_positions=[[0.1, 0, 0], [1.5, 1, 2]],
    supercell=(1, 1, 2),
    twist=(0.5, 0.25, 0.0),
    unit="bohr",
)


def crystal(**changes):
    return eqs.Crystal(**CARBIDE | changes)


def shifted(*steps, by=0.0):
    """Nuclei moved by lattice vectors, and the second one in space."""
    positions = (
        np.array(CARBIDE["cart_positions"]) + np.array(steps) @ CARBIDE["lattice"]
    )
    positions[1, 0] += by
    return positions


@pytest.mark.parametrize(
    "changes",
    [
        dict(lattice=np.array(CARBIDE["lattice"]) * (1 + 1e-9)),
        dict(cart_positions=shifted([1, 0, 0], [0, -2, 3], by=5e-7)),
        dict(twist=(-0.5, 1.25 + 1e-9, 2.0)),
    ],
    ids=["rounding", "lattice vectors", "reciprocal vectors"],
)
def test_descriptions_of_one_crystal_match(changes):
    one, other = crystal(), crystal(**changes)
    assert one != other
    assert one.matches(other) and other.matches(one)
    assert one.difference(other) is None


@pytest.mark.parametrize(
    "changes, named",
    [
        (
            dict(cart_positions=shifted([0, 1, 0], [0, 0, 0], by=0.012)),
            r"`cart_positions` of nucleus 1 \(C\) differ by 0.012 Bohr",
        ),
        (
            dict(cart_positions=shifted([0, 0, 0], [0, 0, 0], by=2e-6)),
            "differ by 2e-06",
        ),
        (
            dict(lattice=np.array(CARBIDE["lattice"]) + np.diag([0, 0, 0.01])),
            "vector 2 of `lattice` differs by 0.01 Bohr",
        ),
        (dict(species=("C", "Si")), "`species` of nucleus 0 are Si and C"),
        (
            dict(species=("C",), cart_positions=[[0, 0, 0]]),
            "`species` are 2 and 1 nuclei",
        ),
        (dict(supercell=(1, 2, 1)), r"`supercell` is \[\[1, .* and \[\[1, "),
        (dict(spin=2), r"`electrons` \(up, down\) are \(20, 20\) and \(21, 19\)"),
        (dict(twist=(0.5, 0.26, 0)), r"`twist` differs by 0.01: \[0.5, 0.25, 0.0\]"),
    ],
)
def test_a_difference_is_named_with_its_size(changes, named):
    one, other = crystal(), crystal(**changes)
    assert not one.matches(other)
    assert re.search(named, one.difference(other))


def test_crystals_are_matched_wherever_they_meet(tmp_path):
    """What two descriptions of one crystal make goes together; of two crystals, the
    message names the difference."""
    positions = dict(cart_positions=[[4.0, 0, 0]], frac_positions=None)
    one = hydrogen()
    same = eqs.Crystal(4 * np.eye(3) + 1e-13, ["H"], unit="bohr", **positions)
    other = eqs.Crystal(4.01 * np.eye(3), ["H"], unit="bohr", **positions)
    assert one != same
    wavefunction, named = waves(one), "vector 0 of `lattice` differs by 0.01 Bohr"
    key, x = jax.random.key(0), walkers(one, 4)

    def train(crystal):
        vmc = eqs.VMC(Lattice(crystal), eqs.Metropolis(1), eqs.Spring())
        vmc.init(wavefunction, x, key=key)

    def observe(crystal):
        seen = {"density": eqs.FourierDensity(crystal, 2.0)}
        chains = eqs.Chains(x, key=key, steps=1, burn_in=0, progress=False)
        eqs.observe(wavefunction, seen, chains)

    def average(crystal):
        eqs.Symmetrized(wavefunction, eqs.GroupAverage(eqs.SpaceGroup.of(crystal)))

    def resume(crystal):
        eqs.checkpoint.restore(tmp_path, 1, waves(crystal), Lattice(crystal))

    eqs.checkpoint.save(tmp_path, 1, wavefunction, Lattice(one))
    for use in (train, observe, average):
        use(same)
        with pytest.raises(ValueError, match=named):
            use(other)
    resume(same)
    with pytest.raises(ValueError, match=r"crystal.lattice._vectors\[0\]\[0\]: saved"):
        resume(other)


def exactly(frac, vectors):
    """The product in the order of the terms, each rounded on its own."""
    rows = [[float(x) for x in row] for row in vectors]
    return [
        [
            sum((f * row[i] for f, row in zip(point, rows, strict=True)), 0.0)
            for i in range(3)
        ]
        for point in frac
    ]


def test_presets_do_not_depend_on_the_processor():
    """A matrix product of BLAS rounds as the processor likes; these follow IEEE 754 bit
    for bit."""
    for a in np.random.default_rng(0).uniform(2, 6, size=50):
        graphene = eqs.Crystal.graphene(a=a, vacuum=7 * a, unit="angstrom")
        frac = [[1 / 3, 2 / 3, 0.0], [2 / 3, 1 / 3, 0.0]]
        expected = exactly(frac, graphene.lattice.vectors)
        np.testing.assert_array_equal(graphene.cart_positions, expected)
        carbide = eqs.Crystal.zinc_blende("Si", "C", a=a, unit="bohr", supercell=3)
        vectors = carbide.lattice.vectors
        expected = exactly(carbide.matrix.tolist(), vectors)
        np.testing.assert_array_equal(carbide.supercell.vectors, expected)
