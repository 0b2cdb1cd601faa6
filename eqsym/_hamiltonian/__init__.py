"""Local energies: forward Laplacians, Ewald sums and pseudopotentials."""

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
from .pseudopotential import Pseudopotential as Pseudopotential
from .quadrature import SphericalQuadrature as SphericalQuadrature
