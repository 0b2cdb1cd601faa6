"""Progress bars, for everything that can take more than a few seconds, and what the log
says of compilation."""

import logging
import sys
import time
from typing import Any

from tqdm.auto import tqdm

from .processes import is_first


_logger = logging.getLogger("eqsym")

# Between two times that a bar is drawn, which takes some tenths of a millisecond.
_SECONDS = 0.25


class Progress:
    """A bar of tqdm, and how long the first step of a kind took, which is compiled."""

    def __init__(self, bar: Any):
        """**Arguments:**

        - `bar`: of tqdm.
        """
        self._bar = bar
        self._compiled: str | None = None
        self._since = 0.0

    def __enter__(self) -> "Progress":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    @property
    def done(self) -> int:
        """Steps so far."""
        return self._bar.n

    def compiling(self, what: str) -> None:
        """Says on the bar and in the log that the next step takes longer than others,
        because it compiles something. The log tells its seconds when it is done."""
        self._compiled, self._since = what, time.monotonic()
        self._bar.set_postfix_str("compiling")
        _logger.info("Compiling %s; this can take minutes.", what)

    def extend(self, total: int) -> None:
        """Changes the number of steps."""
        self._bar.total = total

    def say(self, text: str, *, now: bool = False) -> None:
        """Text after the bar, from the next step on, or from now."""
        self._bar.set_postfix_str(text, refresh=now)

    def update(self, steps: int = 1) -> None:
        """Takes note of steps that were done."""
        if self._compiled is not None:
            seconds = time.monotonic() - self._since
            _logger.info("Compiled %s in %s.", self._compiled, duration(seconds))
            self._compiled = None
        self._bar.update(steps)


def progress_bar(
    name: str,
    total: int | None,
    progress: bool | None,
    *,
    initial: int = 0,
    compiled: str | None = None,
) -> Progress:
    """A bar of the first process only.

    **Arguments:**

    - `name`: what is being done.
    - `total`: the number of steps, if it is known.
    - `progress`: whether to show it; `None` for in terminals and notebooks only.
    - `initial`: steps that were done before.
    - `compiled`: what the first step compiles, see `Progress.compiling`.
    """
    # tqdm takes a notebook, which is not a terminal, for a file.
    disable = (False if _in_notebook() else None) if progress is None else not progress
    if not is_first():
        disable = True
    bar = Progress(
        tqdm(
            desc=name,
            total=total,
            initial=initial,
            disable=disable,
            mininterval=_SECONDS,
        )
    )
    if compiled is not None:
        bar.compiling(compiled)
    return bar


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this, which has IPython loaded."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
