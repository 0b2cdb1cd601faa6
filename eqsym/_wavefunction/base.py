"""The interface of wave functions, and their amplitudes."""

import abc
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact

from .._core import AbstractModule, check_kind, Electrons, full_precision, LogPsi
from .._crystal import Crystal
from .._mean_field import Occupation


_WANTED = "a wave function, such as `eqs.SolidNet(crystal, occupation, key=key)`"
_DERIVE = (
    "from `eqs.AbstractWavefunction`, with a field `crystal: eqs.Crystal`, a property "
    "`crystal_momentum` (`None` if you do not know it), and the amplitude at one "
    "configuration, `__call__(self, electrons)`: see `help(eqs.AbstractWavefunction)`."
)
# What to do with what is nearly one.
NOT_DERIVED: dict[type, str] = {
    eqx.Module: f"Derive its class {_DERIVE}",
    FunctionType: f"Put it into a class that is derived {_DERIVE}",
}


class AbstractWavefunction(AbstractModule):
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

        `None` if the function has no such momentum, or does not know it. Even then
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


# The amplitude with one electron at another place: a function of the electron, as a
# vector with 1 for it and 0 for the others, and of the place in Bohr.
Moved: TypeAlias = Callable[[Float[Array, " electrons"], Float[Array, "3"]], LogPsi]


class AbstractMovable(AbstractModule):
    """A wave function that saves work if only one electron is moved, as for
    pseudopotentials."""

    @abc.abstractmethod
    def with_one_moved(self, electrons: Electrons) -> Moved:
        """The amplitude around one configuration, for calls under `jax.vmap`."""


@full_precision()
def one_moved(wavefunction: AbstractWavefunction, electrons: Electrons) -> Moved:
    """The amplitude around one configuration, of any wave function."""
    if isinstance(wavefunction, AbstractMovable):
        return wavefunction.with_one_moved(electrons)

    def at(one: Float[Array, " electrons"], place: Float[Array, "3"]) -> LogPsi:
        return wavefunction(jnp.where(one[:, None] > 0, place[None], electrons))

    return at


class AbstractFactor(AbstractWavefunction):
    """Another wave function times a factor. It is evaluated once for each
    configuration, at this configuration and no other one."""

    wavefunction: eqx.AbstractVar[AbstractWavefunction]

    @abc.abstractmethod
    def log_factor(self, electrons: Electrons) -> Float[Array, ""]:
        """The logarithm of the factor, which is positive."""

    def times(self, psi: LogPsi, electrons: Electrons) -> LogPsi:
        """An amplitude times the factor at a configuration."""
        factor = self.log_factor(electrons)
        return LogPsi(psi.sign, psi.log + factor.astype(psi.log.dtype))


def without_factor(wavefunction: AbstractWavefunction) -> AbstractWavefunction:
    """The function inside, or itself if it has no factor."""
    if isinstance(wavefunction, AbstractFactor):
        return without_factor(wavefunction.wavefunction)
    return wavefunction


class AbstractOrbitalNetwork(AbstractWavefunction):
    """A network of orbitals that depend on all electrons, and determinants of them.

    A network of your own that derives from this can be pretrained on a mean field,
    [`eqsym.Pretraining`][], and its orbitals averaged, [`eqsym.SymmetrizedOrbitals`][].

    - `occupation`: the occupied k-points, one for each orbital.
    - `full_determinant`: whether the orbitals of both spins form one determinant
        (`True`) or one for each spin, which are multiplied.
    - `real`: whether the wave function is real-valued.
    """

    occupation: eqx.AbstractVar[Occupation]
    full_determinant: eqx.AbstractVar[bool]
    real: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def orbitals(
        self, electrons: Electrons, *, phases_at: Electrons | None = None
    ) -> tuple[
        Inexact[Array, "determinants up up_orbitals"],
        Inexact[Array, "determinants down down_orbitals"],
    ]:
        """The matrices inside the determinants.

        **Arguments:**

        - `electrons`: positions in Bohr.
        - `phases_at`: positions at which the Bloch phases are taken, `electrons` by
            default.

        **Returns:**

        Rows of the spin-up and of the spin-down electrons. With a full determinant the
        columns are the orbitals of both spins, spin-up first, and the rows of both
        make one square matrix; else each is square. The orbitals of one spin are in the
        order of `occupation`. Of two at k and -k, in a real network, the earlier one is
        the real part of an orbital at its k, and the later one the imaginary part.
        """

    @abc.abstractmethod
    def from_orbitals(
        self,
        up: Inexact[Array, "determinants up up_orbitals"],
        down: Inexact[Array, "determinants down down_orbitals"],
    ) -> LogPsi:
        """The amplitude that belongs to matrices as `orbitals` returns them."""


def orbital_network(
    purpose: str, wavefunction: AbstractWavefunction
) -> AbstractOrbitalNetwork:
    """The network of a wave function that is one, but for a factor.

    **Arguments:**

    - `purpose`: what the orbitals are needed for, the beginning of the message.
    - `wavefunction`: any.

    **Raises:** `ValueError` for any other.
    """
    network = without_factor(wavefunction)
    if not isinstance(network, AbstractOrbitalNetwork):
        raise ValueError(
            f"{purpose} the orbitals of a network such as `SolidNet` (an "
            "`AbstractOrbitalNetwork`), got the wave function "
            f"`{type(network).__name__}`."
        )
    return network


def check_derived(value: Any, wanted: str = _WANTED) -> None:
    """**Raises:** `ValueError` that says what to type, unless it is a wave function.

    **Arguments:**

    - `value`: the argument `wavefunction`.
    - `wanted`: what it must be, for the message.
    """
    check_kind("wavefunction", value, AbstractWavefunction, wanted, NOT_DERIVED)


@full_precision()
def amplitude(wavefunction: AbstractWavefunction, electrons: Electrons) -> LogPsi:
    """The amplitude at one configuration, with the matrix products of any network in
    full precision: weights and ratios are of the same function that is sampled."""
    return wavefunction(electrons)
