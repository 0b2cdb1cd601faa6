"""Checkpoints as files: the whole state of a run, written at once, checked when read.

When a state is saved, and which ones may be needed again, others decide:
`_run/phases.py` for training, `_estimator/folder.py` for estimates, and users in loops
of their own, for whom these functions are `eqsym.checkpoint`.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from .._core import (
    checked,
    Integer,
    on_all,
    on_first,
    on_host,
    put,
    whole_number,
)
from .comparison import compare, Difference, in_precision, listed
from .serialize import arrays_of, dumps, encode, is_key, Json, typed, uncompared


_logger = logging.getLogger("eqsym")

_KEPT = 2
# In a warning.
_NAMED = 12
_ARRAYS, _DESCRIPTION, _SUMS = "arrays.npz", "description.json", "SHA256SUMS"


@checked
def save_checkpoint(
    folder: str | os.PathLike,
    step: Integer,
    state: PyTree,
    settings: PyTree = None,
    *,
    keep: Collection[int] = (),
) -> None:
    """Saves a state so that a run can go on from it, whatever happens while it is
    written: into a temporary folder, which is renamed when all of it is on the disk.
    Afterwards only this checkpoint and the newest before it are kept.

    A checkpoint is a folder of three files: `arrays.npz` for numpy, `description.json`
    with everything else, and `SHA256SUMS` for `sha256sum -c`. All of several processes
    have to call this; the first one writes, to a folder that all of them can read.

    The newest checkpoint is the one with the highest number. So a state cannot be saved
    in a folder with a whole checkpoint of a higher number: whoever resumes would get
    that one. It is not deleted either: it may be weeks of work, and the folder the
    wrong one. To go on from an earlier state, remove the later checkpoints first, or
    save to another folder. Damaged ones of a higher number do no harm, and stay.

    **Arguments:**

    - `folder`: holds the checkpoints; made if it does not exist.
    - `step`: the number of the checkpoint. One that exists is replaced.
    - `state`: a PyTree of arrays (random keys among them) and static data.
    - `settings`: anything else to be described; its arrays are not stored.
    - `keep`: numbers of further checkpoints that are kept.

    **Raises:** `OSError` if the folder cannot be written, as on a full disk;
    `ValueError` if it has a whole checkpoint of a higher number. Then nothing is
    changed.
    """
    step = whole_number("step", step, 0)
    arrays = {name: _on_host(leaf) for name, leaf in arrays_of(state).items()}
    description = {
        "eqsym": metadata.version("eqsym"),
        "step": step,
        "state": encode(state),
        "settings": encode(settings),
    }
    place = Path(folder)
    on_first(lambda: _write(place, step, arrays, description, keep))


def _write(
    folder: Path,
    step: int,
    arrays: dict[str, np.ndarray],
    description: Json,
    keep: Collection[int],
) -> None:
    later = [n for n in _steps(folder) if n > step and is_whole(folder, n)]
    if later:
        raise ValueError(
            f"`step` must be at least {later[0]}, the number of the newest checkpoint "
            f"in {folder}, got {step}: whoever resumes would get step {later[0]} and "
            f"not this one. Go on from step {later[0]}, remove what is newer than step "
            f"{step}, or save to another folder. Nothing was changed."
        )
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        with open(temporary / _ARRAYS, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        (temporary / _DESCRIPTION).write_text(dumps(description))
        sums = [f"{_digest(temporary / n)}  {n}\n" for n in (_ARRAYS, _DESCRIPTION)]
        (temporary / _SUMS).write_text("".join(sums))
        for name in (_ARRAYS, _DESCRIPTION, _SUMS):
            _flush(temporary / name)
        _flush(temporary)
        place, before = folder / str(step), folder / f"{step}.replaced.tmp"
        if place.exists():
            shutil.rmtree(before, ignore_errors=True)
            place.rename(before)
        temporary.rename(place)
        _flush(folder)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    # Higher numbers are damaged.
    earlier = [number for number in _steps(folder) if number < step]
    _remove(folder, set(earlier[_KEPT - 1 :]) - set(keep))


def _remove(folder: Path, numbers: Collection[int]) -> None:
    for number in numbers:
        # If this is interrupted, the rest is not taken for a damaged checkpoint.
        old = folder / str(number)
        old.rename(old.with_suffix(".old.tmp"))
    for old in list(folder.iterdir()):
        if old.suffix == ".tmp":
            shutil.rmtree(old, ignore_errors=True)


def forget_after(folder: str | os.PathLike, step: int) -> None:
    """Removes the checkpoints of higher numbers, so that this one is the newest."""
    place = Path(folder)
    on_first(lambda: _remove(place, [n for n in _steps(place) if n > step]))


def is_whole(folder: str | os.PathLike, step: int) -> bool:
    """Whether there is a checkpoint whose checksums agree."""
    return _damage(Path(folder) / str(step)) is None


@checked
def latest_checkpoint(folder: str | os.PathLike) -> int | None:
    """The number of the newest checkpoint in a folder whose checksums agree, or
    `None`."""
    for step in _steps(Path(folder)):
        if is_whole(folder, step):
            return step
    return None


def common_checkpoint(folder: str | os.PathLike) -> int | None:
    """`latest_checkpoint` as the first of several processes sees it, for all."""
    found = on_first(lambda: str(latest_checkpoint(folder)).encode()).decode()
    return int(found) if found.isdigit() else None


def resumable_checkpoint(folder: str | os.PathLike) -> int | None:
    """The number of the checkpoint to go on from, if there is one, the same in all
    processes.

    Checkpoints that are newer, which must be damaged, are renamed to `<step>.damaged`
    with a warning.

    **Raises:** `ValueError` if there are checkpoints and all of them are damaged, in
    which case nothing is renamed; or if some processes do not see the folder.
    """
    place = Path(folder)
    on_first(lambda: _set_aside(place))
    found = common_checkpoint(place)
    if found is not None and not on_all((place / str(found)).is_dir()):
        raise ValueError(
            "`path` must be on a disk that all processes share: not all of them see "
            f"the checkpoint {place / str(found)}."
        )
    return found


def _set_aside(folder: Path) -> None:
    found: dict[Path, str] = {}
    for step in _steps(folder):
        place = folder / str(step)
        damage = _damage(place)
        if damage is None:
            break
        found[place] = damage
    else:
        if found:
            raise ValueError(_unreadable(*next(iter(found.items()))))
    for place, damage in found.items():
        aside = place.with_suffix(".damaged")
        _logger.warning(
            "The checkpoint %s is damaged (%s). It is renamed to %s, and the run goes "
            "on from the one before.",
            place,
            damage,
            aside.name,
        )
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)


@checked
def restore_checkpoint(
    folder: str | os.PathLike,
    step: Integer | None,
    like: PyTree,
    settings: Any = None,
) -> PyTree:
    """Reads a checkpoint, to go on from it.

    **Arguments:**

    - `folder`: holds the checkpoints.
    - `step`: number of the checkpoint, of [`eqsym.checkpoint.latest`][]. For `None`,
        which means that there is none, the error says where it was looked for.
    - `like`: a state of the same structure, shapes and static data; also says on which
        devices the arrays are put.
    - `settings`: to compare with those that were saved; `None` for no comparison.

    **Returns:**

    The state that was saved, bit for bit; static data as in `like`.

    **Raises:** `ValueError` if the folder is not there, or has no checkpoint, or none
    with this number, with the numbers of those there are; if it is truncated or
    damaged; and if it is of another model or was saved with other settings, with the
    fields that differ.
    """
    place = Path(folder)
    if step is None or not _steps(place):
        raise ValueError(_no_checkpoint(place))
    step = whole_number("step", step, 0)
    description = read_description(folder, step)
    state, found = restore_with_changes(folder, step, description, like, settings)
    if found:
        where = place / str(step)
        raise ValueError(_other(where, description, "settings", found))
    return state


def restore_with_changes(
    folder: str | os.PathLike,
    step: int,
    description: Json,
    like: PyTree,
    settings: Any,
    remedy: str = "",
) -> tuple[PyTree, list[Difference]]:
    """The state in a checkpoint, as `restore_checkpoint` returns it, and the settings
    that are not the ones it was saved with.

    **Arguments:**

    - `description`: of the checkpoint, from `read_description`.
    - `folder`, `step`, `like`, `settings`: as for `restore_checkpoint`.
    - `remedy`: what else one may do if it is of another model, in sentences after a
        space.

    **Raises:** `ValueError` if the state is of another model.
    """
    found = compare(description["state"], like, "state")
    if found:
        place = Path(folder) / str(step)
        raise ValueError(_other(place, description, "model", found, remedy))
    changes = []
    if settings is not None:
        changes = compare(description["settings"], settings, "settings")
    return filled(like, read_arrays(folder, step)), changes


def _no_checkpoint(folder: Path) -> str:
    """Says that there is nothing to restore, and where it may be instead."""
    if not folder.exists():
        why = "which does not exist"
    elif _steps(folder / "checkpoints"):
        why = f"which is a run folder: they are in {folder / 'checkpoints'}"
    elif folder.name.isdigit() and _steps(folder.parent):
        why = f"which is one itself: give {folder.parent}, and {folder.name} as `step`"
    elif _steps(folder):
        return f"`step` must be a number, got None: no checkpoint in {folder} is whole."
    else:
        why = "which has none"
    return f"`folder` must be a folder of checkpoints, got {folder.absolute()}, {why}."


def warn_of_uncompared(place: Path, **described: PyTree) -> None:
    """Warns of the functions and objects in some trees, which are not the same as in a
    checkpoint just because they compare equal."""
    names = [
        name
        for path, tree in described.items()
        for name in uncompared(encode(tree), path)
    ]
    more = len(names) - _NAMED
    if names:
        _logger.warning(
            "Going on from %s. Functions and objects are compared by their names and "
            "the values that they hold, and not by their code. Check that it is the "
            "same, for: %s.",
            place,
            ", ".join(names[:_NAMED]) + (f", and {more} more" if more > 0 else ""),
        )


def filled(like: PyTree, arrays: dict[str, np.ndarray], prefix: str = "") -> PyTree:
    """A tree like this one, with the arrays that belong to its paths, each of which
    may start with a prefix."""
    dynamic, static = eqx.partition(like, eqx.is_array)
    values = [_placed(arrays[prefix + n], leaf) for n, leaf in arrays_of(like).items()]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), values), static)


def _other(
    place: Path,
    description: Json,
    part: str,
    found: list[Difference],
    remedy: str = "",
) -> str:
    """Says that a checkpoint is of another model, or of other settings."""
    versions = [description["eqsym"], metadata.version("eqsym")]
    other = (
        ""
        if versions[0] == versions[1]
        else f" It was written by eqsym {versions[0]}, this is {versions[1]}."
    )
    precision = in_precision(found)
    what = "of another model" if part == "model" else "of a run with other settings"
    if precision:
        what, remedy = "in another precision", ""
    return (
        f"The checkpoint {place} is {what}.{other}{precision} Use another folder, or "
        f"what it was made with.{remedy} These fields differ:{listed(found)}"
    )


def read_description(folder: str | os.PathLike, step: int) -> Json:
    """The description in a checkpoint, if its checksums agree. Warns of a checkpoint of
    another version of eqsym.

    **Raises:** `ValueError` if it is damaged, or there is none.
    """
    place = Path(folder) / str(step)
    if not place.is_dir():
        numbers = ", ".join(map(str, _steps(Path(folder)))) or "none"
        raise ValueError(
            f"`step` must be the number of a checkpoint in {folder}, got {step}. There "
            f"are: {numbers}."
        )
    damage = _damage(place)
    if damage is not None:
        raise ValueError(_unreadable(place, damage))
    description = json.loads((place / _DESCRIPTION).read_text())
    version = metadata.version("eqsym")
    if description["eqsym"] != version:
        _logger.warning(
            "The checkpoint %s was written by eqsym %s, this is %s.",
            place,
            description["eqsym"],
            version,
        )
    return description


def read_arrays(folder: str | os.PathLike, step: int) -> dict[str, np.ndarray]:
    """The arrays in a checkpoint by their paths; random keys as numbers."""
    with np.load(Path(folder) / str(step) / _ARRAYS, allow_pickle=False) as file:
        return dict(file)


def _steps(folder: Path) -> list[int]:
    """Numbers of the checkpoints, the newest first."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())[::-1]


def _damage(place: Path) -> str | None:
    """Why a checkpoint cannot be used, or `None`."""
    try:
        lines = (place / _SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split("  ") for line in lines)}
        if sums.keys() != {_ARRAYS, _DESCRIPTION}:
            return f"{_SUMS} is not a list of checksums"
        for name, digest in sums.items():
            if _digest(place / name) != digest:
                return f"the checksum of {name} does not agree"
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Puts a file on the disk itself, to survive a power cut too."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    return on_host(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def _placed(value: np.ndarray, leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return value
    if is_key(leaf):
        data = jax.device_put(value)  # compiles nothing
        found = jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    else:
        found = typed(value, leaf.dtype)
    # Bound to devices only if the other one is: for arrays that are, another program is
    # compiled, and none of those that a run left in JAX's cache is found.
    return put(found, leaf.sharding) if leaf.committed else jax.device_put(found)


def _unreadable(place: Path, reason: str) -> str:
    return (
        f"The checkpoint {place} is truncated or damaged and cannot be read ({reason})."
        " Nothing was changed. Remove that folder to resume from the checkpoint before "
        "it, if there is one."
    )
