"""Figures: what is drawn is what was computed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs


HISTORY = {
    "step": np.arange(1.0, 41.0),
    "energy": -8.0 - 0.5 * (1 - np.exp(-np.arange(40) / 10)),
    "variance": np.exp(-np.arange(40) / 10),
    "acceptance": np.full(40, 0.5),
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
    electrons = jnp.tile(jnp.asarray(crystal.positions), (2, 1))
    edge = 2 * crystal.positions[1, 0]
    sides = [[edge, 0, 0], [0, edge, 0]]
    group = eqs.SpaceGroup.of(crystal)
    averaged = eqs.Symmetrized(network, eqs.GroupAverage(group))
    plain = eqs.translation_scan(network, electrons, sides, points=7).log_density
    density = eqs.translation_scan(averaged, electrons, sides, points=7).log_density
    np.testing.assert_allclose(density, density.T, atol=1e-8)
    np.testing.assert_allclose(density, density[::-1], atol=1e-8)
    assert np.max(np.abs(plain - plain.T)) > 1e-3


def test_figures_are_written_as_images(network, tmp_path):
    electrons = eqs.initial_walkers(network.crystal, 1, key=jax.random.key(1))[0]
    scan = eqs.translation_scan(network, electrons, np.eye(3)[:2], points=4)
    figures = {
        "scan.png": eqs.plot_scans({"one": scan, "two": scan}),
        "training.png": eqs.plot_training(HISTORY, references={"reference": -8.49}),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_training_figure_draws_the_moving_average():
    energy_axis = eqs.plot_training(HISTORY, window=5).axes[0]
    average = energy_axis.get_lines()[1].get_ydata()
    np.testing.assert_allclose(average[0], np.mean(HISTORY["energy"][:5]))
    np.testing.assert_allclose(average[-1], np.mean(HISTORY["energy"][-5:]))
