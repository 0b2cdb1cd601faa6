"""Values with their derivatives by the coordinates, of which many are zero.

A feature of two electrons depends on 6 of 3N coordinates, and so does all that is
computed from it: until electrons are added up, only those derivatives are kept.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact, Int


# Their programs grow with the square of their number.
_MOST_SLOTS = 24
# Comparisons of indices, beyond which derivatives become dense.
_MOST = 2**24
# Masks, beyond which adding up by index is faster; and the longest axis whose entries
# are then taken one after the other.
_MASKS = 8
_PARTS = 4


class Differentiated(NamedTuple):
    """An array with derivatives and Laplacian of each entry.

    - `value`: the array.
    - `slots`: derivatives, along the first axis. They are not conjugated.
    - `laplacian`: the sum of second derivatives.
    - `which`: the coordinate of every derivative, constant along axes of size 1; no
        coordinate occurs twice for an entry. Negative if a derivative is zero for
        sure. `None` if there is a derivative by each coordinate, in order.
    """

    value: Inexact[Array, "..."]
    slots: Inexact[Array, "slots ..."]
    laplacian: Inexact[Array, "..."]
    which: Int[np.ndarray, "..."] | None = None

    def linear(self, function: Callable[[Array], Array]) -> "Differentiated":
        """A linear function of single entries."""
        slots = jax.vmap(function)(self.slots)
        laplacian = function(self.laplacian)
        return Differentiated(function(self.value), slots, laplacian, self.which)

    def with_index(self, index: Int[np.ndarray, "..."]) -> "Differentiated":
        """With the derivatives of another index, which has those that are not zero."""
        if self.which is None:
            return self._replace(slots=_rows(self.slots, index), which=index)
        return self._replace(slots=_aligned(self.slots, self.which, index), which=index)

    def dense(self, coordinates: int) -> "Differentiated":
        """With derivatives by all coordinates."""
        if self.which is None:
            return self
        slots = dense(self.slots, self.which, coordinates)
        return self._replace(slots=slots, which=None)


def coordinates_of(x: Inexact[Array, "..."]) -> Differentiated:
    """The coordinates themselves."""
    index = np.arange(x.size).reshape(1, *x.shape)
    return Differentiated(x, jnp.ones_like(x)[None], jnp.zeros_like(x), index)


def together(
    values: Sequence[Differentiated], coordinates: int
) -> list[Differentiated]:
    """All with the same index: dense if one is."""
    if any(value.which is None for value in values):
        return [value.dense(coordinates) for value in values]
    index = _union([value.which for value in values])
    if index is None or not is_small(index, coordinates):
        return [value.dense(coordinates) for value in values]
    return [value.with_index(index) for value in values]


def is_small(index: Int[np.ndarray, "..."], coordinates: int) -> bool:
    """Whether it pays to keep so few derivatives."""
    return len(index) <= min(coordinates // 2, _MOST_SLOTS)


def repeats(index: Int[np.ndarray, "..."]) -> bool:
    """Whether a coordinate occurs twice for an entry."""
    order = np.sort(index, axis=0)
    return bool(np.any((order[1:] == order[:-1]) & (order[1:] >= 0)))


def same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Whether two indices are equal."""
    if a is None or b is None:
        return a is b
    return a is b or (len(a) == len(b) and bool(np.all(a == b)))


