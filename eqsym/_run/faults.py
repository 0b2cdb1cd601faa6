"""Faults of a run: counted and reported."""

import logging
import math
from collections import Counter

from .._training import REPLACED


_logger = logging.getLogger("eqsym")

# Steps in a row with hardly any move accepted, or refused, before that is reported.
_STUCK_STEPS = 20
_LOW, _HIGH = 0.02, 0.98


class Faults:
    """Counts the faults in the steps of a run."""

    def __init__(self):
        self._steps = 0
        # The reasons for the rejected updates since the last accepted one.
        self._rejected: list[str] = []
        self._stuck_in_row = 0
        self._totals = dict.fromkeys(_MEANINGS, 0)

    def see(self, step: int, row: dict[str, float | int]) -> None:
        """Takes note of a step."""
        self._steps += 1
        for name in self._totals:
            if row[name] and not self._totals[name]:
                _logger.warning(
                    "Step %d: %s", step, _MEANINGS[name].format(int(row[name]))
                )
            self._totals[name] += int(row[name])
        stuck = not _LOW < row["acceptance"] < _HIGH
        self._stuck_in_row = self._stuck_in_row + 1 if stuck else 0
        if self._stuck_in_row == _STUCK_STEPS:
            _logger.warning(
                "Step %d: of the moves of the last %d steps a share of %.2g was "
                "accepted; the width of the moves adapts, but has not found one that "
                "does better. With hardly any, the walkers stand still: look for an "
                "amplitude that is not finite. With nearly all, every move is too "
                "short, or the wave function is constant.",
                step,
                _STUCK_STEPS,
                row["acceptance"],
            )
        if row["rejected_update"]:
            self._rejected.append(_reason(row))
        else:
            self._rejected = []

    def rejections(self, step: int) -> str:
        """How many updates in a row were rejected, up to a step, and why: a sentence
        after a space, or nothing."""
        if not self._rejected:
            return ""
        reason, times = Counter(self._rejected).most_common(1)[0]
        return (
            f" The last {len(self._rejected)} updates, up to step {step}, were "
            f"rejected. In {times} of them {reason}."
        )

    def forget_rejections(self) -> None:
        """Counts them anew, for a run that has gone back."""
        self._rejected = []

    def report(self) -> None:
        """Logs the totals, if there is anything to say."""
        found = [
            _MEANINGS[name].format(total)
            for name, total in self._totals.items()
            if total
        ]
        if found:
            _logger.warning("In all %d steps: %s", self._steps, " ".join(found))


def _reason(row: dict[str, float | int]) -> str:
    """Why an update was rejected."""
    if math.isnan(row["variance"]):
        return "no walker had a finite local energy and weight"
    if math.isnan(row["energy"]):
        return "the projection had no positive weight, as sampled"
    return "it was not finite itself"


# The faults that fields of `Statistics` count.
_MEANINGS = {
    "invalid_energies": (
        "{} local energies or weights were not finite and were left out."
    ),
    "dropped_terms": "{} images with weight were left out by a bound on their number.",
    "replaced_walkers": REPLACED,
    "solver_retries": (
        "A Gram matrix was not positive; its damping was raised {} times."
    ),
    "rejected_update": "{} updates were not finite and were rejected.",
}
