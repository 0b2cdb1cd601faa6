"""Folders of runs and of estimates: written by one program at a time."""

import contextlib
import fcntl
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .._core import on_all, on_first


_logger = logging.getLogger("eqsym")

_LOCK = "run.lock"


@contextlib.contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Keeps other runs out of a run folder. The operating system unlocks it when the
    process ends, however it ends.

    **Raises:** `OSError` if another run is in the folder.
    """
    with contextlib.ExitStack() as stack:
        if folder is not None:
            on_first(lambda: _lock(folder, stack))
        yield


def _lock(folder: Path, stack: contextlib.ExitStack) -> None:
    file = stack.enter_context(open(folder / _LOCK, "a"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(
            f"Another run is going on in the folder {folder}: it holds {_LOCK}. Wait "
            "for its end, or use another folder."
        ) from None
    except OSError as error:
        _logger.warning(
            "The folder %s cannot be locked (%s): nothing keeps a second run out.",
            folder,
            error,
        )


def writable(folder: Path) -> Path:
    """The folder, made by the first process if it does not exist.

    **Raises:** `OSError` if it cannot be written, `ValueError` if not all processes see
    it.
    """
    on_first(lambda: _try_to_write(folder))
    if not on_all(folder.is_dir()):
        raise ValueError(
            f"`path` must be on a disk that all processes share, got {folder}, which "
            "not all of them see."
        )
    return folder


def _try_to_write(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"`path` must be a folder that can be written, got {folder}: {error}"
        ) from error