def compressed(index: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    """With size 1 along all axes along which it is constant."""
    for axis in range(1, index.ndim):
        first = index.take([0], axis)
        if index.shape[axis] > 1 and np.all(first == index):
            index = first
    return index


def _union(indices: Sequence[Any]) -> np.ndarray | None:
    """The coordinates of all entries of several indices: first those of the first
    index, in its order. `None` if it takes too many comparisons to find them."""
    found, *rest = indices
    for other in rest:
        if same(found, other):
            continue
        shape = np.broadcast_shapes(found.shape[1:], other.shape[1:])
        if len(found) * len(other) * np.prod(shape) > _MOST:
            return None
        a, b = (np.broadcast_to(i, (len(i), *shape)) for i in (found, other))
        b = np.where(np.any(a[:, None] == b[None], axis=0), -1, b)
        b = b[np.any(b.reshape(len(b), -1) >= 0, axis=1)]
        found = compressed(np.concatenate([a, b]))
    return found


def uniform(index: Int[np.ndarray, "..."], axes: Sequence[int]) -> np.ndarray | None:
    """The coordinates of all entries along some axes of the array."""
    axes = [axis + 1 for axis in axes if index.shape[axis + 1] > 1]
    if not axes:
        return index
    kept = [i for i in range(1, index.ndim) if i not in axes]
    moved = index.transpose(0, *axes, *kept)
    moved = moved.reshape(-1, *(index.shape[i] for i in kept)).copy()
    if len(moved) * moved.size > _MOST:
        return None
    # In the order of first occurrence: one slot is one electron for all entries.
    for i in range(1, len(moved)):
        moved[i][np.any(moved[:i] == moved[i], axis=0)] = -1
    used = np.any(moved.reshape(len(moved), -1) >= 0, axis=1)
    used[0] = True
    moved = moved[used]
    return compressed(np.expand_dims(moved, tuple(axes)))


def _aligned(slots: Array, index: np.ndarray, target: np.ndarray) -> Array:
    """Derivatives in the order of another index."""
    if same(index, target):
        return slots
    rows = []
    for wanted in target:
        total = None
        for slot, has in zip(slots, index, strict=True):
            match = (has == wanted) & (wanted >= 0)
            if not match.any():
                continue
            # Without a coordinate the derivative is zero.
            everywhere = np.all(match | (has < 0))
            part = slot if everywhere else jnp.where(match, slot, 0)
            total = part if total is None else total + part
        rows.append(jnp.zeros_like(slots[0]) if total is None else total)
    return jnp.stack(rows)


def _rows(slots: Array, index: np.ndarray) -> Array:
    """Takes the derivatives of an index from derivatives by all coordinates."""
    axes = [i for i in range(1, index.ndim) if index.shape[i] > 1]
    places = np.ix_(*(np.arange(n) for n in index.shape))
    constant = tuple(i for i in range(1, index.ndim) if i not in axes)
    squeeze = lambda x: np.squeeze(x, constant)
    entries: list[Any] = [slice(None)] * index.ndim
    entries[0] = squeeze(np.maximum(index, 0))
    for i in axes:
        entries[i] = squeeze(places[i])
    # What is indexed comes first.
    found = slots.at[tuple(entries)].get(mode="promise_in_bounds")
    return jnp.moveaxis(found, range(len(axes) + 1), [0, *axes])


def dense(slots: Array, index: np.ndarray, coordinates: int) -> Array:
    """Derivatives by all coordinates."""
    flat = index.reshape(len(index), -1)
    first = np.max(flat, axis=1)
    whole = np.all((flat == first[:, None]) | (flat < 0), axis=1)
    row = np.full(coordinates, -1)
    rest = []
    for i, (coordinate, is_whole) in enumerate(zip(first, whole, strict=True)):
        if coordinate < 0:
            continue
        if is_whole and row[coordinate] < 0:
            row[coordinate] = i
        else:
            rest.append(i)
    if len(rest) > _MASKS:
        return _dense_in_parts(slots, index, coordinates)
    total = None
    if np.any(row >= 0):
        (there,) = np.nonzero(row >= 0)
        begin, end = there[0], there[-1] + 1
        if np.all(np.diff(row[begin:end]) == 1):
            part = slots[row[begin] : row[begin] + end - begin]
            around = ((begin, coordinates - end),) + ((0, 0),) * (slots.ndim - 1)
            total = jnp.pad(part, around)
        else:
            padded = jnp.concatenate([slots, jnp.zeros_like(slots[:1])])
            total = padded[jnp.asarray(np.where(row < 0, len(slots), row))]
    axis = np.arange(coordinates).reshape(-1, *(1,) * (slots.ndim - 1))
    for i in rest:
        part = jnp.where(axis == index[i], slots[i], 0)
        total = part if total is None else total + part
    if total is None:
        return jnp.zeros((coordinates, *slots.shape[1:]), slots.dtype)
    return total


def _dense_in_parts(slots: Array, index: np.ndarray, coordinates: int) -> Array:
    """One entry of a short axis after another: in the sum over a channel of electrons
    those of different channels are coordinates of one row."""
    short = [(n, i) for i, n in enumerate(index.shape) if i > 0 and 1 < n <= _PARTS]
    if short:
        size, axis = min(short)
        parts = [
            dense(
                jax.lax.slice_in_dim(slots, i, i + 1, axis=axis),
                index.take([i], axis),
                coordinates,
            )
            for i in range(size)
        ]
        return jnp.concatenate(parts, axis)
    total = jnp.zeros((coordinates, *slots.shape[1:]), slots.dtype)
    index = np.broadcast_to(index, slots.shape)
    places = np.meshgrid(*(np.arange(n) for n in slots.shape[1:]), indexing="ij")
    part = jnp.where(index >= 0, slots, 0)
    return total.at[(np.maximum(index, 0), *places)].add(part)
