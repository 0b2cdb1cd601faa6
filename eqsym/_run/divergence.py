"""A watch over energies and variances that tells when training diverges."""

import bisect
import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float


# Steps that make up the range, and the fewest of them.
_RANGE, _FEWEST = 100, 20
# A variance is outside above so many medians.
_VARIANCE = 10.0
# In Ha^2 per primitive cell. Ratios of smaller variances mean little.
_SMALL = 1e-4
# An energy is outside by so many interquartile ranges.
_ENERGY = 5.0
# Steps outside in a row that are not an accident.
_STAY = 20
# Steps between two states to go back to, and the fewest from such a state to the first
# step outside.
_MARKS, _MARGIN = 100, 20


class Watch:
    r"""Tells a run that is being lost from one that fluctuates.

    A step is outside the range of the last hundred steps that were inside, if

    - its variance is above all of theirs and above 10 times their median; or
    - its energy is above all of theirs, by more than 5 times their interquartile range
        and more than the standard deviation of the local energy (the root of the median
        variance), which is large beside the error of a mean over walkers; or
    - its energy is as far below all of theirs, and its variance above all of theirs. A
        lower energy alone is the aim of training.

    The median counts as at least 1e-4 Ha^2. 20 such steps in a row are a divergence.
    Fewer are not: the variance has heavy tails (Trail, Phys. Rev. E 77, 016703 (2008)),
    and one walker near a node can be most of it for several steps. Of 40 independent
    steps, the last 20 all exceed the first 20 with a probability of 1 / (40 over 20),
    7e-12, whatever they are drawn from. Nothing is outside as long as fewer than 20
    steps are inside: at the start, and after a strategy has begun, which changes the
    energies. A rejected update counts only if it follows a step outside.

    - `outside`: steps outside in a row, up to the last one.
    - `first`: the first of these.
    - `marks`: the last two steps to go back to. In every hundred, the first step inside
        is one.
    """

    outside: int
    first: int
    marks: list[int]

    def __init__(
        self,
        starts: Sequence[int],
        history: Mapping[str, Float[np.ndarray, " steps"]],
    ):
        """**Arguments:**

        - `starts`: steps before which a strategy begins.
        - `history`: the steps so far. Everything follows from these, so that a resumed
            run decides as if it had never stopped.
        """
        self._starts = frozenset(starts)
        self._energies, self._variances = _Window(), _Window()
        self.outside = self.first = 0
        self.marks = [0]
        names = ("energy", "variance", "rejected_update")
        columns = (history[name].tolist() for name in names)
        for step, *values in zip(history["step"].tolist(), *columns, strict=True):
            self.see(int(step), dict(zip(names, values, strict=True)))

    def see(self, step: int, row: Mapping[str, float | int]) -> None:
        """Takes note of a step."""
        energy, variance = row["energy"], row["variance"]
        if step - 1 in self._starts:
            self._energies, self._variances, self.outside = _Window(), _Window(), 0
        finite = math.isfinite(energy) and math.isfinite(variance)
        if row["rejected_update"] or not finite:
            self.outside += self.outside > 0
            return
        if self._is_outside(energy, variance):
            self.outside += 1
            if self.outside == 1:
                self.first = step
            return
        self.outside = 0
        self._energies.add(energy)
        self._variances.add(variance)
        if step // _MARKS > self.marks[-1] // _MARKS:
            self.marks = [self.marks[-1], step]

    @property
    def lost(self) -> bool:
        """Whether training diverges."""
        return self.outside >= _STAY

    @property
    def good(self) -> int:
        """The step to go back to: the newest mark that is far enough from the first
        step outside, or else the oldest mark."""
        early = [mark for mark in self.marks if mark <= self.first - _MARGIN]
        return max(early, default=self.marks[0])

    def _is_outside(self, energy: float, variance: float) -> bool:
        energies, variances = self._energies, self._variances
        if len(variances) < _FEWEST:
            return False
        typical = max(variances.quantile(0.5), _SMALL)
        raised = variance > variances.quantile(1.0)
        if raised and variance > _VARIANCE * typical:
            return True
        width = energies.quantile(0.75) - energies.quantile(0.25)
        far = max(_ENERGY * width, math.sqrt(typical))
        above = energy > energies.quantile(1.0) + far
        below = energy < energies.quantile(0.0) - far
        return above or (below and raised)

    def __str__(self) -> str:
        energies, variances = self._energies, self._variances
        return (
            f"since step {self.first}, energy or variance have left the range of the "
            f"{len(energies)} steps before (energy {energies.quantile(0.0):.4g} to "
            f"{energies.quantile(1.0):.4g} Ha, variance up to "
            f"{variances.quantile(1.0):.3g} Ha^2)"
        )


class _Window:
    """The last hundred numbers, with their quantiles."""

    def __init__(self):
        self._values: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        if len(self._values) == _RANGE:
            del self._sorted[bisect.bisect_left(self._sorted, self._values.popleft())]
        self._values.append(value)
        bisect.insort(self._sorted, value)

    def quantile(self, share: float) -> float:
        return self._sorted[round(share * (len(self._sorted) - 1))]
