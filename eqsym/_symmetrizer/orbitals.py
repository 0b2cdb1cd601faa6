"""Wave functions of averaged orbitals."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._core import checked, Electrons, LogPsi, precise_einsum
from .._crystal import Crystal
from .._wavefunction import (
    AbstractFactor,
    AbstractOrbitalNetwork,
    AbstractWavefunction,
    orbital_network,
)
from .momentum import check_orbitals, keeps_momentum, lacks_translations
from .orbits import AbstractSymmetrizer


class SymmetrizedOrbitals(AbstractWavefunction):
    r"""A network whose orbitals are averaged over images of the configuration before
    the determinants are taken, $\sum_m w_m \phi^d_j(r_i; x_m)$ in place of
    $\phi^d_j(r_i; x)$.

    With [`eqsym.GroupAverage`][] it is as symmetric as the average of the wave function
    and a nonlinear function of it: no projection of the network, and not to be used
    after training. Huang et al. (2025), arXiv 2502.05318, appendix.
    """

    wavefunction: AbstractWavefunction
    symmetrizer: AbstractSymmetrizer
    average_phases: bool = eqx.field(static=True)

    @checked
    def __init__(
        self,
        wavefunction: AbstractWavefunction,
        symmetrizer: AbstractSymmetrizer,
        *,
        average_phases: bool = True,
    ):
        r"""**Arguments:**

        - `wavefunction`: the network, or one with a factor such as
            [`eqsym.Jastrow`][], which is taken at the electrons and not averaged.
        - `symmetrizer`: gives weights and images, for the crystal of the network.
        - `average_phases`: whether the Bloch phases $e^{i k_j \cdot r_i}$ are those of
            the images, or, as published too, of the electrons themselves and not
            averaged. At non-zero k only the former makes the orbitals symmetric.

        **Raises:** `ValueError` for a group of another crystal, and if averaged
        orbitals would be zero or not have its symmetry: if operations multiply up to
        translations that are not 1 on each occupied orbital, as some do in
        nonsymmorphic crystals at k-points other than 0.
        """
        self.wavefunction = wavefunction
        self.symmetrizer = symmetrizer
        self.average_phases = average_phases

    def __check_init__(self):
        occupation = self.network.occupation
        group = self.symmetrizer.group
        group.check_crystal(self.wavefunction.crystal)
        characters = self.symmetrizer.characters
        if self.average_phases and characters is not None:
            kpoints = np.concatenate(occupation.cart_kpoints)
            check_orbitals(group, characters, np.unique(kpoints, axis=0))

    @property
    def network(self) -> AbstractOrbitalNetwork:
        """Whose orbitals are averaged: `wavefunction`, without a factor."""
        return orbital_network("`SymmetrizedOrbitals` averages", self.wavefunction)

    @property
    def crystal(self) -> Crystal:
        """The crystal of the network."""
        return self.wavefunction.crystal

    @property
    def crystal_momentum(self) -> Float[np.ndarray, "3"] | None:
        """The momentum of the network, unless averaged phases mix the momenta of
        orbitals, or the group is one modulo the supercell without all translations
        inside."""
        group = self.symmetrizer.group
        if self.symmetrizer.characters is None or lacks_translations(group):
            return None
        kpoints = np.concatenate(self.network.occupation.cart_kpoints)
        if self.average_phases and not all(keeps_momentum(group, k) for k in kpoints):
            return None
        return self.wavefunction.crystal_momentum

    @checked
    def __call__(self, electrons: Electrons) -> LogPsi:
        orbit = self.symmetrizer.orbit(electrons)
        network = self.network
        places = None if self.average_phases else electrons
        terms = jax.vmap(lambda image: network.orbitals(image, phases_at=places))(
            orbit.images
        )
        up, down = (_weighted_sum(orbit.weights, rows) for rows in terms)
        psi, rest = network.from_orbitals(up, down), self.wavefunction
        while isinstance(rest, AbstractFactor):
            psi, rest = rest.times(psi, electrons), rest.wavefunction
        return psi


def _weighted_sum(
    weights: Inexact[Array, " images"],
    rows: Inexact[Array, "images determinants electrons orbitals"],
) -> Inexact[Array, "determinants electrons orbitals"]:
    dtype = np.promote_types(weights.dtype, rows.dtype)
    return precise_einsum("m,mdij->dij", weights.astype(dtype), rows.astype(dtype))
