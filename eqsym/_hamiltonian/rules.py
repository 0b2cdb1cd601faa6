"""Derivatives and Laplacians of single operations of JAX.

Each rule takes what the operation takes, at least one of it a `Differentiated`, and
keeps derivatives sparse if it can. It returns `None` for a case that it leaves to
folx. So are operations that are not here, and derivatives are made dense for it.
"""

from collections.abc import Callable
from typing import Any

from .axes import (
    broadcast_in_dim,
    concatenate,
    indexed,
    reshape,
    reverse,
    sliced,
    squeeze,
    tile,
    transpose,
)
from .derivatives import Differentiated
from .entries import absolute, added, linear, of_one, product, quotient, select
from .operation import Operation
from .sums import dot_general, reduce_sum


_Rule = Callable[[Operation, list[Any]], Differentiated | None]


def differentiate(
    name: str, operation: Operation, inputs: list[Any]
) -> Differentiated | None:
    """The output of an operation that has one output, if there is a rule for it."""
    rule = _RULES.get(name)
    return None if rule is None else rule(operation, inputs)


_FUNCTIONS = (
    "acos acosh asin asinh atan atan2 atanh cbrt clamp cos cosh digamma erf erf_inv "
    "erfc exp exp2 expm1 integer_pow lgamma log log1p logistic max min pow "
    "rem rsqrt sigmoid silu sin sinh softplus sqrt square tan tanh"
).split()
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_FUNCTIONS, of_one),
    **dict.fromkeys("conj convert_element_type copy imag neg real".split(), linear),
    **dict.fromkeys("add add_any complex sub".split(), added),
    "abs": absolute,
    "broadcast_in_dim": broadcast_in_dim,
    "concatenate": concatenate,
    "div": quotient,
    "dot_general": dot_general,
    "dynamic_slice": indexed,
    "gather": indexed,
    "mul": product,
    "reduce_sum": reduce_sum,
    "reshape": reshape,
    "rev": reverse,
    "select_n": select,
    "slice": sliced,
    "squeeze": squeeze,
    "tile": tile,
    "transpose": transpose,
}
