"""Progress bars, for everything that can take more than a few seconds."""

import logging
from typing import Any

from tqdm import tqdm

from .processes import is_first


_logger = logging.getLogger("eqsym")


def progress_bar(
    name: str,
    total: int | None,
    progress: bool | None,
    *,
    initial: int = 0,
    compiled: str | None = None,
) -> Any:
    """A bar of tqdm, of the first process only.

    **Arguments:**

    - `name`: what is being done.
    - `total`: the number of steps, if it is known.
    - `progress`: whether to show it; `None` for on terminals only.
    - `initial`: steps that were done before.
    - `compiled`: what the first step compiles: that it takes longer than the others is
        said on the bar and in the log.
    """
    disable = None if progress is None else not progress
    if not is_first():
        disable = True
    bar = tqdm(desc=name, total=total, initial=initial, disable=disable)
    if compiled is not None:
        bar.set_postfix_str("compiling")
        _logger.info("Compiling %s; this can take minutes.", compiled)
    return bar
