"""Whether Markov chains have mixed: split R-hat, and drift."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri, stdtr

from .._core import AbstractSummarized


# The square of R-hat of chains in equilibrium, of n steps with an autocorrelation time
# of tau steps, is about 1 - 1/n + tau/n. In evaluations of LiH, graphene and hydrogen
# with 20 moves per step, tau is 1.1 to 2 for energies and 3 for symmetry measures. The
# bound allows 1.05 for long chains, and this much memory in short ones. Half of the
# walkers in another state of dissociated hydrogen are 1.11 to 1.17.
_BOUND = 1.05
_MEMORY, _SLOW_MEMORY = 1.0, 4.0
# Samples of one chain for which R-hat says anything.
_FEWEST = 4
# How often chains in equilibrium are said to drift: in the end, and during burn-in,
# when a false alarm costs some steps only.
_ALARM, _SUSPICION = 1e-6, 1e-3
# Numbers that vary less than this, relative to their size, are constant up to
# rounding.
_ROUNDING = 1e-5
# Rows of a record. More samples are stored as means over blocks of samples.
_ROWS = 512


class Mixing(AbstractSummarized):
    r"""Whether the chains of an estimate have mixed, so that its means do not depend on
    where the walkers started, and its error bars can be trusted.

    Every walker is a chain. Split R-hat compares halves of all chains: it is 1 if they
    are all distributed alike, and more if walkers stay in parts of space of their own,
    or move on slowly. It is the larger of bulk and folded R-hat, rank-normalized
    because local energies have heavy tails: Vehtari, Gelman, Simpson, Carpenter and
    Bürkner, Bayesian Anal. 16, 667 (2021), eqs. 1 to 4, 14 and 15.

    - `energy_rhat`: split R-hat of the local energy; `None` for observables, which do
        without, and for fewer than 4 steps.
    - `symmetry_rhat`: of the symmetry measure: of the ratio Pf/f, or of the share of f
        that is symmetric, or of the sum of the squares of the shares of all sectors.
        `None` if it was not evaluated.
    - `potential_rhat`: of the potential energy; `None` for sectors.
    - `bound`: the energy's should not exceed it, $\sqrt{1.05^2 + 1/n}$ for half chains
        of n steps. For walkers in equilibrium $\hat R^2$ is about
        $1 + (\tau - 1)/n$ with the autocorrelation time $\tau$ in steps: short chains
        are allowed some memory, and beyond that a tenth of the variance may be between
        chains.
    - `slow_bound`: likewise for the others, $\sqrt{1.05^2 + 4/n}$: they have a longer
        memory than the energy.
    - `drift`: by how many of its standard errors the mean over all walkers changed from
        the first half of the samples to the second, paired by walkers (after Geweke,
        1992, with an error from independent chains), in ranks too. It is given for the
        quantity for which it is the least probable, and is 0 up to noise for walkers in
        equilibrium.
    - `drifts`: whether that happens less than once in a million times.
    - `burn_in`: steps before the first sample, with those that were added.
    """

    energy_rhat: float | None
    symmetry_rhat: float | None
    potential_rhat: float | None
    bound: float
    slow_bound: float
    drift: float
    drifts: bool
    burn_in: int

    @property
    def beyond(self) -> dict[str, tuple[float, float]]:
        """Split R-hat and its bound, for those of "energy", "potential energy" and
        "symmetry measure" that are beyond it."""
        found = {
            "energy": (self.energy_rhat, self.bound),
            "potential energy": (self.potential_rhat, self.slow_bound),
            "symmetry measure": (self.symmetry_rhat, self.slow_bound),
        }
        return {
            name: (value, bound)
            for name, (value, bound) in found.items()
            if value is not None and value > bound
        }

    @property
    def mixed(self) -> bool:
        """Whether nothing is wrong: no R-hat beyond its bound, and no drift."""
        return not self.drifts and not self.beyond

    def _summary(self) -> str:
        state = "mixed" if self.mixed else "not mixed"
        return f"{state}, R-hat {self}, burn_in={self.burn_in}"

    def __str__(self) -> str:
        value = self.potential_rhat if self.energy_rhat is None else self.energy_rhat
        parts = ["-" if value is None else f"{value:.2f}"]
        for name, (value, bound) in self.beyond.items():
            parts.append(f"{name.split()[0]} {value:.2f} > {bound:.2f}")
        return ", ".join(parts + ["drifts"] * self.drifts)


def worst(found: Sequence[Mixing]) -> Mixing | None:
    """Of the chains that have mixed least, if there are any."""

    def badness(one: Mixing) -> tuple[int, float]:
        value = one.potential_rhat if one.energy_rhat is None else one.energy_rhat
        return one.drifts + len(one.beyond), 0.0 if value is None else value

    return max(found, key=badness, default=None)


class Record(NamedTuple):
    """Numbers of all walkers at all steps, in bounded memory.

    Beyond as many steps as there are rows, rows are means over blocks of 2, 4, ...
    steps. Rows from `filled` on mean nothing: a record is not changed by adding to it,
    although both share their rows.
    """

    rows: Float[np.ndarray, "rows walkers quantities"]
    filled: Int[np.ndarray, ""]
    block: Int[np.ndarray, ""]
    steps: Int[np.ndarray, ""]
    open_sum: Float[np.ndarray, "walkers quantities"]
    open_count: Float[np.ndarray, "walkers quantities"]

    @classmethod
    def empty(cls, walkers: int, quantities: int) -> "Record":
        """Without a step."""
        zeros = np.zeros((walkers, quantities))
        return cls(
            np.zeros((_ROWS, walkers, quantities), np.float32),
            np.asarray(0),
            np.asarray(1),
            np.asarray(0),
            zeros,
            zeros,
        )

    def add(self, values: Float[np.ndarray, "walkers quantities"]) -> "Record":
        """With one more step. Numbers that are not finite are left out of means."""
        finite = np.isfinite(values)
        total = self.open_sum + np.where(finite, values, 0)
        count = self.open_count + finite
        steps = self.steps + 1
        if steps % self.block:
            return Record(
                self.rows, self.filled, self.block, np.asarray(steps), total, count
            )
        rows, filled, block = self.rows, int(self.filled), int(self.block)
        if filled == len(rows):
            rows, filled, block = _halved(rows), filled // 2, 2 * block
            if steps % block:
                return Record(
                    rows,
                    np.asarray(filled),
                    np.asarray(block),
                    np.asarray(steps),
                    total,
                    count,
                )
        rows[filled] = _mean(total, count)
        zeros = np.zeros_like(total)
        return Record(
            rows,
            np.asarray(filled + 1),
            np.asarray(block),
            np.asarray(steps),
            zeros,
            zeros,
        )

    def chains(self, quantity: int) -> Float[np.ndarray, "steps walkers"]:
        """One of the quantities, without walkers that have no finite value."""
        values = self.rows[: int(self.filled), :, quantity].astype(np.float64)
        return values[:, np.any(np.isfinite(values), axis=0)]


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _halved(
    rows: Float[np.ndarray, "rows walkers quantities"],
) -> Float[np.ndarray, "rows walkers quantities"]:
    """Means of pairs in the first half."""
    pairs = rows.astype(np.float64).reshape(-1, 2, *rows.shape[1:])
    finite = np.isfinite(pairs)
    means = _mean(np.where(finite, pairs, 0).sum(axis=1), finite.sum(axis=1))
    halved = np.zeros_like(rows)
    halved[: len(means)] = means
    return halved


class Drift(NamedTuple):
    """A change of the mean over its standard error, and how probable one of this size
    or more is for chains in equilibrium."""

    change: float
    probability: float


def split_rhat(chains: Float[np.ndarray, "steps walkers"]) -> float | None:
    """Rank-normalized split R-hat, the larger one of bulk and folded: Vehtari et al.
    (2021), eqs. 1 to 4, 14 and 15.

    **Arguments:**

    - `chains`: numbers of every chain at every step; those not finite are left out.

    **Returns:**

    1 for numbers that are constant up to rounding, infinity for chains that stand
    still at different numbers; `None` for fewer than 4 steps or 2 chains.
    """
    steps, walkers = chains.shape
    if steps < _FEWEST or walkers < 2:
        return None
    halves = np.concatenate([chains[: steps // 2], chains[-(steps // 2) :]], axis=1)
    if _constant(halves):
        return 1.0
    folded = np.abs(halves - np.nanmedian(halves))
    return max(_rhat(_normal_scores(halves)), _rhat(_normal_scores(folded)))


def bound(steps: int, memory: float = _MEMORY) -> float:
    """The largest split R-hat that is accepted for chains of so many steps."""
    return float(np.sqrt(_BOUND**2 + memory / max(1, steps // 2)))


def drift(chains: Float[np.ndarray, "steps walkers"]) -> Drift:
    """Of normal scores of ranks, which heavy tails do not spoil, from the first half of
    all chains to the second: paired by chains, so that the scatter of their changes
    gives the error, however they are correlated in time."""
    half = len(chains) // 2
    if half < 1 or _constant(chains):
        return Drift(0.0, 1.0)
    scores = _normal_scores(np.concatenate([chains[:half], chains[-half:]]))
    change = _mean_over_steps(scores[half:]) - _mean_over_steps(scores[:half])
    change = change[np.isfinite(change)]
    if len(change) < 2:
        return Drift(0.0, 1.0)
    error = np.std(change, ddof=1) / np.sqrt(len(change))
    mean = float(np.mean(change))
    if error < _ROUNDING:
        return Drift(0.0, 1.0)
    ratio = mean / error
    return Drift(float(ratio), float(2 * stdtr(len(change) - 1, -abs(ratio))))


def drifts(chains: Float[np.ndarray, "steps walkers"]) -> bool:
    """Whether chains are probably not in equilibrium at the end of a burn-in: whether
    there is a drift in their last half, or in all of four steps or less."""
    late = chains[-max(min(4, len(chains)), len(chains) // 2) :]
    return drift(late).probability < _SUSPICION


def mixing(record: Record, names: tuple[str, ...], burn_in: int) -> Mixing:
    """Whether the chains of a record have mixed.

    **Arguments:**

    - `record`: of all samples.
    - `names`: of its quantities: "energy", "potential" or "symmetry".
    - `burn_in`: steps before the first sample.
    """
    chains = {name: record.chains(i) for i, name in enumerate(names)}
    found = {name: split_rhat(values) for name, values in chains.items()}
    changes = [drift(values) for values in chains.values()]
    change = min(changes, key=lambda one: one.probability)
    return Mixing(
        energy_rhat=found.get("energy"),
        symmetry_rhat=found.get("symmetry"),
        potential_rhat=found.get("potential"),
        bound=bound(int(record.filled)),
        slow_bound=bound(int(record.filled), _SLOW_MEMORY),
        drift=change.change,
        drifts=change.probability < _ALARM,
        burn_in=burn_in,
    )


def _constant(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return True
    return bool(np.ptp(finite) <= _ROUNDING * np.max(np.abs(finite)))


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Eq. 14; ties have their mean rank. NaN stays NaN."""
    finite = np.isfinite(values)
    _, inverse, counts = np.unique(
        values[finite], return_inverse=True, return_counts=True
    )
    ranks = np.cumsum(counts) - (counts - 1) / 2
    scores = np.full(values.shape, np.nan)
    scores[finite] = ndtri((ranks - 3 / 8) / (finite.sum() + 1 / 4))[inverse]
    return scores


def _mean_over_steps(values: np.ndarray) -> np.ndarray:
    finite = np.isfinite(values)
    return _mean(np.where(finite, values, 0).sum(axis=0), finite.sum(axis=0))


def _rhat(chains: Float[np.ndarray, "steps chains"]) -> float:
    """Eqs. 1 to 4, for chains of which values may be missing."""
    count = np.isfinite(chains).sum(axis=0)
    chains = chains[:, count >= 2]
    if chains.shape[1] < 2:
        return 1.0
    count, means = count[count >= 2], _mean_over_steps(chains)
    squares = np.where(np.isfinite(chains), (chains - means) ** 2, 0).sum(axis=0)
    within, between = np.mean(squares / (count - 1)), np.var(means, ddof=1)
    if within <= _ROUNDING**2 * between:
        return np.inf if between > 0 else 1.0
    n = np.mean(count)
    return float(np.sqrt((n - 1) / n + between / within))
