"""Rules for sums and products of matrices: where derivatives become dense."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Int

from .derivatives import (
    compressed,
    dense,
    Differentiated,
    is_small,
    repeats,
    together,
    uniform,
)
from .operation import Operation, varies


# Products of single derivatives, each of which is compiled.
_MOST_PRODUCTS = 36


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
    both = _meeting(operation, a, b)
    if both is not None:
        # By the rule for one that varies, which keeps what is sparse.
        first, second = (
            dot_general(operation, x) for x in ([a, b.value], [a.value, b])
        )
        if first is not None and second is not None:
            first, second = together([first, second], operation.coordinates)
            slots = first.slots + second.slots
            laplacian = first.laplacian + second.laplacian + 2 * both
            return Differentiated(first.value, slots, laplacian, first.which)
    a, b = a.dense(operation.coordinates), b.dense(operation.coordinates)
    (a_contract, b_contract), batch = operation.params["dimension_numbers"]
    after = lambda axes: tuple(i + 1 for i in axes)
    contract = after(a_contract), after(b_contract)
    batch = after(batch[0]), after(batch[1])
    options = {
        name: operation.params[name] for name in ("precision", "preferred_element_type")
    }
    if batch[0]:
        # Coordinates are one more axis of the batch: any other order would have to be
        # transposed.
        each = (contract, ((0, *batch[0]), (0, *batch[1])))
        along = lambda x, y: jax.lax.dot_general(x, y, each, **options)
        whole = lambda x: jnp.broadcast_to(x.value[None], x.slots.shape)
        slots = along(a.slots, whole(b)) + along(whole(a), b.slots)
        both = jnp.sum(along(a.slots, b.slots), axis=0)
    else:
        # Coordinates are one more axis to sum over.
        summed = (((0, *contract[0]), (0, *contract[1])), batch)
        both = jax.lax.dot_general(a.slots, b.slots, summed, **options)
        slots = jax.vmap(lambda x: operation.bind(x, b.value))(a.slots)
        slots = slots + jax.vmap(lambda x: operation.bind(a.value, x))(b.slots)
    bind = operation.bind
    laplacian = bind(a.laplacian, b.value) + bind(a.value, b.laplacian) + 2 * both
    return Differentiated(bind(a.value, b.value), slots, laplacian)


def _meeting(
    operation: Operation, a: Differentiated, b: Differentiated
) -> Array | None:
    """Of a product of matrices, the sum over coordinates of the products of the
    derivatives of both factors, if those of one are sparse; `None` if it is not one of
    the patterns of pairs of electrons, and so is left to dense derivatives."""
    if a.which is None and b.which is None:
        return None
    (a_contract, b_contract), (a_batch, b_batch) = operation.params["dimension_numbers"]
    rows = _Matrices.of(a, a_batch, a_contract)
    columns = _Matrices.of(b, b_batch, b_contract)
    if rows is None or columns is None:
        return None
    found, precision = None, operation.params["precision"]
    if a.which is not None and b.which is not None:
        found = _few_with_few(rows, columns, precision)
        # Dense is the one with fewer derivatives, as those of one electron.
        if len(a.slots) < len(b.slots):
            rows = _Matrices.of(a.dense(operation.coordinates), a_batch, a_contract)
        else:
            columns = _Matrices.of(b.dense(operation.coordinates), b_batch, b_contract)
        assert rows is not None and columns is not None
    if found is None and columns.which is None:
        found = _few_with_all(rows, columns, precision)
    elif found is None:
        found = _few_with_all(columns, rows, precision)
        found = None if found is None else jnp.swapaxes(found, -2, -1)
    if found is None:
        return None
    dtype = np.result_type(a.value.dtype, b.value.dtype)
    free = lambda x, axes: [n for i, n in enumerate(x.value.shape) if i not in axes]
    batch = [a.value.shape[i] for i in a_batch]
    a_free = free(a, (*a_batch, *a_contract))
    return found.reshape(*batch, *a_free, *free(b, (*b_batch, *b_contract))).astype(
        dtype
    )


class _Matrices(NamedTuple):
    """A factor of a product as a batch of matrices, and the coordinates of its
    derivatives, alike in the whole batch; negative if one is zero."""

    slots: Inexact[Array, "slots batch free contracted"]
    which: Int[np.ndarray, "slots free contracted"] | None

    @staticmethod
    def of(
        value: Differentiated, batch: Sequence[int], contract: Sequence[int]
    ) -> "_Matrices | None":
        shape = value.value.shape
        free = [i for i in range(len(shape)) if i not in (*batch, *contract)]
        order = (0, *(i + 1 for i in (*batch, *free, *contract)))
        sizes = [math.prod(shape[i] for i in axes) for axes in (batch, free, contract)]
        slots = value.slots.transpose(order).reshape(-1, *sizes)
        if value.which is None:
            return _Matrices(slots, None)
        if any(value.which.shape[i + 1] > 1 for i in batch):
            return None
        one = [1 if i in batch else n for i, n in enumerate(shape)]
        index = np.broadcast_to(value.which, (len(value.which), *one))
        index = index.transpose(order).reshape(-1, *sizes[1:])
        if np.any(index < 0):
            slots = jnp.where((index >= 0)[:, None], slots, 0)
        return _Matrices(slots, index)


def _few_with_few(rows: _Matrices, columns: _Matrices, precision: Any) -> Array | None:
    """Both depend on coordinates of their row or column alone."""
    left, right = rows.which, columns.which
    assert left is not None and right is not None
    if len(left) * len(right) > _MOST_PRODUCTS:
        return None
    if np.any(left != left[..., :1]) or np.any(right != right[..., :1]):
        return None
    total = None
    for slot, i in zip(rows.slots, left[..., 0], strict=True):
        for other, j in zip(columns.slots, right[..., 0], strict=True):
            meet = (i[:, None] == j[None]) & (i[:, None] >= 0)
            if np.any(meet):
                part = jnp.einsum("brt,bct->brc", slot, other, precision=precision)
                part = jnp.where(meet, part, 0)
                total = part if total is None else total + part
    shape = rows.slots.shape[1], rows.slots.shape[2], columns.slots.shape[2]
    return jnp.zeros(shape, rows.slots.dtype) if total is None else total


def _few_with_all(rows: _Matrices, columns: _Matrices, precision: Any) -> Array | None:
    """The rows depend on coordinates of the row, or of the term of the sum."""
    index = rows.which
    assert index is not None
    by_row, by_term = np.max(index, axis=2), np.max(index, axis=1)
    of_row = np.all((index == by_row[:, :, None]) | (index < 0), axis=(1, 2))
    of_term = np.all((index == by_term[:, None]) | (index < 0), axis=(1, 2)) & ~of_row
    if not np.all(of_row | of_term):
        return None
    product = functools.partial(jnp.einsum, precision=precision)
    total = jnp.zeros((), rows.slots.dtype)
    # Coordinate, batch, column, term.
    other = columns.slots
    if np.any(of_row):
        there = other[np.maximum(by_row[of_row], 0)]
        total = total + product("sbrt,srbct->brc", rows.slots[of_row], there)
    if np.any(of_term):
        terms = np.arange(index.shape[2])[None]
        there = other[np.maximum(by_term[of_term], 0), :, :, terms]
        total = total + product("sbrt,stbc->brc", rows.slots[of_term], there)
    return total
