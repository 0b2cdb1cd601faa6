"""Rules for operations on single entries of arrays."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .derivatives import (
    Differentiated,
    together,
)
from .operation import Operation, plain, varies


def linear(operation: Operation, inputs: list[Any]) -> Differentiated:
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
    shape = np.broadcast_shapes(*(np.shape(plain(value)) for value in inputs))
    return [_broadcast(v, shape) if varies(v) else v for v in inputs]


def of_one(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    """Any function of single entries, of which one argument varies."""
    varying = [i for i, value in enumerate(inputs) if varies(value)]
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


def absolute(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    is_complex = jnp.iscomplexobj(inputs[0].value)
    return None if is_complex else of_one(operation, inputs)


def added(operation: Operation, inputs: list[Any]) -> Differentiated:
    """`add`, `sub` and `complex`: linear in each of two arguments."""
    inputs = _alike(inputs)
    varying = [v for v in inputs if varies(v)]
    value = operation.bind(*(plain(v) for v in inputs))
    varying = together(varying, operation.coordinates)
    rows = iter(varying)
    tangents = [next(rows) if varies(v) else None for v in inputs]

    def apply(arrays, like):
        # What does not vary counts as zero.
        zero = jnp.zeros_like(like)
        return operation.bind(*(zero if a is None else a for a in arrays))

    def part(name):
        arrays = [None if t is None else getattr(t, name) for t in tangents]
        return apply(arrays, next(a for a in arrays if a is not None))

    return Differentiated(value, part("slots"), part("laplacian"), varying[0].which)


def product(operation: Operation, inputs: list[Any]) -> Differentiated:
    a, b = _alike(inputs)
    if not (varies(a) and varies(b)):
        x, factor = (a, b) if varies(a) else (b, a)
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


def quotient(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    a, b = _alike(inputs)
    if not (varies(a) and varies(b)):
        return of_one(operation, inputs)
    return _multiply(a, _chain(lambda x: 1 / x, b), operation.coordinates)


def select(operation: Operation, inputs: list[Any]) -> Differentiated | None:
    which, *cases = inputs
    if varies(which):
        return None
    found = operation.bind(which, *(plain(v) for v in cases))
    varying = together([v for v in cases if varies(v)], operation.coordinates)
    rows = iter(varying)
    zero = varying[0]._replace(
        slots=jnp.zeros_like(varying[0].slots),
        laplacian=jnp.zeros_like(varying[0].laplacian),
    )
    derivatives = [next(rows) if varies(v) else zero for v in cases]
    choose = functools.partial(operation.bind, which)
    slots = jax.vmap(choose)(*(v.slots for v in derivatives))
    laplacian = choose(*(v.laplacian for v in derivatives))
    return Differentiated(found, slots, laplacian, varying[0].which)
