"""Ctrl-C and SIGTERM: the end comes between two steps, the same in all processes."""

import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils


_logger = logging.getLogger("eqsym")

# Between two meetings of several processes, which take them some milliseconds.
_SECONDS = 0.1


class Interrupts:
    """The signals that came since `interruptible` was entered.

    - `ending`: whether `check` has ended the work. Then all processes are in the same
        place, and can save together.
    - `stopped`: whether somebody at a prompt pressed Ctrl-C, and gets what there is: no
        further step should be taken.
    """

    ending: bool
    stopped: bool

    def __init__(self, returning: bool):
        self.ending = self.stopped = False
        self._returning = returning
        self._received = self._presses = 0
        # Of several processes: calls of `check` so far, and at the last meeting, the
        # call that is the next meeting, and when the last one was.
        self._calls = self._met = 0
        self._meeting = 1
        self._time = time.monotonic()

    def check(self, *, last: bool = False) -> None:
        """Ends the work if a signal came, to whichever of the processes. Called after
        every step, and by all processes.

        Several processes have to agree, which takes a message to each of them. They
        meet after every step, or every tenth of a second if steps are faster: after a
        number of steps that follows from the pace of the first process, so that all
        know it.

        **Arguments:**

        - `last`: whether the signals must be known now, because no further step comes.

        **Raises:** `KeyboardInterrupt` after Ctrl-C, `SystemExit` after SIGTERM.
        """
        number = self._agreed(last)
        if not number or self.stopped:
            return
        if number == signal.SIGINT and self._returning:
            self.stopped = True
            return
        self.ending = True
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    def new_phase(self) -> None:
        """Announces that the next steps may be of another pace. Called by all
        processes."""
        self._meeting = self._calls + 1

    def _agreed(self, last: bool) -> int:
        """The signal to obey, 0 for none; SIGTERM if there were both."""
        if jax.process_count() == 1:
            return self._received
        self._calls += 1
        if self._calls < self._meeting and not last:
            return 0
        now = time.monotonic()
        pace = (self._calls - self._met) / max(now - self._time, 1e-6)
        here = np.array([self._received, pace], np.float32)
        found = np.asarray(multihost_utils.process_allgather(here))
        self._met, self._time = self._calls, now
        self._meeting = self._calls + max(1, int(found[0, 1] * _SECONDS))
        return int(found[:, 0].max())

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Takes note of a signal. The second Ctrl-C ends Python at once, for steps that
        do not come to an end."""
        del frame
        if number == signal.SIGINT:
            self._presses += 1
        if self._presses > 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self._received = max(self._received, number)
        _logger.warning(
            "%s: ending after this step.%s",
            signal.Signals(number).name,
            " Once more to end at once." if number == signal.SIGINT else "",
        )


@contextlib.contextmanager
def interruptible(*, returning: bool = False) -> Iterator[Interrupts]:
    """Lets Ctrl-C and SIGTERM, by which clusters announce that time is up, wait for the
    next call of `check`. Python would raise an exception anywhere, also halfway through
    a change that belongs together, and in one of several processes only, for which the
    others would wait forever.

    Handlers other than Python's are left alone, and outside of the main thread all of
    them are. `jax.distributed.initialize` has one for SIGTERM, which Python
    does not know of. It is replaced: it only takes note of the signal, for loops that
    ask it.

    **Arguments:**

    - `returning`: whether Ctrl-C makes `check` set `stopped`, instead of raising.
    """
    interrupts = Interrupts(returning)
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if threading.current_thread() is not threading.main_thread():
        usual = {}
    before = {n: h for n, h in usual.items() if signal.getsignal(n) is h}
    for number in before:
        signal.signal(number, interrupts.receive)
    try:
        yield interrupts
        # One that came after the last step.
        interrupts.check(last=True)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interactive() -> bool:
    """Whether somebody sits at a prompt, of Python, IPython or a notebook."""
    return getattr(sys, "ps1", None) is not None or bool(sys.flags.interactive)
