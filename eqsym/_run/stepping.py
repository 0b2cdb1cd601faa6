"""Training steps that are started without waiting for what they compute."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._core import spread
from .._training import Statistics, VMC, VMCState


# What is traced, as by `eqx.filter_jit`.
_ARRAYS = (jax.Array, np.ndarray, np.generic)


class Started(NamedTuple):
    """A step, which may be going on still.

    - `state`, `statistics`: what it returns, once it has come to an end.
    - `numbers`: the statistics again, to be fetched in one piece.
    - `counts`: which of them are integers.
    """

    state: VMCState
    statistics: Statistics
    numbers: Float[Array, " statistics"]
    counts: tuple[bool, ...]

    def row(self) -> dict[str, float | int]:
        """The statistics by name, once the step has come to an end."""
        values = np.asarray(self.numbers).tolist()
        named = zip(vars(self.statistics), values, self.counts, strict=True)
        return {name: int(x) if count else x for name, x, count in named}


class TrainingStep:
    """The step of a `VMC`, compiled once for all runs of one kind.

    A function of `eqx.filter_jit` would return when the step has come to an end, and a
    GPU would wait for this process before it gets the next one.
    """

    def __init__(self, vmc: VMC):
        self._arrays, self._rest = _split(vmc.step)

    def __call__(self, state: VMCState) -> Started:
        """Starts the step after a state, which may be of a step that is going on."""
        arrays, rest = _split(state)
        arrays, numbers, fixed = _step((self._arrays, arrays), (self._rest, rest))
        following, statistics = _join(arrays, fixed.rest)
        return Started(following, statistics, numbers, fixed.counts)

    def lower(self, state: VMCState) -> jax.stages.Lowered:
        """The program, before it is compiled."""
        arrays, rest = _split(state)
        return _step.lower((self._arrays, arrays), (self._rest, rest))


class _Fixed(eqx.Module):
    """What is known of a step before it is taken: of the state and statistics all that
    is not an array, and which statistics are integers."""

    rest: Any = eqx.field(static=True)
    counts: tuple[bool, ...] = eqx.field(static=True)


@functools.partial(jax.jit, static_argnums=1)
def _step(arrays: tuple[list, list], rest: tuple[Any, Any]) -> tuple:
    step, state = map(_join, arrays, rest)
    following, statistics = step(state)
    leaves = jax.tree.leaves(statistics)
    counts = tuple(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves)
    floats = [x.dtype for x, count in zip(leaves, counts, strict=True) if not count]
    widest = functools.reduce(np.promote_types, floats)
    numbers = jnp.stack([leaf.astype(widest) for leaf in leaves])
    found, others = _split((following, statistics))
    return found, spread(numbers), _Fixed(others, counts)


def _split(tree: Any) -> tuple[list[Any], Any]:
    """The arrays of a tree, and what it takes beside them to make it again, which has
    a hash."""
    leaves, structure = jax.tree.flatten(tree)
    present = [isinstance(leaf, _ARRAYS) for leaf in leaves]
    if all(present):
        return leaves, ((None,) * len(leaves), structure)
    both = list(zip(leaves, present, strict=True))
    arrays = [leaf if is_array else None for leaf, is_array in both]
    others = tuple([None if is_array else leaf for leaf, is_array in both])
    return arrays, (others, structure)


def _join(arrays: list[Any], rest: Any) -> Any:
    others, structure = rest
    leaves = [b if a is None else a for a, b in zip(arrays, others, strict=True)]
    return jax.tree.unflatten(structure, leaves)
