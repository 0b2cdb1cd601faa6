"""Rules for operations that move entries of arrays."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .derivatives import (
    compressed,
    Differentiated,
    same,
)
from .operation import Operation, plain, varies


def _moved(
    operation: Operation, value: Differentiated, index: np.ndarray | None
) -> Differentiated:
    return value.linear(operation.bind)._replace(which=index)


def broadcast_in_dim(operation: Operation, inputs: list[Any]) -> Differentiated | None:
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


def squeeze(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        axes = [axis % value.value.ndim + 1 for axis in operation.params["dimensions"]]
        index = np.squeeze(index, tuple(axes))
    return _moved(operation, value, index)


def transpose(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        axes = operation.params["permutation"]
        index = index.transpose(0, *(axis + 1 for axis in axes))
    return _moved(operation, value, index)


def tile(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        counts = zip(operation.params["reps"], index.shape[1:], strict=True)
        index = np.tile(index, (1, *(n if size > 1 else 1 for n, size in counts)))
    return _moved(operation, value, index)


def reshape(operation: Operation, inputs: list[Any]) -> Differentiated | None:
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


def indexed(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    """`gather` and `dynamic_slice`."""
    value, *places = inputs
    if not varies(value) or any(varies(place) for place in places):
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


def sliced(operation: Operation, inputs: list[Any]) -> Differentiated:
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


def reverse(operation: Operation, inputs: list[Any]) -> Differentiated:
    (value,) = inputs
    index = value.which
    if index is not None:
        index = np.flip(
            index, tuple(axis + 1 for axis in operation.params["dimensions"])
        )
    return _moved(operation, value, index)


def concatenate(operation: Operation, inputs: list[Any]) -> Differentiated:
    axis = operation.params["dimension"]
    varying = [v for v in inputs if varies(v)]
    if any(v.which is None for v in varying):
        varying = [v.dense(operation.coordinates) for v in varying]
    count = max(len(v.slots) for v in varying)
    index = varying[0].which
    if index is not None and not all(
        v.which.shape[axis + 1] == 1 and same(v.which, index) for v in varying
    ):
        parts = []
        for value in inputs:
            shape = np.shape(plain(value))
            pattern = np.full((count, *(1 for _ in shape)), -1)
            if varies(value):
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
        array = jnp.asarray(plain(value))
        if not varies(value):
            slots.append(jnp.zeros((count, *array.shape), array.dtype))
            laplacians.append(jnp.zeros_like(array))
            continue
        value = next(rows)
        more = ((0, count - len(value.slots)),) + ((0, 0),) * array.ndim
        slots.append(jnp.pad(value.slots, more))
        laplacians.append(value.laplacian)
    return Differentiated(
        operation.bind(*(plain(v) for v in inputs)),
        jax.vmap(operation.bind)(*slots),
        operation.bind(*laplacians),
        index,
    )
