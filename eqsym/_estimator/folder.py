"""The folder of an estimate: its history, and checkpoints from which it goes on."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float, PyTree

from .._core import is_first, on_first, on_host
from .._storage import (
    arrays_of,
    compare,
    encode,
    History,
    is_key,
    listed,
    locked,
    read_arrays,
    read_description,
    restore_checkpoint,
    resumable_checkpoint,
    save_checkpoint,
    warn_of_uncompared,
    writable,
)


_logger = logging.getLogger("eqsym")

_CHECKPOINTS, _HISTORY = "checkpoints", "history.csv"
# Between two checkpoints.
_SECONDS = 30.0

State = TypeVar("State", bound=PyTree)


class _Described(eqx.Module):
    """Settings with digests of their arrays, whose values are not stored."""

    settings: Any
    arrays: dict[str, str]


class EstimateFolder:
    """Keeps an estimate, if it has a folder.

    - `samples`: in the newest checkpoint, `None` if there is none.
    """

    samples: int | None

    def __init__(
        self, folder: Path | None, name: str, settings: PyTree, names: tuple[str, ...]
    ):
        """**Arguments:**

        - `folder`: that can be written, or `None` to keep nothing.
        - `name`: of the work, for messages.
        - `settings`: that decide the numbers.
        - `names`: of the quantities in the history.

        **Raises:** `ValueError` for a folder of something else, naming the differences,
        or in which all checkpoints are damaged.
        """
        self.samples = None
        self._name = name
        self._folder = folder
        if folder is None:
            return
        self._place = folder / _CHECKPOINTS
        self._columns = ("step", *names, "samples", "acceptance", "replaced", "seconds")
        self._settings = _Described(settings, _digests(settings))
        found = resumable_checkpoint(self._place)
        self._saved = found or 0
        if found is not None:
            self._compare()
            self.samples = int(read_arrays(self._place, self._saved)[".taken"])
        self._history = History(
            folder / _HISTORY, self._columns, steps=self.samples or 0, write=is_first()
        )
        seconds = self._history.columns()["seconds"]
        before = float(seconds[-1]) if len(seconds) else 0.0
        self._started = time.monotonic() - before
        self._next = time.monotonic() + _SECONDS

    def _compare(self) -> None:
        description = read_description(self._place, self._saved)
        saved = description["settings"]
        kind = encode(self._settings)["class"]
        if not isinstance(saved, dict) or saved.get("class") != kind:
            raise ValueError(
                f"`path` must be a folder of its own for every estimate, got "
                f"{self._folder}: what it holds is not of an estimate, but of a run."
            )
        found = compare(saved, self._settings, "")
        if found:
            raise ValueError(
                f"`path` must be the folder of the same estimate, or a new one, got "
                f"{self._folder}, which was made with other arguments. Only `steps`, "
                "`chunk`, `progress` and the mesh of the walkers may differ; arrays "
                f"are compared by digests of their values. These differ:{listed(found)}"
            )
        place = self._place / str(self._saved)
        warn_of_uncompared(place, settings=self._settings.settings)

    def restore(self, like: State) -> State:
        """The state of the newest checkpoint."""
        assert self.samples is not None
        _logger.info(
            "%s: going on from the checkpoint %s.",
            self._name,
            self._place / str(self._saved),
        )
        return restore_checkpoint(self._place, self._saved, like)

    def append(
        self,
        step: int,
        values: Float[np.ndarray, "walkers quantities"],
        acceptance: float,
        replaced: int,
    ) -> None:
        """A row for a step: means over the walkers whose values are finite, and how
        many these are."""
        if self._folder is None:
            return
        finite = values[np.all(np.isfinite(values), axis=1)]
        means = np.sum(finite, axis=0) / len(finite) if len(finite) else values[0]
        *names, _, _, _, _ = self._columns[1:]
        self._history.append(
            {
                "step": step,
                **{name: float(mean) for name, mean in zip(names, means, strict=True)},
                "samples": len(finite),
                "acceptance": acceptance,
                "replaced": replaced,
                "seconds": round(time.monotonic() - self._started, 3),
            }
        )

    def save_if_due(self, state: Any) -> None:
        """Saves if the last time is long enough ago, by the clock of the first of
        several processes."""
        if self._folder is None:
            return
        if on_first(lambda: b"due" if time.monotonic() > self._next else None):
            self.save(state)

    def save(self, state: Any) -> None:
        """Saves, unless this state is saved already. A full disk is reported: the
        checkpoint before stays, and the estimate goes on."""
        if self._folder is None or state.number == self._saved:
            return
        try:
            on_first(self._history.flush)
            save_checkpoint(self._place, state.number, state, self._settings)
            self._saved = state.number
        except OSError as error:
            _logger.warning(
                "%s: the checkpoint of step %d could not be written (%s). The "
                "checkpoints before are as they were.",
                self._name,
                state.number,
                error,
            )
        self._next = time.monotonic() + _SECONDS


@contextlib.contextmanager
def estimate_folder(
    path: Path | None, name: str, settings: PyTree, names: tuple[str, ...]
) -> Iterator[EstimateFolder]:
    """A folder that nobody else uses; arguments as for `EstimateFolder`.

    **Raises:** `OSError` for a folder that cannot be written, or is in use;
    `ValueError` as `EstimateFolder` does."""
    folder = None if path is None else writable(path)
    with locked(folder):
        yield EstimateFolder(folder, name, settings, names)


def _digests(tree: PyTree) -> dict[str, str]:
    return {name: _digest(leaf) for name, leaf in arrays_of(tree).items()}


def _digest(leaf: Any) -> str:
    if is_key(leaf):
        leaf = jax.random.key_data(leaf)
    array = leaf if isinstance(leaf, np.ndarray) else on_host(leaf)
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
