"""Array types, the amplitude of a wave function, the split of parameters and data."""

from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Inexact, Key as KeyArray, PyTree


Electrons: TypeAlias = Float[Array, "electrons 3"]
Walkers: TypeAlias = Float[Array, "walkers electrons 3"]
Key: TypeAlias = KeyArray[Array, ""]


class LogPsi(eqx.Module):
    r"""The value of a wave function, $\psi = \mathrm{sign} \cdot e^{\mathrm{log}}$.

    The convention of `jax.numpy.linalg.slogdet`: the dtype of `sign` tells real wave
    functions (sign is -1, 0 or 1) from complex ones (sign is a unit complex number, or
    0). Batches of amplitudes carry the same leading axes on both fields.
    """

    sign: Inexact[Array, "*batch"]
    log: Float[Array, "*batch"]

    @property
    def is_real(self) -> bool:
        """Whether the wave function is real-valued; known while tracing."""
        return not jnp.issubdtype(self.sign.dtype, jnp.complexfloating)

    @property
    def phase(self) -> Float[Array, "*batch"]:
        r"""$\arg \psi$ in radians; 0 or pi for a real wave function."""
        return jnp.angle(self.sign)

    @property
    def complex_log(self) -> Complex[Array, "*batch"]:
        r"""$\log |\psi| + i \arg \psi$."""
        return jax.lax.complex(self.log, self.phase)


class AbstractFixed(eqx.Module):
    """Marks modules whose arrays are data (a lattice, a mean field, a group), not
    parameters: [`eqsym.partition`][] never counts them as trainable. Derive a module
    from it to hold the constants of a wave function of your own."""


def _is_fixed(node) -> bool:
    return isinstance(node, AbstractFixed)


def _is_parameter(leaf) -> bool:
    return not _is_fixed(leaf) and eqx.is_inexact_array(leaf)


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a module into its trainable parameters and everything else.

    Parameters are the floating-point arrays outside of crystals, mean fields, groups
    and other modules derived from [`eqsym.AbstractFixed`][]. Those of numpy too: JAX
    makes arrays of its own of them when it compiles. As few of them are meant to be
    trained, [`eqsym.check_wavefunction`][] refuses them. The inverse is
    [`eqsym.combine`][].

    **Arguments:**

    - `tree`: any PyTree, usually a wave function.

    **Returns:**

    `(parameters, rest)`, two trees of the structure of `tree`, with `None` for what is
    in the other one.
    """
    return eqx.partition(tree, _is_parameter, is_leaf=_is_fixed)


def combine(parameters: PyTree, rest: PyTree) -> PyTree:
    """Puts together again what [`eqsym.partition`][] split.

    **Arguments:**

    - `parameters`, `rest`: the two trees that `partition` returned.

    **Returns:**

    The original tree.
    """
    return eqx.combine(parameters, rest, is_leaf=_is_fixed)
