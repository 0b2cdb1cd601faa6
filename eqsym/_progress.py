"""Progress bars, for everything that can take more than a few seconds."""

from typing import Any

from tqdm import tqdm


def progress_bar(
    name: str, total: int | None, progress: bool | None, *, initial: int = 0
) -> Any:
    """A bar of tqdm.

    **Arguments:**

    - `name`: what is being done.
    - `total`: the number of steps, if it is known.
    - `progress`: whether to show it; `None` for on terminals only.
    - `initial`: steps that were done before.
    """
    disable = None if progress is None else not progress
    return tqdm(desc=name, total=total, initial=initial, disable=disable)
