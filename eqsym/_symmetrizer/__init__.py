"""Weighted orbits, and wave functions that are averages over them."""

from .canonicalization import (
    AbstractSmoothing as AbstractSmoothing,
    Canonicalization as Canonicalization,
    RandomCanonicalization as RandomCanonicalization,
    SmoothStep as SmoothStep,
    SplineStep as SplineStep,
)
from .momentum import check_projection as check_projection
from .orbitals import SymmetrizedOrbitals as SymmetrizedOrbitals
from .orbits import (
    AbstractProjection as AbstractProjection,
    AbstractRandomSymmetrizer as AbstractRandomSymmetrizer,
    AbstractSymmetrizer as AbstractSymmetrizer,
    as_weights as as_weights,
    check_projector as check_projector,
    GroupAverage as GroupAverage,
    IrrepProjection as IrrepProjection,
    Orbit as Orbit,
    Symmetrized as Symmetrized,
    symmetry_ratio as symmetry_ratio,
)
from .subsets import (
    check_subset as check_subset,
    draw_operations as draw_operations,
    draw_with_identity as draw_with_identity,
    pair_weights as pair_weights,
    RandomSubset as RandomSubset,
    SubsetAverage as SubsetAverage,
)
