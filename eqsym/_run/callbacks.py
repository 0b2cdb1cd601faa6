"""A function of the user that is called after every step, on every process."""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

from .._core import Interrupts, on_all
from .._training import Statistics, VMCState


_logger = logging.getLogger("eqsym")

Callback: TypeAlias = Callable[[int, Statistics, VMCState], Any]


def stops(
    callback: Callback,
    step: int,
    statistics: Statistics,
    state: VMCState,
    interrupts: Interrupts,
) -> bool:
    """Calls it, and tells whether it asks for the end of training: by `StopIteration`
    on any of the processes, which end together.

    **Arguments:**

    - `callback`: the function.
    - `step`, `statistics`, `state`: its arguments.
    - `interrupts`: told of an exception, so that all processes save together.

    **Raises:** what the function raises; `RuntimeError` if that was on another process.
    """
    raised, stopping = None, False
    try:
        callback(step, statistics, state)
    except StopIteration:
        stopping = True
    except (Exception, SystemExit) as error:
        raised = error
    if on_all(raised is None and not stopping):
        return False
    if on_all(raised is None):
        _logger.info("The callback ended training after step %d.", step)
        return True
    interrupts.ending = True
    if raised is not None:
        raise raised
    raise RuntimeError(f"`callback` raised on another process, after step {step}.")
