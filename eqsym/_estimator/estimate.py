"""A mean with its error bar, from many correlated chains, and arithmetic with it."""

import dataclasses
import numbers
import uuid
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Float, Inexact, PyTree

from .._core import Key, on_host


# Standard errors by which a share must be positive.
_PRESENT = 3


class _Traced:
    """Remembers which samples a number comes from, outside of the fields: comparisons
    and `vars` see the numbers alone."""

    __slots__ = ("_origin",)
    _origin: frozenset[str]


# Not a module, but one leaf of the trees that results are: so `jax.tree.map` over a
# result computes with estimates, which stay what they are.
@dataclasses.dataclass(frozen=True, repr=False)
class Estimate(_Traced):
    """A mean and its standard error.

    It prints as `-8.5178(21)`, with the error in units of the last digits, and
    `float(e)` is the mean. Results can be computed with: errors propagate to first
    order, of estimates that are independent.

    ```python
    27.2114 * found.energy              # in eV
    atom.energy - solid.energy          # two evaluations, each with its own key
    ```

    Numbers are taken as exact. Estimates from the same samples are correlated, and
    their errors do not add up like this. Arithmetic with two of them raises an error:
    two numbers of one result; numbers of two evaluations with the same `key`, which
    share their random moves; an estimate and itself. The differences that one wants of
    them are fields of the results, with errors of paired differences: `difference` of
    [`eqsym.PostHoc`][] and of the parts of [`eqsym.Sectors`][].

    `Estimate(-8.5178, 0.0021)` makes one of numbers from elsewhere, which counts as
    independent of all others.
    """

    mean: float
    error: float

    # Arrays of numpy leave arithmetic to the methods below.
    __array_ufunc__: ClassVar[None] = None

    def __post_init__(self):
        object.__setattr__(self, "_origin", _elsewhere())

    def to_dict(self) -> dict[str, float]:
        """`{"mean": .., "error": ..}`, for JSON."""
        return {"mean": self.mean, "error": self.error}

    def __str__(self) -> str:
        return _with_error(self.mean, self.error)

    def __repr__(self) -> str:
        return f"Estimate({self})"

    def __float__(self) -> float:
        return float(self.mean)

    # Copies come from the same samples.
    def __reduce__(self):
        return estimate_from, (self._origin, self.mean, self.error)

    def __add__(self, other: Any) -> "Estimate":
        return _propagated(self, other, lambda a, b: (a + b, 1.0, 1.0))

    def __sub__(self, other: Any) -> "Estimate":
        return _propagated(self, other, lambda a, b: (a - b, 1.0, -1.0))

    def __mul__(self, other: Any) -> "Estimate":
        return _propagated(self, other, lambda a, b: (a * b, b, a))

    def __truediv__(self, other: Any) -> "Estimate":
        return _propagated(self, other, lambda a, b: (a / b, 1 / b, -a / b / b))

    def __rtruediv__(self, other: Any) -> "Estimate":
        return _propagated(self, other, lambda a, b: (b / a, -b / a / a, 1 / a))

    def __radd__(self, other: Any) -> "Estimate":
        return self + other

    def __rmul__(self, other: Any) -> "Estimate":
        return self * other

    def __rsub__(self, other: Any) -> "Estimate":
        return -self + other

    def __neg__(self) -> "Estimate":
        return estimate_from(self._origin, -self.mean, self.error)

    def __pos__(self) -> "Estimate":
        return self

    def __abs__(self) -> "Estimate":
        return estimate_from(self._origin, abs(self.mean), self.error)


def estimate_from(origin: frozenset[str], mean: Any, error: Any) -> Estimate:
    """An estimate from known samples; of the error the modulus is taken."""
    found = Estimate(float(mean), abs(float(error)))
    object.__setattr__(found, "_origin", origin)
    return found


def origin_of(*sources: Key | Estimate) -> frozenset[str]:
    """What stands for samples: the keys that they were drawn with. Chains with one key
    take the same steps, also with two wave functions."""

    def one(source: Key | Estimate) -> frozenset[str]:
        if isinstance(source, Estimate):
            return source._origin
        return frozenset({on_host(jax.random.key_data(source)).tobytes().hex()})

    return frozenset().union(*map(one, sources))


