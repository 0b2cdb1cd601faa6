"""How to sample: the argument that all estimators share."""

from collections.abc import Sequence

import equinox as eqx
import numpy as np

from .._core import (
    AbstractModule,
    check_chunk,
    check_kind,
    checked_but,
    Integer,
    Key,
    random_key,
    Walkers,
    whole_number,
)
from .._training import AbstractOptimizer, AbstractSampler, Metropolis
from .._wavefunction import as_walkers


# Steps of burn-in from walkers that are near |psi|^2, and from clouds around nuclei:
# from these, log|psi| of lithium hydride has its mean after 10.
_NEAR, _CLOUDS = 20, 100


class Chains(AbstractModule):
    """Says how to sample: from which walkers, for how long, with which moves.

    Every estimator takes one. Each walker is an independent Markov chain; error bars
    come from the scatter of the chains. `dataclasses.replace(chains, steps=400)` is the
    same with more steps.
    """

    walkers: Walkers | int
    key: Key
    steps: int = eqx.field(static=True)
    burn_in: int = eqx.field(static=True)
    sampler: AbstractSampler
    chunk: int | None = eqx.field(static=True)
    progress: bool | None = eqx.field(static=True)

    @checked_but("walkers", "sampler")
    def __init__(
        self,
        walkers: Integer | Walkers | np.ndarray | Sequence,
        *,
        key: Key,
        steps: Integer = 100,
        burn_in: Integer | None = None,
        sampler: AbstractSampler | None = None,
        chunk: Integer | None = None,
        progress: bool | None = None,
    ):
        r"""**Arguments:**

        - `walkers`: where the chains start, in Bohr, (walkers, electrons, 3): for
            example the walkers that training left. Or the number of walkers, at least
            2, which then start from [`eqsym.initial_walkers`][].
        - `key`: seeds the moves, and everything else that an estimator draws.
        - `steps`: samples of every walker.
        - `burn_in`: sampler steps before the first sample; by default 20 and, if
            `walkers` is a number, 100. If the walkers are not in
            equilibrium then, because the mean of $\log|\psi|$ still drifts, as many are
            added, up to ten times `burn_in`. After 0 or 1 steps a drift cannot be seen.
        - `sampler`: [`eqsym.Metropolis`][] with 20 moves by default.
        - `chunk`: walkers evaluated at a time, all by default.
        - `progress`: whether to show a progress bar; by default in terminals and
            notebooks.

        **Raises:** `ValueError` for walkers of another shape, or fewer than two of
        them, less than one step, a negative `burn_in`, a `chunk` that is not positive,
        and arguments of the wrong kind.
        """
        placed = as_walkers(walkers)
        if not isinstance(placed, int) and (placed.ndim != 3 or placed.shape[2] != 3):
            raise ValueError(
                "`walkers` must be positions, (walkers, electrons, 3), got shape "
                f"{placed.shape}."
            )
        count = placed if isinstance(placed, int) else len(placed)
        if count < 2:
            raise ValueError(
                "`walkers` must be at least 2, because error bars come from the "
                f"scatter of independent chains, got {count}."
            )
        if burn_in is None:
            burn_in = _CLOUDS if isinstance(placed, int) else _NEAR
        if sampler is not None:
            check_kind(
                "sampler",
                sampler,
                AbstractSampler,
                "a sampler, such as `eqs.Metropolis()`",
                {AbstractOptimizer: "Estimators train nothing: leave it out."},
            )
        self.walkers = placed
        self.key = random_key(key)
        self.steps = whole_number("steps", steps, 1)
        self.burn_in = whole_number("burn_in", burn_in, 0)
        self.sampler = Metropolis() if sampler is None else sampler
        self.chunk = check_chunk(chunk)
        self.progress = progress
