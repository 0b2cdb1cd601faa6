"""What a wave function is."""

import abc

import equinox as eqx

from .._crystal import Crystal
from .._types import Electrons, LogPsi


class AbstractWavefunction(eqx.Module):
    """A many-electron wave function of a crystal.

    Electrons are ordered by spin: first `crystal.electrons[0]` up, then
    `crystal.electrons[1]` down. A wave function is antisymmetric under exchange of two
    electrons of the same spin and obeys the twisted boundary condition of its crystal.
    """

    crystal: eqx.AbstractVar[Crystal]

    @abc.abstractmethod
    def __call__(self, electrons: Electrons) -> LogPsi:
        """The amplitude at one configuration; `jax.vmap` it over walkers.

        **Arguments:**

        - `electrons`: positions in Bohr, (electrons, 3), spin-up first.

        **Returns:**

        The sign (or phase) and logarithm of psi, [`eqsym.LogPsi`][].
        """
