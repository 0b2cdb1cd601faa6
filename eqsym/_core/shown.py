"""Short texts for modules in notebooks and messages, in place of the whole tree."""

import abc
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from fractions import Fraction
from types import FunctionType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import wadler_lindig as wl
from jax.core import Tracer


# Modules inside of modules are cut off until the rest fits on this many lines.
_LINES = 15
_DEPTH = 5
# Denominators of numbers that are written as fractions, and rounding.
_SIMPLE = 24
_ROUNDING = 1e-9


class AbstractModule(eqx.Module):
    """A module whose `repr` is some lines. The whole tree, with all that is inside, is
    what `equinox.tree_pformat` returns."""

    def __repr__(self) -> str:
        depth = _DEPTH
        text = _shown(self, depth)
        while depth > 1 and text.count("\n") >= _LINES:
            depth -= 1
            text = _shown(self, depth)
        return text


class AbstractSummarized(AbstractModule):
    """A module that is known by a few facts, on one line."""

    @abc.abstractmethod
    def _summary(self) -> str:
        """The facts, without the name of the class."""


# Classes with another one say on their own what matters.
_GENERAL = (eqx.Module.__repr__, AbstractModule.__repr__)


def _shown(module: AbstractModule, depth: int) -> str:
    return wl.pformat(module, width=88, custom=_forms(depth))


def _forms(depth: int, inside: Any = None) -> Callable[[Any], wl.AbstractDoc | None]:
    """How to write an object; of a module of other modules as many levels."""

    def form(value: Any) -> wl.AbstractDoc | None:
        if isinstance(value, AbstractSummarized):
            return wl.TextDoc(f"{type(value).__name__}({_facts(value)})")
        if isinstance(value, eqx.Module) and value is not inside:
            if type(value).__repr__ not in _GENERAL and "\n" not in repr(value):
                return wl.TextDoc(repr(value))
            if not depth and dataclasses.fields(value):
                return wl.TextDoc(f"{type(value).__name__}(...)")
            return wl.pdoc(value, custom=_forms(depth - 1, value))
        if isinstance(value, (jax.custom_jvp, jax.custom_vjp)):
            return wl.pdoc(value.__wrapped__)
        if isinstance(value, tuple) and _is_functions(value):
            return wl.TextDoc(f"{type(value).__name__}(...)")
        if isinstance(value, (jax.Array, np.ndarray)):
            number = _number(value)
            if number is None:
                return wl.array_summary(value.shape, value.dtype.name, kind=None)
            return wl.TextDoc(number)

    return form


def _is_functions(value: tuple) -> bool:
    """Whether it is a named tuple of functions, such as a transformation of optax."""
    is_named = getattr(value, "_fields", None) is not None
    return is_named and all(isinstance(one, FunctionType) for one in value)


def _facts(value: AbstractSummarized) -> str:
    try:
        return value._summary()
    except Exception:
        # In another tree of its structure, such as one of `None`.
        return "..."


def _number(value: jax.Array | np.ndarray) -> str | None:
    """An array of one number that is known here and now."""
    if value.ndim or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    if isinstance(value, jax.Array):
        if isinstance(value, Tracer) or value.is_deleted():
            return None
        if not value.is_fully_addressable:
            return None
    number = value.item()
    return f"{number:.6g}" if isinstance(number, (float, complex)) else f"{number}"


def formula(species: Iterable[str]) -> str:
    """Elements and how many there are of each, such as `B2 N2`."""
    counts = Counter(species)
    return " ".join(f"{name}{n if n > 1 else ''}" for name, n in counts.items())


def as_fraction(number: float, within: float = _ROUNDING, digits: int = 8) -> str:
    """A number as a fraction, such as `1/3`, if one with a small denominator is within
    rounding; otherwise with so many digits."""
    simple = Fraction(number).limit_denominator(_SIMPLE)
    near = abs(float(simple) - number) < within
    return str(simple) if near else f"{number:.{digits}f}"
