"""Projections that users write, and what is not one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._symmetrizer import SubsetAverage
from toys import hydrogen, walkers, waves


_CRYSTAL = hydrogen()
_GROUP = eqs.SpaceGroup.from_number(_CRYSTAL, 47)


class Sum(eqs.AbstractProjection):
    """Of two irreps."""

    group: eqs.SpaceGroup
    scale: float = 1.0

    @property
    def characters(self):
        return None

    @property
    def coefficients(self):
        parts = eqs.irreps(self.group)[:2]
        return self.scale * sum(i.characters for i in parts) / self.group.order


def test_a_sum_of_irreps_is_a_projection():
    f = waves(_CRYSTAL, c=(0.3, 0.2, 0.1))
    electrons = walkers(_CRYSTAL, 1)[0]
    parts = [
        eqs.symmetry_ratio(f, eqs.IrrepProjection(_GROUP, irrep), electrons)
        for irrep in eqs.irreps(_GROUP)[:2]
    ]
    found = eqs.symmetry_ratio(f, Sum(_GROUP), electrons)
    np.testing.assert_allclose(found, sum(parts), rtol=1e-12)
    # Twice is once.
    again = eqs.Symmetrized(eqs.Symmetrized(f, Sum(_GROUP)), Sum(_GROUP))(electrons)
    once = eqs.Symmetrized(f, Sum(_GROUP))(electrons)
    np.testing.assert_allclose(again.log, once.log, rtol=1e-10)
    strategy = eqs.ProjectedTraining(Sum(_GROUP), local_energies=2, orbit_points=4)
    strategy.init(f, key=jax.random.key(0))


def test_others_are_refused(unchecked):
    with pytest.raises(ValueError, match="must be a projector, equal to its square"):
        eqs.ProjectedTraining(Sum(_GROUP, 0.5))
    some = SubsetAverage(_GROUP, jnp.arange(2))
    with pytest.raises(ValueError, match="an instance of `SubsetAverage`"):
        eqs.ProjectedTraining(some)
