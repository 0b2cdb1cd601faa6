"""Hartree-Fock mean fields: solved by PySCF, evaluated in JAX."""

from .bands import shell_gaps as shell_gaps, SMALLEST_GAP as SMALLEST_GAP
from .mean_field import (
    check_real_orbitals as check_real_orbitals,
    MeanField as MeanField,
    Occupation as Occupation,
)
from .pairs import (
    check_real as check_real,
    conjugates as conjugates,
    has_real_orbitals as has_real_orbitals,
)
