"""Derivatives and Laplacians of single operations of JAX.

Each rule takes what the operation takes, at least one of it a `Differentiated`, and
keeps derivatives sparse if it can. It returns `None` for a case that it leaves to
folx. So are operations that are not here, and derivatives are made dense for it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .derivatives import (
    compressed,
    dense,
    Differentiated,
    is_small,
    repeats,
    same,
    together,
    uniform,
)


class Operation(NamedTuple):
    """One operation to differentiate: what it does to arrays, its parameters, and the
    number of coordinates."""

    bind: Callable[..., Array]
    params: dict[str, Any]
    coordinates: int


_Rule = Callable[[Operation, list[Any]], Differentiated | None]


def differentiate(
    name: str, operation: Operation, inputs: list[Any]
) -> Differentiated | None:
    """The output of an operation that has one output, if there is a rule for it."""
    rule = _RULES.get(name)
    return None if rule is None else rule(operation, inputs)


def _varies(value: Any) -> bool:
    return isinstance(value, Differentiated)


def _plain(value: Any) -> Any:
    return value.value if _varies(value) else value


# Of single entries


def _linear(operation: Operation, inputs: list[Any]) -> Differentiated:
    return inputs[0].linear(operation.bind)


def _broadcast(value: Differentiated, shape: tuple[int, ...]) -> Differentiated:
    """Operations take scalars and axes of size 1 beside whole arrays."""
    if value.value.shape == shape:
        return value
    index, slots = value.which, value.slots
    if value.value.ndim < len(shape):
        more = (len(slots), *(1 for _ in shape))
        slots = slots.reshape(more)
        index = None if index is None else index.reshape(more)
    return Differentiated(
        jnp.broadcast_to(value.value, shape),
        jnp.broadcast_to(slots, (len(slots), *shape)),
        jnp.broadcast_to(value.laplacian, shape),
        index,
    )


def _alike(inputs: list[Any]) -> list[Any]:
    shape = np.broadcast_shapes(*(np.shape(_plain(value)) for value in inputs))
    return [_broadcast(v, shape) if _varies(v) else v for v in inputs]


def _of_one(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    """Any function of single entries, of which one argument varies."""
    varying = [i for i, value in enumerate(inputs) if _varies(value)]
    if len(varying) > 1:
        return None
    i, inputs = varying[0], _alike(inputs)
    function = lambda x: operation.bind(*inputs[:i], x, *inputs[i + 1 :])
    return _chain(function, inputs[i])


def _chain(function: Callable[[Array], Array], x: Differentiated) -> Differentiated:
    """By the chain rule, the derivatives of the function computed once."""
    one = jnp.ones_like(x.value)
    along = lambda f: lambda y: jax.jvp(f, (y,), (one,))
    (value, first), (_, second) = along(along(function))(x.value)
    laplacian = first * x.laplacian + second * jnp.sum(x.slots**2, axis=0)
    return Differentiated(value, first * x.slots, laplacian, x.which)


def _abs(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    is_complex = jnp.iscomplexobj(inputs[0].value)
    return None if is_complex else _of_one(operation, inputs)


def _sum(operation: Operation, inputs: list[Any]) -> Differentiated:
    """`add`, `sub` and `complex`: linear in each of two arguments."""
    inputs = _alike(inputs)
    varying = [v for v in inputs if _varies(v)]
    value = operation.bind(*(_plain(v) for v in inputs))
    varying = together(varying, operation.coordinates)
    rows = iter(varying)
    tangents = [next(rows) if _varies(v) else None for v in inputs]

    def apply(arrays, like):
        # What does not vary counts as zero.
        zero = jnp.zeros_like(like)
        return operation.bind(*(zero if a is None else a for a in arrays))

    def part(name):
        arrays = [None if t is None else getattr(t, name) for t in tangents]
        return apply(arrays, next(a for a in arrays if a is not None))

    return Differentiated(value, part("slots"), part("laplacian"), varying[0].which)


def _product(operation: Operation, inputs: list[Any]) -> Differentiated:
    a, b = _alike(inputs)
    if not (_varies(a) and _varies(b)):
        x, factor = (a, b) if _varies(a) else (b, a)
        return x.linear(lambda y: y * factor)
    return _multiply(a, b, operation.coordinates)


def _multiply(a: Differentiated, b: Differentiated, coordinates: int) -> Differentiated:
    if a.which is not None and b.which is None:
        a, b = b, a
    if a.which is None and b.which is not None:
        # Few of the derivatives meet.
        both = a.with_index(b.which).slots * b.slots
        b = b.dense(coordinates)
    else:
        a, b = together([a, b], coordinates)
        both = a.slots * b.slots
    laplacian = a.value * b.laplacian + a.laplacian * b.value
    return Differentiated(
        a.value * b.value,
        a.value * b.slots + a.slots * b.value,
        laplacian + 2 * jnp.sum(both, axis=0),
        a.which,
    )


def _quotient(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    a, b = _alike(inputs)
    if not (_varies(a) and _varies(b)):
        return _of_one(operation, inputs)
    return _multiply(a, _chain(lambda x: 1 / x, b), operation.coordinates)


def _select(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    which, *cases = inputs
    if _varies(which):
        return None
    found = operation.bind(which, *(_plain(v) for v in cases))
    varying = together([v for v in cases if _varies(v)], operation.coordinates)
    rows = iter(varying)
    zero = varying[0]._replace(
        slots=jnp.zeros_like(varying[0].slots),
        laplacian=jnp.zeros_like(varying[0].laplacian),
    )
    derivatives = [next(rows) if _varies(v) else zero for v in cases]
    choose = functools.partial(operation.bind, which)
    slots = jax.vmap(choose)(*(v.slots for v in derivatives))
    laplacian = choose(*(v.laplacian for v in derivatives))
    return Differentiated(found, slots, laplacian, varying[0].which)


# Of the axes of an array


def _moved(
    operation: Operation, value: Differentiated, index: np.ndarray | None
) -> Differentiated:
    return value.linear(operation.bind)._replace(which=index)


def _broadcast_in_dim(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    value, *shape = inputs
    if shape:
        return None
    index = value.which
    if index is not None:
        sizes = [len(index)] + [1] * len(operation.params["shape"])
        for axis, size in zip(
            operation.params["broadcast_dimensions"], index.shape[1:], strict=True
        ):
            sizes[axis + 1] = size
        index = index.reshape(sizes)
    return _moved(operation, value, index)


def _squeeze(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        axes = [axis % value.value.ndim + 1 for axis in operation.params["dimensions"]]
        index = np.squeeze(index, tuple(axes))
    return _moved(operation, value, index)


def _transpose(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        axes = operation.params["permutation"]
        index = index.transpose(0, *(axis + 1 for axis in axes))
    return _moved(operation, value, index)


def _tile(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        counts = zip(operation.params["reps"], index.shape[1:], strict=True)
        index = np.tile(index, (1, *(n if size > 1 else 1 for n, size in counts)))
    return _moved(operation, value, index)


def _reshape(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    value, *sizes = inputs
    if sizes or operation.params["dimensions"] is not None:
        return None
    index = value.which
    if index is not None:
        index = _reshaped(index, value.value.shape, operation.params["new_sizes"])
    return _moved(operation, value, index)


def _reshaped(
    index: np.ndarray, old: tuple[int, ...], new: tuple[int, ...]
) -> np.ndarray:
    """Group by group of axes that have as many entries before and after."""
    sizes, i, j = [len(index)], 0, 0
    while i < len(old) or j < len(new):
        begin, first = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while math.prod(old[begin:i]) != math.prod(new[first:j]):
            if math.prod(old[begin:i]) < math.prod(new[first:j]):
                i += 1
            else:
                j += 1
        if all(size == 1 for size in index.shape[begin + 1 : i + 1]):
            sizes += [1] * (j - first)
        else:
            shape = list(index.shape)
            shape[begin + 1 : i + 1] = old[begin:i]
            index = np.broadcast_to(index, shape)
            sizes += new[first:j]
    return compressed(index.reshape(sizes))


def _indexed(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    """`gather` and `dynamic_slice`."""
    value, *places = inputs
    if not _varies(value) or any(_varies(place) for place in places):
        return None
    if any(isinstance(place, Tracer) for place in places):
        value = value.dense(operation.coordinates)
    index = value.which
    function = lambda x: operation.bind(x, *places)
    if index is not None:
        index = np.broadcast_to(index, (len(index), *value.value.shape))
        with jax.ensure_compile_time_eval():
            index = np.asarray(jax.vmap(function)(jnp.asarray(index)))
        index = compressed(np.maximum(index, -1))
    # What is out of bounds may be filled with NaN, but its derivatives are zero.
    along = lambda x: jax.jvp(function, (value.value,), (x,))[1]
    return Differentiated(
        function(value.value),
        jax.vmap(along)(value.slots),
        along(value.laplacian),
        index,
    )


def _slice(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index, params = value.which, operation.params
    if index is not None:
        strides = params["strides"] or (1,) * value.value.ndim
        ranges = zip(
            params["start_indices"], params["limit_indices"], strides, strict=True
        )
        for axis, (begin, end, step) in enumerate(ranges, start=1):
            if index.shape[axis] > 1:
                index = index.take(np.arange(begin, end, step), axis)
        index = compressed(index)
    return _moved(operation, value, index)


def _reverse(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        index = np.flip(
            index, tuple(axis + 1 for axis in operation.params["dimensions"])
        )
    return _moved(operation, value, index)


def _concatenate(operation: Operation, inputs: list[Any]) -> Differentiated:
    axis = operation.params["dimension"]
    varying = [v for v in inputs if _varies(v)]
    if any(v.which is None for v in varying):
        varying = [v.dense(operation.coordinates) for v in varying]
    count = max(len(v.slots) for v in varying)
    index = varying[0].which
    if index is not None and not all(
        v.which.shape[axis + 1] == 1 and same(v.which, index) for v in varying
    ):
        parts = []
        for value in inputs:
            shape = np.shape(_plain(value))
            pattern = np.full((count, *(1 for _ in shape)), -1)
            if _varies(value):
                rows = ((0, count - len(value.which)),) + ((0, 0),) * len(shape)
                pattern = np.pad(value.which, rows, constant_values=-1)
            parts.append((pattern, shape[axis]))
        sizes = np.broadcast_shapes(
            *(p.shape[: axis + 1] + (1,) + p.shape[axis + 2 :] for p, _ in parts)
        )
        index = compressed(
            np.concatenate(
                [
                    np.broadcast_to(p, (*sizes[: axis + 1], n, *sizes[axis + 2 :]))
                    for p, n in parts
                ],
                axis + 1,
            )
        )
    rows = iter(varying)
    slots, laplacians = [], []
    for value in inputs:
        plain = jnp.asarray(_plain(value))
        if not _varies(value):
            slots.append(jnp.zeros((count, *plain.shape), plain.dtype))
            laplacians.append(jnp.zeros_like(plain))
            continue
        value = next(rows)
        more = ((0, count - len(value.slots)),) + ((0, 0),) * plain.ndim
        slots.append(jnp.pad(value.slots, more))
        laplacians.append(value.laplacian)
    return Differentiated(
        operation.bind(*(_plain(v) for v in inputs)),
        jax.vmap(operation.bind)(*slots),
        operation.bind(*laplacians),
        index,
    )


# Sums and products


def _reduce_sum(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    if value.which is None:
        return _moved(operation, value, None)
    value = value._replace(value=operation.bind(value.value))
    for axis in sorted(operation.params["axes"], reverse=True):
        value = _sum_along(value, int(axis), operation.coordinates)
    return value


def _sum_along(value: Differentiated, axis: int, coordinates: int) -> Differentiated:
    laplacian = jnp.sum(value.laplacian, axis)
    if value.which is None:
        return Differentiated(value.value, jnp.sum(value.slots, axis + 1), laplacian)
    common, own = _split(value.slots, value.which, axis)
    parts = []
    if common is not None:
        slots, index = common
        parts.append((jnp.sum(slots, axis + 1), index))
    if own is not None:
        parts.append(own)
    return _collected(value.value, parts, laplacian, coordinates)


_Slots = tuple[Array, np.ndarray]


def _split(
    slots: Array, index: np.ndarray, axis: int
) -> tuple[_Slots | None, _Slots | None]:
    """Derivatives by coordinates that all terms along an axis have in common, and those
    by coordinates of one term each: these, first of all axes, one term after the other.
    The indices have no axis of the terms."""
    along = axis + 1
    most = np.max(index, along, keepdims=True)
    alike = np.all((index == most) | (index < 0), tuple(range(1, index.ndim)))
    (one,), (each,) = np.nonzero(alike), np.nonzero(~alike)
    common = own = None
    if len(one):
        common = _take(slots, one), most[one].squeeze(along)
    if len(each):
        moved, indices = jnp.moveaxis(_take(slots, each), along, 0), index[each]
        indices = np.moveaxis(indices, along, 0)
        own = (
            moved.reshape(-1, *moved.shape[2:]),
            indices.reshape(-1, *indices.shape[2:]),
        )
    return common, own


def _take(slots: Array, which: np.ndarray) -> Array:
    if len(which) == len(slots):
        return slots
    if np.all(np.diff(which) == 1):
        return slots[which[0] : which[-1] + 1]
    return slots[which]


def _collected(
    value: Array, parts: list[_Slots], laplacian: Array, coordinates: int
) -> Differentiated:
    """Of a sum of terms."""
    index = np.concatenate([index for _, index in parts])
    if is_small(index, coordinates) and not repeats(index):
        slots = jnp.concatenate([slots for slots, _ in parts])
        return Differentiated(value, slots, laplacian, compressed(index))
    whole = [dense(slots, index, coordinates) for slots, index in parts]
    return Differentiated(value, functools.reduce(jnp.add, whole), laplacian)


def _dot_general(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    a, b = inputs
    if _varies(a) and _varies(b):
        return _dot_of_two(operation, a, b)
    value, factor = (a, b) if _varies(a) else (b, a)
    side = 0 if _varies(a) else 1
    contract, batch = (axes[side] for axes in operation.params["dimension_numbers"])
    varying = [
        i for i in contract if value.which is not None and value.which.shape[i + 1] > 1
    ]

    def product(x, factor=factor):
        return operation.bind(x, factor) if side == 0 else operation.bind(factor, x)

    if value.which is None:
        return value.linear(product)

    free = [i for i in range(value.value.ndim) if i not in (*contract, *batch)]
    kept = [i for i in range(value.value.ndim) if i not in contract]
    order = [kept.index(i) + 1 for i in (*batch, *free)]

    def pattern(index):
        """From the axes that are left of the argument to those of the product."""
        index = index.transpose(0, *order)
        # The axes of the other factor: last, or after the common ones.
        other = (1,) * (np.ndim(factor) - len(contract) - len(batch))
        at = index.ndim if side == 0 else 1 + len(batch)
        return index.reshape(*index.shape[:at], *other, *index.shape[at:])

    index = uniform(value.which, contract)
    if index is not None and is_small(index, operation.coordinates):
        value = value.with_index(index)
        index = index.squeeze(tuple(i + 1 for i in contract))
        return value.linear(product)._replace(which=pattern(index))

    # One term of the sum after the other, if they have few coordinates of their own.
    axis = varying[0]
    common, own = _split(value.slots, value.which, axis)
    too_many = own is not None and len(own[1]) > 2 * operation.coordinates
    if len(varying) > 1 or too_many:
        return value.dense(operation.coordinates).linear(product)
    terms = value.value.shape[axis]
    rest = tuple(i + 1 - (i > axis) for i in contract if i != axis)
    parts = []
    if common is not None:
        slots, index = common
        parts.append((jax.vmap(product)(slots), pattern(index.squeeze(rest))))
    if own is not None:
        slots, index = own
        slots = jnp.expand_dims(slots, axis + 1)
        slots = slots.reshape(terms, -1, *slots.shape[1:])
        there = operation.params["dimension_numbers"][0][1 - side][contract.index(axis)]
        factors = jnp.expand_dims(jnp.moveaxis(factor, there, 0), there + 1)
        slots = jax.vmap(lambda x, f: jax.vmap(lambda y: product(y, f))(x))(
            slots, factors
        )
        slots = slots.reshape(-1, *slots.shape[2:])
        parts.append((slots, pattern(index.squeeze(rest))))
    return _collected(
        product(value.value), parts, product(value.laplacian), operation.coordinates
    )


def _dot_of_two(
    operation: Operation, a: Differentiated, b: Differentiated
) -> Differentiated:
    a, b = a.dense(operation.coordinates), b.dense(operation.coordinates)
    bind, params = operation.bind, operation.params
    (a_contract, b_contract), batch = params["dimension_numbers"]
    after = lambda axes: tuple(i + 1 for i in axes)
    # Coordinates are one more axis to sum over.
    both = jax.lax.dot_general(
        a.slots,
        b.slots,
        (
            ((0, *after(a_contract)), (0, *after(b_contract))),
            (after(batch[0]), after(batch[1])),
        ),
        precision=params["precision"],
        preferred_element_type=params["preferred_element_type"],
    )
    slots = jax.vmap(lambda x: bind(x, b.value))(a.slots)
    slots = slots + jax.vmap(lambda x: bind(a.value, x))(b.slots)
    laplacian = bind(a.laplacian, b.value) + bind(a.value, b.laplacian) + 2 * both
    return Differentiated(bind(a.value, b.value), slots, laplacian)


_FUNCTIONS = (
    "acos acosh asin asinh atan atan2 atanh cbrt clamp cos cosh digamma erf erf_inv "
    "erfc exp exp2 expm1 integer_pow lgamma log log1p logistic max min pow "
    "rem rsqrt sigmoid silu sin sinh softplus sqrt square tan tanh"
).split()
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(_FUNCTIONS, _of_one),
    **dict.fromkeys("conj convert_element_type copy imag neg real".split(), _linear),
    **dict.fromkeys("add add_any complex sub".split(), _sum),
    "abs": _abs,
    "broadcast_in_dim": _broadcast_in_dim,
    "concatenate": _concatenate,
    "div": _quotient,
    "dot_general": _dot_general,
    "dynamic_slice": _indexed,
    "gather": _indexed,
    "mul": _product,
    "reduce_sum": _reduce_sum,
    "reshape": _reshape,
    "rev": _reverse,
    "select_n": _select,
    "slice": _slice,
    "squeeze": _squeeze,
    "tile": _tile,
    "transpose": _transpose,
}
