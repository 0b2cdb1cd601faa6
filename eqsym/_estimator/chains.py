"""How to sample: the argument that all estimators share."""

import equinox as eqx

from .._core import AbstractModule, check_chunk, Integer, Key, Walkers, whole_number
from .._training import AbstractSampler, Metropolis


class Chains(AbstractModule):
    """Says how to sample: from which walkers, for how long, with which moves.

    Every estimator takes one. Each walker is an independent Markov chain; error bars
    come from the scatter of the chains. `dataclasses.replace(chains, steps=400)` is the
    same with more steps.
    """

    walkers: Walkers
    key: Key
    steps: int = eqx.field(static=True)
    burn_in: int = eqx.field(static=True)
    sampler: AbstractSampler
    chunk: int | None = eqx.field(static=True)
    progress: bool | None = eqx.field(static=True)

    def __init__(
        self,
        walkers: Walkers,
        *,
        key: Key,
        steps: Integer = 100,
        burn_in: Integer = 20,
        sampler: AbstractSampler | None = None,
        chunk: Integer | None = None,
        progress: bool | None = None,
    ):
        r"""**Arguments:**

        - `walkers`: where the chains start, in Bohr, (walkers, electrons, 3): for
            example the walkers that training left.
        - `key`: seeds the moves, and everything else that an estimator draws.
        - `steps`: samples of every walker.
        - `burn_in`: sampler steps before the first sample. If the walkers are not in
            equilibrium then, because the mean of $\log|\psi|$ still drifts, as many are
            added, up to ten times `burn_in`. After 0 or 1 steps a drift cannot be seen.
        - `sampler`: [`eqsym.Metropolis`][] with 20 moves by default.
        - `chunk`: walkers evaluated at a time, all by default.
        - `progress`: whether to show a progress bar; by default in terminals and
            notebooks.

        **Raises:** `ValueError` for walkers of another shape, or fewer than two of
        them, less than one step, a negative `burn_in`, or a `chunk` that is not
        positive.
        """
        if walkers.ndim != 3 or walkers.shape[2] != 3:
            raise ValueError(
                "`walkers` must be positions, (walkers, electrons, 3), got shape "
                f"{walkers.shape}."
            )
        if len(walkers) < 2:
            raise ValueError(
                "`walkers` must be at least 2, because error bars come from the "
                f"scatter of independent chains, got {len(walkers)}."
            )
        self.walkers = walkers
        self.key = key
        self.steps = whole_number("steps", steps, 1)
        self.burn_in = whole_number("burn_in", burn_in, 0)
        self.sampler = Metropolis() if sampler is None else sampler
        self.chunk = check_chunk(chunk)
        self.progress = progress
