"""Nearest lattice points, against a search among all that are near."""

import jax.numpy as jnp
import numpy as np
import pytest

from eqsym import Lattice
from eqsym._crystal.nearest import _useful_steps, from_nearest


_LATTICES = {
    "cube": np.eye(3),
    "left-handed box": np.diag([2.0, 3.0, -1.0]),
    "fcc": np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]),
    "bcc": np.array([[-1.0, 1, 1], [1, -1, 1], [1, 1, -1]]),
    "hexagonal, flat": np.array([[4.6, 0, 0], [-2.3, 2.3 * np.sqrt(3), 0], [0, 0, 1]]),
    "needles": np.array([[0.2, 0, 0], [0.1, 0.17, 0], [0.05, 0.06, 9.0]]),
    "sheared": np.array([[1.0, 0, 0], [7.3, 1, 0], [-4.6, 3.4, 1]]),
    "triclinic": np.array([[0.4, 3.3, 0.0], [3.0, 0.0, 0.0], [0.2, -0.5, 3.6]]),
}


@pytest.mark.parametrize("name", _LATTICES)
def test_no_lattice_point_is_nearer(name):
    lattice = Lattice(_LATTICES[name])
    rng = np.random.default_rng(0)
    points = lattice.to_cartesian(rng.uniform(-3, 3, size=(500, 3)))
    found = from_nearest(lattice, points)
    by_jax = from_nearest(lattice, jnp.asarray(points.reshape(20, 25, 3)))
    np.testing.assert_allclose(by_jax, found.reshape(20, 25, 3), atol=1e-12)
    shifts = lattice.to_fractional(points - found)
    np.testing.assert_allclose(shifts, np.round(shifts), atol=1e-9)
    # Only these can be nearer than the origin is.
    reach = 2 * np.max(np.linalg.norm(found, axis=1))
    others = lattice.points_within(reach)[1:]
    lengths = np.linalg.norm(found[:, None] - others, axis=-1)
    assert np.all(lengths >= np.linalg.norm(found, axis=1)[:, None] - 1e-9)


def test_orthogonal_cells_need_no_search():
    assert len(_useful_steps(np.diag([1.0, 5.0, 0.3]))) == 0
    assert len(_useful_steps(np.diag([1.0, 1.0, 1.0]) + 0.2 * np.eye(3, k=1))) > 0


def test_single_precision():
    lattice = Lattice(_LATTICES["fcc"])
    points = jnp.asarray([[10.3, -4.1, 7.7]], jnp.float32)
    found = from_nearest(lattice, points)
    assert found.dtype == jnp.float32
    double = from_nearest(lattice, points.astype(jnp.float64))
    np.testing.assert_allclose(found, double, atol=1e-5)
