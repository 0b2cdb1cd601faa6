"""Wave functions: one configuration in, the logarithm of the amplitude out."""

from .attention import AttentionNet as AttentionNet
from .base import (
    AbstractFactor as AbstractFactor,
    AbstractOrbitalNetwork as AbstractOrbitalNetwork,
    AbstractWavefunction as AbstractWavefunction,
    amplitude as amplitude,
    check_derived as check_derived,
    NOT_DERIVED as NOT_DERIVED,
    one_moved as one_moved,
    orbital_network as orbital_network,
    without_factor as without_factor,
)
from .bloch import (
    AbstractBlochNetwork as AbstractBlochNetwork,
    BlochOrbitals as BlochOrbitals,
    Orbitals as Orbitals,
)
from .compact import (
    compact_lattice as compact_lattice,
    shortest_kpoints as shortest_kpoints,
)
from .features import (
    AbstractFeatures as AbstractFeatures,
    NuFeatures as NuFeatures,
    TriFeatures as TriFeatures,
)
from .hartree_fock import HartreeFock as HartreeFock
from .jastrow import Jastrow as Jastrow
from .linear import Linear as Linear
from .promises import check_values as check_values, refuse as refuse
from .solidnet import SolidNet as SolidNet
from .walkers import (
    as_walkers as as_walkers,
    check_walkers as check_walkers,
    first_walkers as first_walkers,
    initial_walkers as initial_walkers,
)
