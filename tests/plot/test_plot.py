"""Figures show the numbers that were computed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._plot.parts import domain_traces
from group_toys import crystal_for, database
from toys import hydrogen, Lattice, walkers, waves


HISTORY = {
    "step": np.arange(1.0, 41.0),
    "energy": -8.0 - 0.5 * (1 - np.exp(-np.arange(40) / 10)),
    "variance": np.exp(-np.arange(40) / 10),
    "acceptance": np.full(40, 0.5),
    "exchange_acceptance": np.full(40, 0.2),
    "hop_acceptance": np.zeros(40),
}


@pytest.fixture(scope="module")
def network() -> eqs.SolidNet:
    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    gamma = eqs.Occupation(tuple(np.zeros((n, 3)) for n in crystal.electrons))
    return eqs.SolidNet(
        crystal, gamma, widths=((8, 4),), determinants=1, key=jax.random.key(0)
    )


def test_scan_is_the_amplitude_at_translated_electrons(network):
    electrons = eqs.initial_walkers(network.crystal, 1, key=jax.random.key(1))[0]
    sides = np.array([[1.0, 0.5, 0], [0, 2.0, 1.0]])
    scan = eqs.translation_scan(network, electrons, sides, points=4)
    for i, j in ((0, 0), (3, 0), (1, 2)):
        shift = sides[0] * i / 3 + sides[1] * j / 3
        expected = 2 * network(electrons + jnp.asarray(shift)[None]).log
        np.testing.assert_allclose(scan.log_density[i, j], expected, rtol=1e-10)


def test_averaged_scan_has_the_symmetry_of_the_group(network):
    # One electron of each spin on each nucleus: mirror planes and fourfold axes of the
    # crystal map the configuration to itself.
    crystal = network.crystal
    electrons = jnp.tile(jnp.asarray(crystal.cart_positions), (2, 1))
    edge = 2 * crystal.cart_positions[1, 0]
    sides = [[edge, 0, 0], [0, edge, 0]]
    group = eqs.SpaceGroup.of(crystal)
    averaged = eqs.Symmetrized(network, eqs.GroupAverage(group))
    plain = eqs.translation_scan(network, electrons, sides, points=7).log_density
    density = eqs.translation_scan(averaged, electrons, sides, points=7).log_density
    np.testing.assert_allclose(density, density.T, atol=1e-8)
    np.testing.assert_allclose(density, density[::-1], atol=1e-8)
    assert np.max(np.abs(plain - plain.T)) > 1e-3


@pytest.mark.parametrize("chunk", [None, 2])
def test_scan_of_local_energies(chunk):
    """In Hartree per primitive cell, at translations from the origin on."""
    crystal = hydrogen(supercell=(2, 1, 1))
    wavefunction, hamiltonian = waves(crystal, b=(0.1, 0.2, 0.3)), Lattice(crystal)
    electrons = walkers(crystal, 1)[0]
    sides, origin = np.array([[1.0, 0.5, 0], [0, 2.0, 1.0]]), np.array([0.3, 0, 0.1])
    scan = eqs.translation_scan(
        wavefunction,
        electrons,
        sides,
        origin=origin,
        points=4,
        hamiltonian=hamiltonian,
        chunk=chunk,
    )
    moved = electrons + jnp.asarray(origin + sides[0] / 3 + sides[1] * 2 / 3)[None]
    energy = hamiltonian.local_energy(wavefunction, moved).total.real
    assert scan.local_energy is not None
    np.testing.assert_allclose(scan.local_energy[1, 2], energy / 2, rtol=1e-9)
    log = 2 * wavefunction(moved).log
    np.testing.assert_allclose(scan.log_density[1, 2], log, rtol=1e-9)


def _numbers_of_images(domain, points):
    """Which image of the domain's point is the nearest to each point: the image of the
    domain that it is in."""
    group = domain.group
    images = group.cart_rotations @ domain.point + group.cart_translations
    shifts = group.lattice.points_within(40.0)
    images = (images[:, None] + shifts).reshape(-1, 3)
    gaps = np.sum(images**2, axis=1) - 2 * points @ images.T
    return np.argmin(gaps, axis=1)


@pytest.mark.parametrize("hall", [1, 115, 435, 494, -106])
@pytest.mark.parametrize("height", [0.0, 0.7])
def test_domains_drawn_over_scans_part_the_plane(hall, height):
    """The way between two points crosses a line if and only if they are in different
    images; an image is convex."""
    rotations, translations = database(hall)
    crystal = crystal_for(rotations, translations)
    group = eqs.SpaceGroup(crystal, rotations, translations)
    domain = eqs.FundamentalDomain.of(group)
    sides = crystal.lattice.vectors[:2] * 0.8
    normal = np.cross(*sides) / np.linalg.norm(np.cross(*sides))
    origin = height * normal + 0.1
    lines = domain_traces(domain, origin, sides)
    np.testing.assert_allclose((lines - origin) @ normal, 1e-5, atol=1e-9)
    frac = np.random.default_rng(0).uniform(size=(400, 2, 2))
    ways = origin + 1e-5 * normal + frac @ sides
    numbers = _numbers_of_images(domain, ways.reshape(-1, 3)).reshape(-1, 2)
    crossed = _crossings(ways, lines, normal)
    np.testing.assert_array_equal(crossed, numbers[:, 0] != numbers[:, 1])
    assert 0 < np.mean(crossed)


def _crossings(ways, lines, normal):
    def side(a, b, c):
        return np.cross(b - a, c - a) @ normal

    (a, b), (c, d) = np.moveaxis(ways[:, None], 2, 0), np.moveaxis(lines[None], 2, 0)
    apart = side(a, b, c) * side(a, b, d) < 0
    return np.any(apart & (side(c, d, a) * side(c, d, b) < 0), axis=1)


def test_difference_of_scans(network):
    electrons = eqs.initial_walkers(network.crystal, 1, key=jax.random.key(1))[0]
    scan = eqs.translation_scan(network, electrons, np.eye(3)[:2], points=4)
    twice = dataclasses.replace(scan, log_density=2 * scan.log_density)
    domain = eqs.FundamentalDomain.of(eqs.SpaceGroup.of(network.crystal))
    scans = {"one": scan, "two": twice}
    figure = eqs.plot.scans(scans, domain=domain, difference=True)
    maps = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in maps] == ["one", "two", "two minus one"]
    drawn = maps[2].collections[0].get_array()
    np.testing.assert_allclose(np.ravel(drawn), np.ravel(scan.log_density))
    with pytest.raises(ValueError, match="`difference` needs 2 scans, got 1"):
        eqs.plot.scans({"one": scan}, difference=True)


def test_scan_with_the_hamiltonian_of_another_crystal(network):
    electrons = eqs.initial_walkers(network.crystal, 1, key=jax.random.key(1))[0]
    other = eqs.Hamiltonian(eqs.Crystal.bcc("Li", a=6.0, unit="bohr"))
    with pytest.raises(ValueError, match="must have the same crystal"):
        eqs.translation_scan(network, electrons, np.eye(3)[:2], hamiltonian=other)


def test_figures_are_written_as_images(network, tmp_path):
    electrons = eqs.initial_walkers(network.crystal, 1, key=jax.random.key(1))[0]
    scan = eqs.translation_scan(network, electrons, np.eye(3)[:2], points=4)
    figures = {
        "scan.png": eqs.plot.scans({"one": scan, "two": scan}),
        "training.png": eqs.plot.training(HISTORY, references={"reference": -8.49}),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_training_figure_draws_the_moving_average():
    energy_axis = eqs.plot.training(HISTORY, window=5).axes[0]
    average = energy_axis.get_lines()[1].get_ydata()
    np.testing.assert_allclose(average[0], np.mean(HISTORY["energy"][:5]))
    np.testing.assert_allclose(average[-1], np.mean(HISTORY["energy"][-5:]))


def test_acceptance_is_drawn_of_the_kinds_of_moves_that_were_made():
    axis = eqs.plot.training(HISTORY).axes[2]
    labels = [line.get_label() for line in axis.lines]
    assert labels == ["moves", "exchanges of spins"]
    for line, column in zip(
        axis.lines, ("acceptance", "exchange_acceptance"), strict=True
    ):
        np.testing.assert_array_equal(line.get_ydata(), HISTORY[column])


def test_a_notebook_draws_figures_without_a_magic_line():
    figure = eqs.plot.training(HISTORY)
    picture, size = figure._repr_png_()
    assert picture.startswith(b"\x89PNG\r\n")
    # 7 x 7.5 inches, at the 96 pixels of a browser.
    assert size == {"width": 672, "height": 720}


def test_ipython_finds_the_picture():
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = eqs.plot.training(HISTORY)
    bundle, metadata = formatters.DisplayFormatter().format(figure)
    assert bundle["image/png"].startswith(b"\x89PNG\r\n")
    assert metadata["image/png"] == {"width": 672, "height": 720}
