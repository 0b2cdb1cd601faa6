"""The stages of a run: strategies of training, one after the other."""

import bisect
import dataclasses
from collections.abc import Sequence

import equinox as eqx
import jax

from .._core import check_kind, Integer, Key, Walkers, whole_number
from .._group import SpaceGroup
from .._symmetrizer import AbstractRandomSymmetrizer, IrrepProjection
from .._training import AbstractStrategy, check_strategy, first_draw, VMC, VMCState
from .._wavefunction import AbstractWavefunction


def in_words(strategy: AbstractStrategy) -> str:
    """A strategy with what it does to which group: `SymmetrizedTraining,
    IrrepProjection Au of Pmmm`."""
    parts = []
    for value in vars(strategy).values():
        if isinstance(value, AbstractRandomSymmetrizer):
            label = (
                f" {value.irrep.label}" if isinstance(value, IrrepProjection) else ""
            )
            parts.append(f"{type(value).__name__}{label} of {value.group.symbol}")
        elif isinstance(value, SpaceGroup):
            parts.append(value.symbol)
    return ", ".join([type(strategy).__name__, *parts])


def check_stages(
    stages: Sequence[tuple[Integer, AbstractStrategy]],
) -> tuple[tuple[int, AbstractStrategy], ...]:
    """**Raises:** `ValueError` for anything else, and for stages that do not start one
    after the other, after the first step."""
    wanted = "pairs of a step and a strategy, such as `[(1000, strategy)]`"
    if not isinstance(stages, (list, tuple)):
        check_kind("stages", stages, (), wanted)
    for pair in stages:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            check_kind("stages", pair, (), wanted)
        check_strategy("stages", pair[1])
    checked = tuple((whole_number("stages", n), strategy) for n, strategy in stages)
    starts = [0, *(start for start, _ in checked)]
    if any(a >= b for a, b in zip(starts, starts[1:], strict=False)):
        raise ValueError(
            "`stages` must start after step 0, which `vmc` starts from, and at "
            f"increasing steps, got starts {starts[1:]}."
        )
    return checked


def stage_of(starts: Sequence[int], step: int) -> int:
    """The number of the stage that took a step, the one before the first step for 0.

    **Arguments:**

    - `starts`: steps after which the stages begin, the first one at 0.
    - `step`: the number of steps taken.
    """
    return max(0, bisect.bisect_left(starts, step) - 1)


class Stages(eqx.Module):
    """A `VMC` for each stage of a run.

    - `starts`: steps after which the stages begin, the first one at 0.
    - `trainers`: differ in their strategies only.
    - `key`: seeds the strategies of all stages but the first.
    """

    starts: tuple[int, ...]
    trainers: tuple[VMC, ...]
    key: Key

    def __init__(
        self,
        vmc: VMC,
        stages: Sequence[tuple[int, AbstractStrategy]],
        key: Key,
    ):
        self.starts = (0, *(start for start, _ in stages))
        others = (dataclasses.replace(vmc, strategy=other) for _, other in stages)
        self.trainers = (vmc, *others)
        self.key = key

    def check(
        self, wavefunction: AbstractWavefunction, walkers: Walkers, *, key: Key
    ) -> None:
        """**Raises:** `ValueError` if the run cannot start or one of the strategies
        does not fit, wave function or optimizer."""
        first, *later = self.trainers
        first.check(wavefunction, walkers, key=key)
        for vmc in later:
            first_draw(vmc, wavefunction, key=key)

    def like(self, state: VMCState, step: int) -> VMCState:
        """A state of the structure that the state after a step has.

        **Arguments:**

        - `state`: of any stage.
        - `step`: the number of steps taken.
        """
        return self.enter(stage_of(self.starts, step), state)

    def view(self, state: VMCState) -> AbstractWavefunction:
        """The wave function that the last step sampled."""
        strategy = self.at(int(state.step)).strategy
        return strategy.view(state.wavefunction, state.strategy)

    def at(self, step: int) -> VMC:
        """The stage that took a step; for 0 the one that takes the first."""
        return self.trainers[stage_of(self.starts, step)]

    def enter(self, stage: int, state: VMCState) -> VMCState:
        """The state to take the first step of a stage from, made of the one before."""
        # The same whenever a run comes to the stage, also after it was resumed.
        key = jax.random.fold_in(self.key, stage)
        return self.trainers[stage].adopt(state, key=key)
