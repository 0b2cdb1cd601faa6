"""Rules for sums and products of matrices: where derivatives become dense."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .derivatives import (
    compressed,
    dense,
    Differentiated,
    is_small,
    repeats,
    uniform,
)
from .operation import Operation, varies


def reduce_sum(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    if value.which is None:
        return value.linear(operation.bind)
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


def dot_general(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    a, b = inputs
    if varies(a) and varies(b):
        return _dot_of_two(operation, a, b)
    value, factor = (a, b) if varies(a) else (b, a)
    side = 0 if varies(a) else 1
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
