"""What JAX has compiled, kept for the next process."""

import logging
import os
from pathlib import Path
from typing import Any

import jax


_logger = logging.getLogger("eqsym")


def keep_compiled() -> Path | None:
    """Keeps all that is compiled from here on in a folder of the user, so that the
    next process finds it there and does not wait for it again. Called once, at the
    start of a script, as all examples do.

    It is the cache of JAX, in `eqsym` in the user's folder for caches,
    `$XDG_CACHE_HOME` or `~/.cache`; any number of processes may share it, and it may
    be removed at any time. If `JAX_COMPILATION_CACHE_DIR` or
    `jax.config.jax_compilation_cache_dir` name another folder, that one is used as it
    is set up. `JAX_ENABLE_COMPILATION_CACHE=0` in the environment switches it off.

    **Returns:**

    The folder, or `None` without one: if it is switched off, or cannot be written,
    which is logged.
    """
    # Its fields are not known to those that check types.
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    if config.jax_compilation_cache_dir is not None:
        return Path(config.jax_compilation_cache_dir)
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(caches, "eqsym")
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        _logger.warning("What is compiled is not kept: %s", error)
        return None
    config.update("jax_compilation_cache_dir", str(folder))
    # Also what is compiled in no time: there is much of it.
    config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder
