"""States with another number of walkers than a checkpoint has."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from .._core import Key, on_host, put
from .._storage import is_key


State = TypeVar("State")


def like_saved(like: State, here: int, saved: int) -> State:
    """A state to restore a checkpoint by.

    **Arguments:**

    - `like`: a state with the number of walkers that is wanted.
    - `here`: that number.
    - `saved`: the number in the checkpoint.
    """

    def resized(path, leaf):
        if not _is_per_walker(path, leaf, here):
            return leaf
        if is_key(leaf):
            return leaf[jnp.arange(saved) % here]
        # On one device: the number may not fit to those of a mesh.
        return jnp.zeros((saved, *leaf.shape[1:]), leaf.dtype)

    return jax.tree_util.tree_map_with_path(resized, like)


def resampled(
    state: State, like: State, here: int, chosen: Int[np.ndarray, " here"]
) -> State:
    """A state with some of its walkers, or with several copies of them.

    Everything that the sampler keeps for each walker goes with it; random keys are
    those of `like`, because copies with one key would stay copies.

    **Arguments:**

    - `state`: restored by `like_saved`.
    - `like`: also says on which devices the arrays are put.
    - `here`: the number of walkers in it.
    - `chosen`: which walkers it gets, of `chosen_walkers`.
    """

    def pick(path, here_leaf, leaf):
        if not _is_per_walker(path, here_leaf, here):
            return leaf
        if is_key(leaf):
            return here_leaf
        return put(on_host(leaf)[chosen], here_leaf.sharding)

    return jax.tree_util.tree_map_with_path(pick, like, state)


def chosen_walkers(saved: int, here: int, *, key: Key) -> Int[np.ndarray, " here"]:
    """Which of the saved walkers make up another number of them: each as often as any
    other, up to one, so that they stay distributed as they are."""
    rest = jax.random.permutation(key, saved)[: here % saved]
    return np.concatenate([np.tile(np.arange(saved), here // saved), np.asarray(rest)])


def _is_per_walker(path: tuple, leaf: Array, here: int) -> bool:
    """Whether a leaf belongs to the sampler and has an entry for each walker."""
    inside = ".sampler" in jax.tree_util.keystr(path)
    return inside and isinstance(leaf, jax.Array) and leaf.shape[:1] == (here,)
