"""Kinetic operators and the local energy."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from .._core import AbstractModule, checked, Electrons, full_precision, Key
from .._crystal import Crystal
from .._wavefunction import AbstractWavefunction
from .ewald import Ewald
from .laplacian import forward_laplacian
from .pseudopotential import Pseudopotential
from .quadrature import SphericalQuadrature


class LocalEnergy(AbstractModule):
    r"""The local energy $H\psi / \psi$ in Hartree, for the whole supercell.

    - `kinetic`: complex if the wave function is.
    - `potential`: the Coulomb energy.
    - `pseudopotential`: of the pseudopotentials, local and nonlocal, complex if the
        wave function is; 0 without.

    Batches carry the same leading axes on all fields.
    """

    kinetic: Inexact[Array, "*batch"]
    potential: Float[Array, "*batch"]
    pseudopotential: Inexact[Array, "*batch"]

    def __init__(
        self,
        kinetic: Inexact[Array, "*batch"],
        potential: Float[Array, "*batch"],
        pseudopotential: Inexact[Array, "*batch"] | None = None,
    ):
        """**Arguments:**

        - `kinetic`, `potential`: the two parts that every crystal has.
        - `pseudopotential`: 0 by default.
        """
        self.kinetic = kinetic
        self.potential = potential
        if pseudopotential is None:
            pseudopotential = jnp.zeros_like(kinetic)
        self.pseudopotential = pseudopotential

    @property
    def total(self) -> Inexact[Array, "*batch"]:
        """The sum of the parts in Hartree."""
        coulomb = self.kinetic + self.potential.astype(self.kinetic.dtype)
        return coulomb + self.pseudopotential.astype(self.kinetic.dtype)


def check_crystals(
    wavefunction: AbstractWavefunction, hamiltonian: "AbstractHamiltonian"
) -> None:
    """Raises `ValueError` if they are not of the same crystal."""
    different = wavefunction.crystal.difference(hamiltonian.crystal)
    if different is not None:
        raise ValueError(
            "`wavefunction` and `hamiltonian` must have the same crystal, but between "
            f"theirs {different}."
        )


class AbstractKinetic(AbstractModule):
    """A way to evaluate the local kinetic energy."""

    @abc.abstractmethod
    def __call__(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Inexact[Array, ""]:
        r"""The local kinetic energy at one configuration,

        $$-\frac{1}{2} \frac{\nabla^2 \psi}{\psi} = -\frac12 \left[ \nabla^2 \log\psi +
        \nabla\log\psi \cdot \nabla\log\psi \right]$$

        without complex conjugation.

        **Arguments:**

        - `wavefunction`: the wave function.
        - `electrons`: positions in Bohr, (electrons, 3).

        **Returns:**

        The energy in Hartree, complex if the wave function is.
        """


class ForwardLaplacian(AbstractKinetic):
    """Value, gradient and Laplacian in one forward pass.

    What depends on few coordinates, such as a feature of two electrons, has derivatives
    by these only. Most operations of JAX have a rule for that. The others are left to
    `folx`, with derivatives by all coordinates; and of those that it does not know
    either, the whole Hessian is computed, which a warning tells. Of a `jax.custom_vjp`
    function it differentiates the function, and not its rule.

    **Raises:** `ValueError` when called with a wave function that has an operation it
    cannot differentiate. The message names the operation and what else to try,
    [`eqsym.HessianLaplacian`][].

    R. Li, H. Ye, D. Jiang et al., "A computational framework for neural network-based
    variational Monte Carlo with forward Laplacian", Nat. Mach. Intell. 6, 209 (2024).
    """

    @full_precision()
    def __call__(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Inexact[Array, ""]:
        """See [`eqsym.AbstractKinetic`][]."""
        results = forward_laplacian(_log_parts(wavefunction), electrons)
        return _kinetic(
            [result.gradient for result in results],
            [result.laplacian for result in results],
        )


class HessianLaplacian(AbstractKinetic):
    """The diagonal of the Hessian, one coordinate after another. A slow reference,
    for tests and for wave functions that [`eqsym.ForwardLaplacian`][] cannot
    differentiate. JAX must be able to, forward and twice: not through `jax.custom_vjp`.
    """

    @full_precision()
    def __call__(
        self, wavefunction: AbstractWavefunction, electrons: Electrons
    ) -> Inexact[Array, ""]:
        """See [`eqsym.AbstractKinetic`][]."""
        coordinates = electrons.reshape(-1)
        parts = _log_parts(wavefunction)

        # Forward mode twice: forward over reverse mode loses derivatives of complex
        # determinants inside of loops (jax 0.10.2).
        def derivatives(direction):
            def first(x):
                flat = lambda x: parts(x.reshape(electrons.shape))
                return jax.jvp(flat, (x,), (direction,))[1]

            return jax.jvp(first, (coordinates,), (direction,))

        directions = jnp.eye(coordinates.size, dtype=coordinates.dtype)
        firsts, seconds = jax.lax.map(derivatives, directions)
        return _kinetic(firsts, [jnp.sum(part) for part in seconds])


def _log_parts(wavefunction: AbstractWavefunction):
    """`electrons -> [log |psi|]`, followed by the phase if psi is complex: real
    functions, so that derivatives never conjugate anything."""

    def parts(electrons):
        psi = wavefunction(electrons)
        return [psi.log] if psi.is_real else [psi.log, psi.phase]

    return parts


def _kinetic(
    gradients: list[Float[Array, " coordinates"]], laplacians: list[Float[Array, ""]]
) -> Inexact[Array, ""]:
    """From the derivatives of log |psi| and, if there are any, of the phase."""
    if len(gradients) == 1:
        (gradient,), (laplacian,) = gradients, laplacians
        return -0.5 * (laplacian + jnp.sum(gradient**2))
    modulus, phase = gradients
    real = laplacians[0] + jnp.sum(modulus**2) - jnp.sum(phase**2)
    imag = laplacians[1] + 2 * jnp.sum(modulus * phase)
    return jax.lax.complex(-0.5 * real, -0.5 * imag)


class AbstractHamiltonian(AbstractModule):
    """The energy operator of a crystal."""

    crystal: eqx.AbstractVar[Crystal]

    @abc.abstractmethod
    def local_energy(
        self,
        wavefunction: AbstractWavefunction,
        electrons: Electrons,
        *,
        key: Key | None = None,
    ) -> LocalEnergy:
        r"""$H\psi / \psi$ at one configuration; `jax.vmap` it over walkers and keys.

        **Arguments:**

        - `wavefunction`: the wave function.
        - `electrons`: positions in Bohr, (electrons, 3), spin-up first.
        - `key`: for a local energy that is random and right in the mean, another one
            for each walker. Training and estimators always give one.

        **Returns:**

        The energies of the supercell, [`eqsym.LocalEnergy`][].
        """

    def __call__(
        self,
        wavefunction: AbstractWavefunction,
        electrons: Float[Array, "..."],
        *,
        key: Key | None = None,
    ) -> LocalEnergy:
        """The same as `local_energy`.

        **Raises:** `ValueError` for walkers in place of one configuration, and without
        a key if one is needed.
        """
        if electrons.ndim != 2:
            raise ValueError(
                "`electrons` must be one configuration, of shape (electrons, 3), got "
                f"an array of shape {electrons.shape}. For walkers type "
                "`jax.vmap(lambda x: hamiltonian(wavefunction, x))(walkers)`."
            )
        return self.local_energy(wavefunction, electrons, key=key)


class Hamiltonian(AbstractHamiltonian):
    r"""Non-relativistic electrons and clamped nuclei of a crystal,

    $$H = -\frac12 \sum_i \nabla_i^2 + V(x) + V_\mathrm{ECP}$$

    with the periodic Coulomb energy V of [`eqsym.Ewald`][], and the effective core
    potentials of [`eqsym.Pseudopotential`][] if the crystal has any. The local energy
    of these is random, and needs a key, unless the points of their quadrature are
    fixed.
    """

    crystal: Crystal
    ewald: Ewald
    kinetic: AbstractKinetic
    pseudopotential: Pseudopotential | None

    @checked
    def __init__(
        self,
        crystal: Crystal,
        *,
        kinetic: AbstractKinetic | None = None,
        alpha: float | None = None,
        quadrature: SphericalQuadrature | None = None,
    ):
        """**Arguments:**

        - `crystal`: the crystal.
        - `kinetic`: the way to evaluate the kinetic energy, by default
            [`eqsym.ForwardLaplacian`][].
        - `alpha`: splitting parameter of the Ewald sums in inverse Bohr, chosen for the
            least cost if not given. The energy does not depend on it.
        - `quadrature`: for the angular integrals of pseudopotentials, by default 12
            points turned at random.

        **Raises:** `ValueError` for arguments of the wrong kind, and for a quadrature
        if the crystal has no pseudopotential.
        """
        if quadrature is not None and not crystal.pseudopotential:
            raise ValueError(
                "`quadrature` is for pseudopotentials, and the crystal has none: leave "
                "it out, or make the crystal with `pseudopotential='ccecp'`."
            )
        self.crystal = crystal
        self.ewald = Ewald(crystal, alpha=alpha)
        self.kinetic = ForwardLaplacian() if kinetic is None else kinetic
        has_cores = bool(crystal.pseudopotential)
        self.pseudopotential = (
            Pseudopotential(crystal, quadrature) if has_cores else None
        )

    def local_energy(
        self,
        wavefunction: AbstractWavefunction,
        electrons: Electrons,
        *,
        key: Key | None = None,
    ) -> LocalEnergy:
        """See [`eqsym.AbstractHamiltonian`][].

        **Raises:** `ValueError` without a key if one is needed.
        """
        kinetic, potential = (
            self.kinetic(wavefunction, electrons),
            self.ewald(electrons),
        )
        if self.pseudopotential is None:
            return LocalEnergy(kinetic, potential)
        cores = self.pseudopotential(wavefunction, electrons, key=key)
        return LocalEnergy(kinetic, potential, cores)
