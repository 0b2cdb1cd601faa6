"""Hartree-Fock mean fields: solved by PySCF, evaluated in JAX."""

from .mean_field import MeanField as MeanField, Occupation as Occupation