def _elsewhere() -> frozenset[str]:
    """Samples that nothing else comes from."""
    return frozenset({uuid.uuid4().hex})


def _number(value: Any) -> float | None:
    """A real number of Python, numpy or JAX as one of Python."""
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, (np.ndarray, jax.Array)) and not value.shape:
        return None if np.iscomplexobj(value) else float(value)
    return None


def _propagated(
    one: Estimate,
    other: Any,
    function: Callable[[float, float], tuple[float, float, float]],
) -> Any:
    """A function of two means, with the error to first order; `NotImplemented` for
    anything but estimates and numbers, which are exact.

    **Arguments:**

    - `function`: of the means, returns its value and its derivatives by both.

    **Raises:** `ValueError` for estimates from the same samples.
    """
    if isinstance(other, Estimate):
        mean, error, origin = other.mean, other.error, other._origin
    else:
        mean, error, origin = _number(other), 0.0, frozenset()
    if mean is None:
        return NotImplemented
    if one._origin & origin:
        raise ValueError(
            f"{one} and {other} come from the same samples, or from the same random "
            "numbers, so that they are correlated: the error of what you ask for does "
            "not follow from theirs. Use the `difference` that `post_hoc` and each part"
            " of `sectors` have, or another `key` for each evaluation; without an "
            "error, compute with `float(...)` of each."
        )
    value, by_one, by_other = function(one.mean, mean)
    both = np.hypot(by_one * one.error, by_other * error)
    return estimate_from(one._origin | origin, value, both)


def is_present(weight: Estimate) -> bool:
    """Whether a projection with this share of a wave function has an energy: else the
    energy would be a ratio of two numbers that are both 0 up to noise."""
    return weight.mean > _PRESENT * weight.error and weight.mean > 1e-12


def jackknife(
    means: PyTree,
    function: Callable[[Any], Any],
    origin: frozenset[str] | None = None,
) -> Any:
    """Functions of means, with jackknife errors over independent chains.

    The chain of one walker is one block, so that the autocorrelation of a chain,
    however long, is accounted for. The bias is of the order of one over the number of
    chains, and is removed to first order.

    **Arguments:**

    - `means`: a tree of arrays, (chains, ...): means of some moments over each chain.
    - `function`: from such a tree, with sets of means along the first axis, to a tree
        of real numbers, (sets,), a named tuple of results.
    - `origin`: of the samples, from `origin_of`; one of their own if it is not known.

    **Returns:**

    The tree of results, of estimates.

    **Raises:** `ValueError` for fewer than two chains.
    """
    chains = len(jax.tree.leaves(means)[0])
    if chains < 2:
        raise ValueError(
            f"An error bar needs at least 2 walkers (independent chains), got {chains}."
        )

    origin = _elsewhere() if origin is None else origin

    def all_but_one(values: Inexact[np.ndarray, "chains ..."]) -> np.ndarray:
        return (np.sum(values, axis=0)[None] - values) / (chains - 1)

    def estimate(
        whole: Float[np.ndarray, "1"], without: Float[np.ndarray, " chains"]
    ) -> Estimate:
        center = np.mean(without)
        error = np.sqrt((chains - 1) * np.mean((without - center) ** 2))
        mean = chains * whole[0] - (chains - 1) * center
        return estimate_from(origin, mean, error)

    averages = jax.tree.map(lambda x: np.mean(x, axis=0, keepdims=True), means)
    return jax.tree.map(
        estimate, function(averages), function(jax.tree.map(all_but_one, means))
    )


def _with_error(mean: float, error: float) -> str:
    """`-8.5178(21)`: the error in units of the last digits, two of them."""
    if not np.isfinite(mean) or not np.isfinite(error):
        return f"{mean:.6g}({error:.2g})"
    if error == 0:
        return f"{mean:.6g}(0)"
    digits = max(0, 1 - int(np.floor(np.log10(error))))
    if digits > 8 and abs(mean) < 1e-3:
        return f"{mean:.2e}({error:.0e})"
    scaled = round(error * 10**digits)
    if scaled == 100 and digits > 0:
        digits, scaled = digits - 1, 10
    return f"{mean:.{digits}f}({scaled})"
