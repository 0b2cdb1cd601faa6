"""Types of arguments, the amplitude of a wave function, the split of parameters and
data."""

import operator
from collections.abc import Mapping
from numbers import Real
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Inexact, Key as KeyArray, PyTree

from .shown import AbstractModule


Electrons: TypeAlias = Float[Array, "electrons 3"]
Walkers: TypeAlias = Float[Array, "walkers electrons 3"]
Key: TypeAlias = KeyArray[Array, ""]
# What arguments that are counts may be; kept as `int`.
Integer: TypeAlias = int | np.integer

# Of a value in a message.
_SHOWN = 60


def whole_number(
    name: str,
    value: Any,
    least: int | None = None,
    *,
    of: str = "",
    floats: bool = False,
) -> int:
    """An argument that must be an integer, of Python, numpy or JAX, as one of Python:
    static data is compared, and written to JSON.

    **Arguments:**

    - `name`: of the argument.
    - `value`: what was given.
    - `least`: the smallest integer that is allowed.
    - `of`: what it is a number of, for the message.
    - `floats`: whether floating-point numbers with an integer value are, too.

    **Raises:** `ValueError` that names the argument for anything else. `True` is not a
    number of anything.
    """
    given = value
    if floats and isinstance(value, (float, np.floating)) and float(value).is_integer():
        given = int(value)
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(given)
    except TypeError:
        integral = isinstance(value, (float, np.floating)) and value == value // 1
        hint = f": write {int(value)}" if integral else ""
        raise ValueError(
            f"`{name}` must be an integer, got {_short(value)}{hint}."
        ) from None
    if least is not None and number < least:
        at_least = f"be at least {least} {of}".strip() if least else "not be negative"
        raise ValueError(f"`{name}` must {at_least}, got {number}.")
    return number


def check_kind(
    name: str,
    value: Any,
    kind: type | tuple[type, ...],
    wanted: str,
    instead: Mapping[type, str] | None = None,
) -> None:
    """Says what to type if an argument is not of the right kind, before it fails
    somewhere inside: a class instead of an instance, exchanged arguments, what has to
    be wrapped first.

    **Arguments:**

    - `name`: of the argument.
    - `value`: what was given.
    - `kind`: the class it must be an instance of, or several.
    - `wanted`: what it must be and how to make one, for the message: "an optimizer,
        such as `eqs.Spring()`".
    - `instead`: for some wrong kinds a sentence that says what to type instead. It is
        found for an instance and for the class itself.

    **Raises:** `ValueError` in one line.
    """
    # `True` is not a number of anything.
    if isinstance(value, kind) and not (kind is Real and isinstance(value, bool)):
        return
    is_class = isinstance(value, type)
    if is_class:
        got = f"the class `{value.__name__}`"
    else:
        plain = _is_plain(value)
        got = _short(value) if plain else f"an instance of `{type(value).__name__}`"
    message = f"`{name}` must be {wanted}, got {got}."
    if is_class and issubclass(value, kind):
        message += f" Make an instance of it: `{value.__name__}(...)`."
    kind_of = value if is_class else type(value)
    # What is said about any module is about those that users write.
    ours = kind_of.__module__.partition(".")[0] == "eqsym"
    for other, sentence in (instead or {}).items():
        if issubclass(kind_of, other) and not (ours and other is eqx.Module):
            message += f" {sentence}"
            break
    raise ValueError(message)


def _is_plain(value: Any) -> bool:
    """Whether it says what it is in a few words."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    known = (bool, int, float, str, np.ndarray, np.generic, jax.Array)
    return value is None or isinstance(value, known)


def random_key(key: Any) -> Key:
    """An argument that must be a random key, one of `jax.random.PRNGKey` included.

    **Raises:** `ValueError` that says how to make one for anything else.
    """
    if isinstance(key, jax.Array):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not key.shape:
            return key
        if key.dtype == jnp.uint32 and key.shape == (2,):
            return jax.random.wrap_key_data(key)
    seed = key if type(key) is int else 0
    raise ValueError(
        f"`key` must be a random key, such as `jax.random.key({seed})`, got "
        f"{_short(key)}."
    )


def _short(value: Any) -> str:
    """In a message: of arrays the shape, of others the beginning."""
    if getattr(value, "shape", ()):
        return f"an array of shape {tuple(value.shape)}"
    if isinstance(value, jax.Array) and jnp.issubdtype(
        value.dtype, jax.dtypes.prng_key
    ):
        return "a random key"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


class LogPsi(AbstractModule):
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


class AbstractFixed(AbstractModule):
    """Marks modules whose arrays are data (a lattice, a mean field, a group), not
    parameters: [`eqsym.partition`][] never counts them as trainable. Derive a module
    from it to hold the constants of a wave function of your own."""


def _is_fixed(node) -> bool:
    return isinstance(node, AbstractFixed)


def _is_parameter(leaf) -> bool:
    is_data = _is_fixed(leaf) or not eqx.is_inexact_array(leaf)
    return not (is_data or jnp.iscomplexobj(leaf))


def partition(tree: PyTree) -> tuple[PyTree, PyTree]:
    """Splits a module into its trainable parameters and everything else.

    Parameters are the real floating-point arrays outside of crystals, mean fields,
    groups and other modules derived from [`eqsym.AbstractFixed`][]. Those of numpy too:
    JAX makes arrays of its own of them when it compiles. As few of them are meant to be
    trained, [`eqsym.check_wavefunction`][] refuses them. It refuses complex arrays too,
    which are not trained. The inverse is [`eqsym.combine`][].

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
