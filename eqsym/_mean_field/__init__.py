"""Hartree-Fock by PySCF, and its orbitals afterwards."""

from .mean_field import MeanField as MeanField, Occupation as Occupation
