"""Local energies: forward Laplacians and Ewald sums."""

from .ewald import Ewald as Ewald
from .local_energy import (
    AbstractHamiltonian as AbstractHamiltonian,
    AbstractKinetic as AbstractKinetic,
    check_crystals as check_crystals,
    ForwardLaplacian as ForwardLaplacian,
    Hamiltonian as Hamiltonian,
    HessianLaplacian as HessianLaplacian,
    LocalEnergy as LocalEnergy,
)
from .promises import check_wavefunction as check_wavefunction
