"""First configurations, and whether configurations fit a crystal."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from .._core import check_kind, checked, Integer, Key, Walkers, whole_number
from .._crystal import Crystal


def check_walkers(crystal: Crystal, walkers: Walkers) -> None:
    """Raises `ValueError` if walkers do not fit the electrons of a crystal."""
    n = sum(crystal.electrons)
    if walkers.ndim != 3 or walkers.shape[0] < 1 or walkers.shape[1:] != (n, 3):
        raise ValueError(
            f"`walkers` must have shape (walkers, {n}, 3) with at least one walker, "
            f"for {crystal.electrons[0]} spin-up and {crystal.electrons[1]} spin-down "
            f"electrons, got {tuple(walkers.shape)}."
        )


def as_walkers(walkers: Any) -> Walkers | int:
    """A number of walkers, or positions of theirs that are given in an array of any
    kind or in lists, in an array of JAX.

    **Raises:** `ValueError` for anything else.
    """
    if isinstance(walkers, jax.Array) and walkers.ndim:
        if jnp.issubdtype(walkers.dtype, jnp.floating):
            return walkers
    elif isinstance(walkers, (int, float, complex, np.generic, np.ndarray, jax.Array)):
        if not np.ndim(walkers):
            return whole_number("walkers", walkers, 1, of="walker")
    elif not isinstance(walkers, (list, tuple)):
        check_kind(
            "walkers",
            walkers,
            (),
            "a number of walkers, or positions in Bohr, such as `result.walkers`",
        )
    try:
        given = np.asarray(walkers)
        kind = given.dtype if given.dtype.kind == "f" else np.dtype(float)
        return jnp.asarray(given.astype(kind, casting="safe"))
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`walkers` must be a number of walkers, or positions in Bohr in an array "
            f"of shape (walkers, electrons, 3): {error}"
        ) from error


def first_walkers(walkers: Any, crystal: Crystal, *, key: Key) -> Walkers:
    """Positions that are given, as `as_walkers` takes them, or as many as are asked for
    from `initial_walkers`.

    **Raises:** `ValueError` for anything else, and for walkers of the wrong shape.
    """
    found = as_walkers(walkers)
    if isinstance(found, int):
        return initial_walkers(crystal, found, key=key)
    check_walkers(crystal, found)
    return found


@checked
def initial_walkers(
    crystal: Crystal, count: Integer, *, key: Key, spread: float = 1.0
) -> Walkers:
    """First configurations: electrons in normal clouds around nuclei, with spins that
    every walker draws for itself.

    Every nucleus gets the electrons of its neutral atom. If the crystal is charged,
    surplus electrons go to nuclei drawn at random, and missing ones are taken from
    such, from each once before any twice. At a nucleus electrons are paired, up with
    down; the spins of those left over are drawn. If there are more electrons of one
    spin than this gives, pairs are broken, at random too.

    **Arguments:**

    - `crystal`: whose electrons to place.
    - `count`: number of walkers.
    - `key`: seeds the positions, and for every walker which electron goes where.
    - `spread`: standard deviation of the clouds in Bohr.

    **Returns:**

    Positions in Bohr, (walkers, electrons, 3), in the default floating-point type.

    **Raises:** `ValueError` for fewer than one walker.
    """
    count = whole_number("count", count, 1, of="walker")
    assignment, cloud = jax.random.split(key)
    sites = _sites(crystal, count, assignment)
    placed = jnp.asarray(crystal.supercell_positions)[sites]
    return placed + spread * jax.random.normal(cloud, placed.shape)


def _sites(
    crystal: Crystal, count: int, key: Key
) -> Int[np.ndarray, "walkers electrons"]:
    """The nucleus of every electron of every walker, spin-up electrons first."""
    charges = crystal.supercell_charges
    n_up, n = crystal.electrons[0], sum(crystal.electrons)
    # Places for electrons, numbered at each nucleus; n of them are taken.
    surplus = max(0, n - int(charges.sum()))
    room = charges + -(-surplus // len(charges))
    nucleus = np.repeat(np.arange(len(charges)), room)
    number = np.concatenate([np.arange(places) for places in room])
    chance = jax.random.uniform(key, (3, count, len(nucleus)))
    fill, spin, order = np.asarray(chance, np.float64)
    taken = _ranks(number - charges[nucleus] + fill) < n
    at_nucleus = taken.astype(int) @ np.eye(len(charges), dtype=int)[nucleus]
    paired = (number ^ 1) < at_nucleus[:, nucleus]
    # First of a pair, single, second of a pair: the first n_up in this order are up.
    rank = np.where(paired, 2 * (number % 2), 1)
    up = _ranks(np.where(taken, rank + spin, np.inf)) < n_up
    # Electrons of one spin in random order, and last the places that are free.
    group = np.where(up, 0, np.where(taken, 1, 2))
    return nucleus[np.argsort(group + order, axis=1)[:, :n]]


def _ranks(
    values: Float[np.ndarray, "walkers places"],
) -> Int[np.ndarray, "walkers places"]:
    return np.argsort(np.argsort(values, axis=1), axis=1)
