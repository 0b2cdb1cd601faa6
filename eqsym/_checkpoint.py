"""Checkpoints: the whole state of a run, written atomically, compared when read."""

import dataclasses
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


_KEPT = 2


def save_checkpoint(folder: str | os.PathLike, step: int, state: PyTree) -> None:
    """Writes a state with orbax: into a temporary folder that is renamed when it is
    complete. The two newest checkpoints are kept.

    **Arguments:**

    - `folder`: holds the checkpoints; made if it does not exist.
    - `step`: the number of the checkpoint.
    - `state`: a PyTree of arrays (random keys among them) and static data.
    """
    import orbax.checkpoint as ocp

    description = {
        "eqsym": metadata.version("eqsym"),
        "step": step,
        "state": describe(state),
    }
    with _manager(folder) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_arrays(state)),
                description=ocp.args.JsonSave(description),
            ),
            force=True,
        )


def latest_checkpoint(folder: str | os.PathLike) -> int | None:
    """The number of the newest complete checkpoint in a folder, or `None`."""
    if not Path(folder).is_dir():
        return None
    with _manager(folder) as manager:
        return manager.latest_step()


def restore_checkpoint(folder: str | os.PathLike, step: int, like: PyTree) -> PyTree:
    """Reads a checkpoint.

    **Arguments:**

    - `folder`: holds the checkpoints.
    - `step`: number of the checkpoint, of [`eqsym.latest_checkpoint`][].
    - `like`: a state of the same structure, shapes and static data; also says on which
        devices the arrays are put.

    **Returns:**

    The state that was saved, bit for bit.

    **Raises:** `ValueError` that names the folder for a checkpoint that is truncated or
    otherwise unreadable, and for one of another model, with the fields that differ.
    """
    import orbax.checkpoint as ocp

    place = Path(folder) / str(step)
    try:
        with _manager(folder) as manager:
            found = manager.restore(
                step, args=ocp.args.Composite(description=ocp.args.JsonRestore())
            ).description
            saved = dict(found["state"])
    except Exception as error:
        raise ValueError(_unreadable(place, error)) from error
    _compare(place, saved, describe(like))
    try:
        with _manager(folder) as manager:
            arrays = manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(_arrays(like, _abstract))
                ),
            ).state
    except Exception as error:
        raise ValueError(_unreadable(place, error)) from error
    return _fill(like, arrays)


def describe(tree: PyTree) -> dict[str, str]:
    """What a PyTree is made of, but for the values of its arrays: a text for every
    field, array types and static data alike."""
    found: dict[str, str] = {}

    def walk(path: str, node: Any) -> None:
        if eqx.is_array(node):
            found[path] = f"{node.dtype}{list(node.shape)}"
        elif dataclasses.is_dataclass(node) and not isinstance(node, type):
            found[path] = type(node).__qualname__
            for field in dataclasses.fields(node):
                walk(f"{path}.{field.name}", getattr(node, field.name))
        elif isinstance(node, dict):
            for name, value in node.items():
                walk(f"{path}[{name!r}]", value)
        elif isinstance(node, (tuple, list)):
            for i, value in enumerate(node):
                walk(f"{path}[{i}]", value)
        elif callable(node):
            found[path] = getattr(node, "__qualname__", type(node).__qualname__)
        else:
            found[path] = repr(node)

    walk("state", tree)
    return found


def _manager(folder: str | os.PathLike):
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=_KEPT, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)


def _is_key(leaf: Any) -> bool:
    return eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _arrays(tree: PyTree, convert=lambda leaf: leaf) -> dict[str, Any]:
    return {
        name: convert(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
        for name, leaf in _named(tree)
    }


def _abstract(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _fill(like: PyTree, arrays: dict[str, Any]) -> PyTree:
    def value(name: str, leaf: Any) -> Any:
        if _is_key(leaf):
            data = jax.random.wrap_key_data(
                arrays[name], impl=jax.random.key_impl(leaf)
            )
            return jax.device_put(data, leaf.sharding)
        return (
            np.asarray(arrays[name]) if isinstance(leaf, np.ndarray) else arrays[name]
        )

    dynamic, static = eqx.partition(like, eqx.is_array)
    values = [value(name, leaf) for name, leaf in _named(like)]
    filled = jax.tree.unflatten(jax.tree.structure(dynamic), values)
    return eqx.combine(filled, static)


def _compare(place: Path, saved: dict[str, str], expected: dict[str, str]) -> None:
    names = sorted(saved.keys() | expected.keys())
    found = [(n, saved.get(n, "nothing"), expected.get(n, "nothing")) for n in names]
    lines = [
        f"  {name}: saved {there}, here {here}"
        for name, there, here in found
        if there != here
    ]
    if lines:
        more = "" if len(lines) <= 12 else f"\n  and {len(lines) - 12} more"
        raise ValueError(
            f"The checkpoint {place} is of another model. Use another run folder, or "
            "the settings it was made with. These fields differ:\n"
            + "\n".join(lines[:12])
            + more
        )


def _unreadable(place: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return (
        f"The checkpoint {place} is truncated or damaged and cannot be read "
        f"({type(error).__name__}: {reason[0][:200] if reason else ''}). Nothing was "
        "changed. Remove that folder to resume from the checkpoint before it."
    )
