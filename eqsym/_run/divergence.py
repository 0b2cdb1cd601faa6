"""A watch over energies and variances that tells when training diverges."""

import bisect
import math
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float


# Steps that make up the range, and the fewest of them.
_RANGE, _FEWEST = 100, 20
# A variance is outside above so many medians, or above so many of the lowest median.
_VARIANCE, _LOST = 10.0, 100.0
# Ranges of which the lowest medians are taken.
_RANGES = 10
# In Ha^2 per primitive cell. Ratios of smaller variances mean little.
_SMALL = 1e-4
# An energy is outside by so many interquartile ranges.
_ENERGY = 5.0
# Before there is a range, an energy is high by so many standard deviations of the local
# energy.
_KICK = 5.0
# The fewest steps at the end to say that energies have risen, and by how many
# interquartile ranges they must have.
_FEWEST_RISEN, _RISE = 50, 1.5
# Steps outside in a row that are not an accident.
_STAY = 20
# The fewest steps from a state to go back to to the first step outside, and between two
# such states.
_MARGIN = 20
# From the first of these steps on, the steps between two states to go back to.
_MARKS = ((500, 100), (200, 50), (0, _MARGIN))


class Watch:
    r"""Tells a run that is being lost from one that fluctuates.

    A step is outside if its energies are not finite, if its update was rejected, or if
    it is outside the range of the last hundred steps that were inside:

    - its variance is above all of theirs and above 10 times their median; or
    - its energy is above all of theirs, by more than 5 times their interquartile range
        and more than the standard deviation of the local energy (the root of the median
        variance), which is large beside the error of a mean over walkers; or
    - its energy is as far below all of theirs, and its variance above all of theirs. A
        lower energy alone is the aim of training.

    Energies and variances that creep take that range along. So a step is also outside
    if its variance is above 100 times the lowest median of the last ten hundreds of
    steps inside, or its energy above their lowest median by 10 times the standard
    deviation of the local energy there.

    Medians count as at least 1e-4 Ha^2. 20 such steps in a row are a divergence.
    Fewer are not: the variance has heavy tails (Trail, Phys. Rev. E 77, 016703 (2008)),
    and one walker near a node can be most of it for several steps. Of 40 independent
    steps, the last 20 all exceed the first 20 with a probability of 1 / (40 over 20),
    7e-12, whatever they are drawn from.

    There is no range as long as fewer than 20 steps are inside: at the start, and after
    a strategy has begun, which changes the energies. The first updates often raise
    variances by orders of magnitude, for longer than 20 steps, and training recovers
    or does not. Nothing in these steps tells which, so that the watch only tells of
    them, as a kick: 20 steps in a row whose variance is above 10 times all of those
    before, or whose energy is above these by 5 standard deviations of the local energy.

    The energies of a step are those of the state before it. A state is known to be
    sound when the step after it has shown its energies.

    - `outside`: steps outside in a row, up to the last one.
    - `first`: the first of these.
    - `sound`: the newest step that led to a state known to be sound.
    - `marks`: the last two steps to go back to, which led to states known to be sound.
        At first there is one in every 20 steps, later in every 50 and 100, but none in
        a kick, and none with a tenth of what is outside of the lowest medians.
    """

    outside: int
    first: int
    sound: int
    marks: list[int]

    def __init__(
        self,
        starts: Sequence[int],
        history: Mapping[str, Float[np.ndarray, " steps"]],
        before: int = 0,
    ):
        """**Arguments:**

        - `starts`: steps before which a strategy begins.
        - `history`: the steps so far. Everything follows from these, so that a resumed
            run decides as if it had never stopped.
        - `before`: the step that the run starts from.
        """
        self._starts = frozenset(starts)
        self._seen = _SeenSteps()
        self._accepted = True
        self._why = ""
        self.outside = self.first = self.sound = 0
        self.marks = [before]
        names = ("energy", "variance", "rejected_update")
        columns = (history[name].tolist() for name in names)
        for step, *values in zip(history["step"].tolist(), *columns, strict=True):
            self.see(int(step), dict(zip(names, values, strict=True)))

    def see(self, step: int, row: Mapping[str, float | int]) -> None:
        """Takes note of a step."""
        energy, variance = row["energy"], row["variance"]
        if step - 1 in self._starts:
            self._seen, self.outside = _SeenSteps(), 0
        accepted, self._accepted = self._accepted, not row["rejected_update"]
        self._seen.compare_with_start(energy, variance)
        why = self._seen.why_outside(energy, variance)
        if not why:
            if accepted:
                self.sound = step - 1
                if self._seen.calm(energy, variance) and self._is_due(step - 1):
                    self.marks = [self.marks[-1], step - 1]
            if row["rejected_update"]:
                why = "updates are rejected"
        if why:
            self.outside += 1
            if self.outside == 1:
                self.first, self._why = step, why
            return
        self.outside = 0
        self._seen.add(energy, variance)

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

    @property
    def kick(self) -> str:
        """The message about a kick, once: when it has lasted for 20 steps."""
        return self._seen.kick

    def _is_due(self, step: int) -> bool:
        last = self.marks[-1]
        every = next(every for start, every in _MARKS if step >= start)
        return step - last >= _MARGIN and step // every > last // every

    def __str__(self) -> str:
        return f"since step {self.first}, {self._why}"


