from .base import AbstractWavefunction as AbstractWavefunction
from .features import (
    AbstractFeatures as AbstractFeatures,
    Displacement as Displacement,
    NuFeatures as NuFeatures,
    TriFeatures as TriFeatures,
)
from .hartree_fock import HartreeFock as HartreeFock
from .solidnet import SolidNet as SolidNet
