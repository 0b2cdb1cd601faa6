"""Pictures of densities: the values drawn, their symmetry, nuclei and units."""

import numpy as np
import pytest

import eqsym as eqs
from eqsym._estimator import Observed


def _salt():
    return eqs.Crystal.rock_salt("Li", "H", a=7.6, unit="bohr")


def _found(mean):
    return Observed(mean, 0.1 * np.abs(mean), 10, 0)


def _drawn(figure, panel=0):
    (mesh,) = [c for c in figure.axes[panel].collections if c.get_rasterized()]
    return mesh.get_array().reshape(mesh.get_coordinates().shape[:2])


def _atoms(figure, name):
    ax = figure.axes[0]
    return np.concatenate(
        [c.get_offsets() for c in ax.collections if c.get_gid() == f"atom {name}"]
    )


def test_smooth_densities_are_drawn_as_they_are():
    """The kernel multiplies a plane wave by a factor that depends on its wavelength."""
    crystal = _salt()
    density = eqs.Density(crystal, (24, 24, 24))
    wave = 0.3 * np.cos(density.points @ crystal.lattice.reciprocal[0])
    sides = np.array([[7.6, 0, 0], [0, 7.6, 3.8]])
    figure = eqs.plot.densities(
        density,
        {"flat": _found(np.ones(density.shape)), "wave": _found(1 + wave)},
        sides,
        origin=(0.5, 0.2, 0.1),
        points=21,
    )
    np.testing.assert_allclose(_drawn(figure), 1, rtol=1e-12)
    along = np.linspace(0, 1, 21)
    places = along[:, None, None] * sides[0] + along[None, :, None] * sides[1]
    places += [0.5, 0.2, 0.1]
    expected = 0.3 * np.cos(places @ crystal.lattice.reciprocal[0])
    np.testing.assert_allclose(_drawn(figure, 1), 1 + expected, atol=0.03)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["flat", "wave"]
    assert "Bohr$^3$" in figure.axes[-1].get_ylabel()


def test_symmetric_densities_give_symmetric_pictures():
    crystal = _salt()
    group = eqs.SpaceGroup.of(crystal)
    density = eqs.Density.for_group(group, 0.9)
    images = np.einsum("gij,...j->g...i", group.cart_rotations, density.points)
    numbers = crystal.lattice.to_fractional(images) * density.shape
    places = np.round(numbers).astype(int) % density.shape
    noise = np.random.default_rng(0).uniform(0.1, 1, size=density.shape)
    mean = np.mean([noise[tuple(np.moveaxis(p, -1, 0))] for p in places], axis=0)
    sides = 7.6 * np.eye(3)[:2]
    for values, same in ((mean, True), (noise, False)):
        observed = {"averaged": _found(values)}
        # Truncated kernels differ a little if two grid points are as near.
        drawn = _drawn(eqs.plot.densities(density, observed, sides, points=30))
        gaps = [drawn - other for other in (drawn.T, drawn[::-1], drawn[:, ::-1])]
        assert np.allclose(gaps, 0, atol=1e-3) == same


def test_nuclei_in_the_plane():
    density = eqs.Density(_salt(), (4, 4, 4))
    observed = {"one": _found(np.ones((4, 4, 4)))}
    figure = eqs.plot.densities(density, observed, 7.6 * np.eye(3)[:2], points=5)
    corners = [[0, 0], [0, 7.6], [3.8, 3.8], [7.6, 0], [7.6, 7.6]]
    np.testing.assert_allclose(_atoms(figure, "Li"), corners, atol=1e-5)
    edges = [[0, 3.8], [3.8, 0], [3.8, 7.6], [7.6, 3.8]]
    np.testing.assert_allclose(_atoms(figure, "H"), edges, atol=1e-5)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["Li", "H"]
    # Between the layers there are none.
    figure = eqs.plot.densities(
        density, observed, 7.6 * np.eye(3)[:2], origin=(0, 0, 1.9), points=5
    )
    assert not [c for c in figure.axes[0].collections if c.get_gid()]


def test_integral_along_a_vector():
    crystal = eqs.Crystal.graphene(a=4.65, vacuum=30.0, unit="bohr")
    density = eqs.Density(crystal, (6, 6, 1))
    observed = {"one": _found(np.full((6, 6, 1), 0.02))}
    sides = crystal.lattice.vectors[:2]
    # Above all nuclei.
    figure = eqs.plot.densities(density, observed, sides, origin=(0, 0, 9), points=4)
    np.testing.assert_allclose(_drawn(figure), 0.02 * 30.0)
    assert "Bohr$^2$" in figure.axes[-1].get_ylabel()
    expected = sorted(crystal.cart_positions[:, :2].tolist())
    np.testing.assert_allclose(_atoms(figure, "C"), expected, atol=1e-5)


def test_spin_densities_and_files(tmp_path):
    density = eqs.Density(_salt(), (4, 4, 4), spins=(1, -1))
    mean = np.random.default_rng(0).normal(size=density.shape)
    sides = [[7.6, 0, 0], [0, 3.8, 3.8]]
    figure = eqs.plot.densities(density, {"spin": _found(mean)}, sides, points=9)
    (mesh,) = [c for c in figure.axes[0].collections if c.get_rasterized()]
    assert mesh.norm.vmin == -mesh.norm.vmax < 0
    figure.savefig(tmp_path / "density.png", dpi=40)
    assert (tmp_path / "density.png").read_bytes().startswith(b"\x89PNG")
    # Empty bins have no logarithm.
    empty = np.zeros(density.shape)
    empty[0, 0, 0] = 1.0
    figure = eqs.plot.densities(density, {"spin": _found(empty)}, sides, points=9)
    figure.savefig(tmp_path / "empty.png", dpi=40)


def test_wrong_arguments():
    density = eqs.Density(_salt(), (4, 4, 4))
    with pytest.raises(ValueError, match="`observed` must be at least one density"):
        eqs.plot.densities(density, {}, np.eye(3)[:2])
    with pytest.raises(ValueError, match="'one' must be on the grid"):
        eqs.plot.densities(density, {"one": _found(np.ones((4, 4)))}, np.eye(3)[:2])
    observed = {"one": _found(np.ones((4, 4, 4)))}
    for vectors in (np.eye(3), [[1, 0, 0], [2, 0, 0]]):
        with pytest.raises(ValueError, match="`vectors` must be two independent"):
            eqs.plot.densities(density, observed, vectors)
