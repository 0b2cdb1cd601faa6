"""A wave function and a Hamiltonian so simple that everything about them is known."""

import hashlib
from pathlib import Path

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import eqsym as eqs
import flags


# The environment of scripts at toy size.
QUICK = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.quick()}


def hydrogen(**kwargs) -> eqs.Crystal:
    """One hydrogen atom, primitive cubic."""
    return eqs.Crystal(
        4.0 * np.eye(3), ["H"], frac_positions=[[0, 0, 0]], unit="bohr", **kwargs
    )


def cart_twist(crystal):
    """The twist in inverse Bohr."""
    return crystal.twist @ crystal.supercell.reciprocal


class Waves(eqs.AbstractWavefunction):
    r"""$\exp \sum_{il} (a_l \cos w_{il} + c_l \sin w_{il} + i b_l \sin w_{il})$ with
    $w_{il} = b_l \cdot r_i$ for the reciprocal vectors of the primitive cell. Electrons
    are independent, and so are fractional coordinates. Real without b. In a crystal
    with a twist times its phase."""

    crystal: eqs.Crystal
    a: Float[Array, "3"]
    b: Float[Array, "3"] | None = None
    c: Float[Array, "3"] | None = None

    @property
    def crystal_momentum(self):
        return sum(self.crystal.electrons) * cart_twist(self.crystal)

    def __call__(self, electrons):
        reciprocal = jnp.asarray(self.crystal.lattice.reciprocal, electrons.dtype)
        w = electrons @ reciprocal.T
        twist = cart_twist(self.crystal)
        log = jnp.sum(jnp.cos(w) @ self.a.astype(w.dtype))
        if self.c is not None:
            log += jnp.sum(jnp.sin(w) @ self.c.astype(w.dtype))
        if self.b is None and not np.any(twist):
            return eqs.LogPsi(jnp.ones((), w.dtype), log)
        phase = jnp.sum(electrons @ jnp.asarray(twist, w.dtype))
        if self.b is not None:
            phase += jnp.sum(jnp.sin(w) @ self.b.astype(w.dtype))
        return eqs.LogPsi(jax.lax.complex(jnp.cos(phase), jnp.sin(phase)), log)


def waves(crystal=None, *, a=(0.5, 0.2, -0.3), b=None, c=None) -> Waves:
    return Waves(
        hydrogen() if crystal is None else crystal,
        *(None if v is None else jnp.asarray(v, float) for v in (a, b, c)),
    )


class Lattice(eqs.AbstractHamiltonian):
    """Electrons that do not interact, in the potential `-depth sum_l cos w_l`."""

    crystal: eqs.Crystal
    depth: float = 0.5
    kinetic: eqs.AbstractKinetic = eqx.field(default_factory=eqs.HessianLaplacian)

    def local_energy(self, wavefunction, electrons, *, key=None):
        reciprocal = jnp.asarray(self.crystal.lattice.reciprocal, electrons.dtype)
        potential = -self.depth * jnp.sum(jnp.cos(electrons @ reciprocal.T))
        return eqs.LocalEnergy(self.kinetic(wavefunction, electrons), potential)


class Settings:
    """An object of a plain class, as users have them."""

    def __init__(self, depth):
        self.depth = depth


class Configured(eqs.AbstractHamiltonian):
    """The same Hamiltonian, with an object for its settings."""

    crystal: eqs.Crystal
    settings: Settings = eqx.field(static=True)

    def local_energy(self, wavefunction, electrons, *, key=None):
        hamiltonian = Lattice(self.crystal, self.settings.depth)
        return hamiltonian.local_energy(wavefunction, electrons)


class AbstractAround(eqs.AbstractWavefunction):
    """Made of another wave function; its momentum is not known."""

    inside: eqx.AbstractVar[eqs.AbstractWavefunction]

    @property
    def crystal(self):
        return self.inside.crystal

    @property
    def crystal_momentum(self):
        return None


class Cut(AbstractAround):
    """No amplitude in a part of the cell."""

    inside: eqs.AbstractWavefunction

    def __call__(self, electrons):
        psi = self.inside(electrons)
        missing = electrons[0, 0] % 4.0 < 1
        return eqs.LogPsi(psi.sign, jnp.where(missing, jnp.nan, psi.log))


def seal(checkpoint: Path) -> None:
    """Makes the checksums of a changed checkpoint agree."""
    sums = [
        f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("arrays.npz", "description.json")
    ]
    (checkpoint / "SHA256SUMS").write_text("".join(sums))


def small_network(crystal, up, down, width=(4, 2)) -> eqs.SolidNet:
    """For orbitals at the k-points of both spins."""
    return eqs.SolidNet(
        crystal,
        eqs.Occupation((up, down)),
        widths=(width,),
        determinants=1,
        key=jax.random.key(0),
    )


class Counting(eqs.AbstractOptimizerState):
    """The state of an optimizer that counts its steps, and solves nothing."""

    count: Int[Array, ""]
    solver_retries: Int[Array, ""]

    def __init__(self, count=0):
        self.count = jnp.asarray(count)
        self.solver_retries = jnp.zeros((), int)


def walkers(crystal, count, seed=0) -> Float[Array, "walkers electrons 3"]:
    """Uniform in the supercell."""
    frac = np.random.default_rng(seed).uniform(size=(count, sum(crystal.electrons), 3))
    return jnp.asarray(crystal.supercell.to_cartesian(frac))


def grid(crystal, points=16) -> Float[Array, "points 1 3"]:
    """All places of one electron: the mean of what is smooth and periodic is its mean
    over these, up to terms exponentially small in the number of points."""
    axes = np.meshgrid(*[np.arange(points) / points] * 3, indexing="ij")
    frac = np.stack(axes, axis=-1).reshape(-1, 1, 3)
    return jnp.asarray(crystal.supercell.to_cartesian(frac))


def flat(tree) -> np.ndarray:
    """All arrays of a tree in one vector."""
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def stacked(values) -> np.ndarray:
    """Of complex numbers the real parts and then the imaginary parts."""
    return np.concatenate([values.real, values.imag][: 1 + np.iscomplexobj(values)])


@eqx.filter_jit
def _jacobian(wavefunction, places):
    parameters, rest = eqs.partition(wavefunction)
    vector, unravel = jax.flatten_util.ravel_pytree(parameters)

    def rows(vector):
        psi = jax.vmap(eqs.combine(unravel(vector), rest))(places)
        return jnp.stack([psi.log] if psi.is_real else [psi.log, psi.phase])

    return jax.jacrev(rows)(vector)


def dense_scores(wavefunction, places) -> np.ndarray:
    """The centered score matrix, real parts first."""
    jacobian = np.asarray(_jacobian(wavefunction, places))
    centered = jacobian - np.mean(jacobian, axis=1, keepdims=True)
    return centered.reshape(-1, jacobian.shape[-1]) / np.sqrt(len(places))


def pyscf_lih(**kwargs):
    """A cell of PySCF, with next to no basis."""
    from pyscf.pbc import gto

    return gto.M(
        a=4.08 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]),
        atom=[("Li", (0, 0, 0)), ("H", (2.04, 2.04, 2.04))],
        basis={"default": [[0, [1.0, 1.0]]]},
        unit="A",
        verbose=0,
        **kwargs,
    )