def risen(energies: Float[np.ndarray, " steps"]) -> str:
    """What to say if a run ends above where it has been, nothing otherwise.

    The median of the last hundred steps, or of the second half of fewer than 200 steps,
    is compared with the lowest one of as many steps before. It must be above by more
    than 1.5 times the interquartile range there. If one step in five is independent,
    energies that only fluctuate do so in less than one of 200 runs.
    """
    count = min(_RANGE, len(energies) // 2)
    if count < _FEWEST_RISEN:
        return ""
    used = len(energies) // count * count
    blocks = energies[len(energies) - used :].reshape(-1, count)
    quarter, medians, three = np.quantile(blocks, (0.25, 0.5, 0.75), axis=1)
    lowest = int(np.argmin(medians[:-1]))
    width = three[lowest] - quarter[lowest]
    if not medians[-1] - medians[lowest] > _RISE * width:
        return ""
    first = len(energies) - used + lowest * count + 1
    return (
        f"energies have risen, from a median of {medians[lowest]:.4f} Ha per cell in "
        f"steps {first} to {first + count - 1} to {medians[-1]:.4f} in the last {count}"
    )


class _SeenSteps:
    """Energies and variances inside, since a strategy began."""

    def __init__(self):
        self._energies, self._variances = _Window(), _Window()
        self._added = 0
        # Medians of energy and variance of whole ranges.
        self._medians: deque[tuple[float, float]] = deque(maxlen=_RANGES)
        # The first steps without those of a kick, and the steps of a kick so far.
        self._begun: list[tuple[float, float]] = []
        self._kicked = 0

    def add(self, energy: float, variance: float) -> None:
        self._energies.add(energy)
        self._variances.add(variance)
        self._added += 1
        if self._added % _RANGE == 0:
            medians = self._energies.quantile(0.5), self._variances.quantile(0.5)
            self._medians.append(medians)

    def why_outside(self, energy: float, variance: float) -> str:
        """Why a step is outside, nothing if it is inside."""
        if not (math.isfinite(energy) and math.isfinite(variance)):
            return "energies are not finite"
        energies, variances = self._energies, self._variances
        if len(variances) < _FEWEST:
            return ""
        typical = max(variances.quantile(0.5), _SMALL)
        raised = variance > variances.quantile(1.0)
        width = energies.quantile(0.75) - energies.quantile(0.25)
        far = max(_ENERGY * width, math.sqrt(typical))
        above = energy > energies.quantile(1.0) + far
        below = energy < energies.quantile(0.0) - far
        if (raised and (variance > _VARIANCE * typical or below)) or above:
            return (
                f"energy or variance have left the range of the {len(energies)} steps "
                f"before (energy {energies.quantile(0.0):.4g} to "
                f"{energies.quantile(1.0):.4g} Ha, variance up to "
                f"{variances.quantile(1.0):.3g} Ha^2)"
            )
        if self._exceeds_lowest(energy, variance, _LOST):
            return (
                "energy or variance are far above their lowest medians in a hundred "
                f"steps ({min(self._medians)[0]:.4g} Ha and "
                f"{min(v for _, v in self._medians):.3g} Ha^2)"
            )
        return ""

    def compare_with_start(self, energy: float, variance: float) -> None:
        """Takes note of a kick, in the first hundred steps and until 20 of them were
        not in one."""
        if len(self._begun) >= _FEWEST or self._medians:
            self._kicked = 0
            return
        if not (math.isfinite(energy) and math.isfinite(variance)):
            self._kicked += self._kicked > 0
        elif self._begun and self._is_kick(energy, variance):
            self._kicked += 1
        else:
            self._kicked = 0
            self._begun.append((energy, variance))

    def _is_kick(self, energy: float, variance: float) -> bool:
        top = max(e for e, _ in self._begun)
        highest = max(_SMALL, *(v for _, v in self._begun))
        far = _KICK * math.sqrt(highest)
        return variance > _VARIANCE * highest or energy > top + far

    @property
    def kick(self) -> str:
        if self._kicked != _STAY:
            return ""
        energy = max(e for e, _ in self._begun)
        variance = max(v for _, v in self._begun)
        return (
            f"for {_STAY} steps, energy or variance have been far above what they were "
            f"before (energy up to {energy:.4g} Ha, variance up to {variance:.3g} Ha^2)"
        )

    def calm(self, energy: float, variance: float) -> bool:
        """Whether a step inside is one to go back to."""
        risen = self._exceeds_lowest(energy, variance, _VARIANCE)
        return not self._kicked and not risen

    def _exceeds_lowest(self, energy: float, variance: float, factor: float) -> bool:
        """Whether the variance is above the lowest median by a factor, or the energy
        by its root times the standard deviation of the local energy."""
        if not self._medians:
            return False
        lowest = max(min(v for _, v in self._medians), _SMALL)
        bottom, there = min(self._medians)
        far = math.sqrt(factor * max(there, _SMALL))
        return variance > factor * lowest or energy > bottom + far


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
