"""The Hartree-Fock determinant as a wave function."""

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._core import checked, Electrons, LogPsi, sum_of_determinants
from .._crystal import check_electrons, Crystal
from .._mean_field import check_real_orbitals, MeanField
from .base import AbstractWavefunction


class HartreeFock(AbstractWavefunction):
    r"""The product of the two Slater determinants of a mean field,
    $\psi = \det[\phi_j(r^\uparrow_i)] \det[\phi_j(r^\downarrow_i)]$.

    Its energy is known, so it checks a Hamiltonian and a sampler; and it is the start
    of a neural wave function. It has no trainable parameters.
    """

    mean_field: MeanField
    real: bool = eqx.field(static=True)

    @checked
    def __init__(self, mean_field: MeanField, *, real: bool | None = None):
        """**Arguments:**

        - `mean_field`: whose orbitals to take.
        - `real`: whether the wave function is real-valued; by default if the mean field
            has real orbitals, see [`eqsym.MeanField.orbitals`][]. Only the phase
            depends on it.

        **Raises:** `ValueError` if it is to be real and the mean field has no real
        orbitals.
        """
        if real:
            check_real_orbitals(mean_field)
        self.mean_field = mean_field
        self.real = mean_field.real if real is None else real

    @property
    def crystal(self) -> Crystal:
        """The crystal of the mean field."""
        return self.mean_field.crystal

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"]:
        """The sum of the occupied k-points, in inverse Bohr."""
        return np.sum(np.concatenate(self.mean_field.occupation.cart_kpoints), axis=0)

    @checked
    def __call__(self, electrons: Electrons) -> LogPsi:
        check_electrons(sum(self.crystal.electrons), electrons)
        up, down = self.mean_field.orbitals(electrons, real=self.real)
        return sum_of_determinants(up[None], down[None])
