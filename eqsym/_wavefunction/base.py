"""What a wave function is."""

import abc

import equinox as eqx
import numpy as np
from jaxtyping import Float

from .._core import Electrons, full_precision, LogPsi
from .._crystal import Crystal


class AbstractWavefunction(eqx.Module):
    """A many-electron wave function of a crystal.

    Electrons are ordered by spin: first `crystal.electrons[0]` up, then
    `crystal.electrons[1]` down. A wave function is antisymmetric under exchange of two
    electrons of the same spin and obeys the twisted boundary condition of its crystal:
    [`eqsym.check_wavefunction`][] tries whether it does.
    """

    crystal: eqx.AbstractVar[Crystal]

    @property
    @abc.abstractmethod
    def crystal_momentum(self) -> Float[np.ndarray, "3"] | None:
        r"""The total crystal momentum K in inverse Bohr, Cartesian: $\psi(x + t) =
        e^{i K \cdot t} \psi(x)$ for translations t of all electrons together by
        *primitive* lattice vectors. Only these phases matter: K is known modulo
        primitive reciprocal vectors.

        `None` where the function has no such momentum, or does not know it. Even then
        N electrons at the twist $k_s$ have the phase $e^{i N k_s \cdot L}$ for vectors
        L of the supercell. It is known when a function is made, and never traced.
        """

    @abc.abstractmethod
    def __call__(self, electrons: Electrons) -> LogPsi:
        """The amplitude at one configuration; `jax.vmap` it over walkers.

        **Arguments:**

        - `electrons`: positions in Bohr, (electrons, 3), spin-up first.

        **Returns:**

        The sign (or phase) and logarithm of psi, [`eqsym.LogPsi`][].
        """


@full_precision()
def amplitude(wavefunction: AbstractWavefunction, electrons: Electrons) -> LogPsi:
    """The amplitude at one configuration, with the matrix products of any network in
    full precision: weights and ratios are of the same function that is sampled."""
    return wavefunction(electrons)
