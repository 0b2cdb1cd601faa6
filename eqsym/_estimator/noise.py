"""How noisy gradients and updates of a training step are."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, PyTree

from .._core import (
    AbstractSummarized,
    checked_but,
    Integer,
    Key,
    mesh_of,
    on_mesh,
    partition,
    progress_bar,
    random_key,
    whole_number,
)
from .._training import AbstractOptimizer, AbstractOptimizerState, Scores, VMC, VMCState
from .arguments import check_kinds
from .estimate import Estimate, estimate_from, origin_of
from .tables import AbstractResult, Column, Table


class Scatter(AbstractSummarized):
    """Of a vector of all parameters; [`eqsym.gradient_noise`][] describes the
    fields."""

    norm: float
    deviation: Estimate

    def _summary(self) -> str:
        return f"norm={self.norm:.4g}, deviation={self.deviation}"


class GradientNoise(AbstractResult):
    r"""Sizes and deviations of two vectors of all parameters, over repeated draws of a
    batch; [`eqsym.gradient_noise`][] describes the fields. It prints as a table."""

    gradient: Scatter
    update: Scatter
    walkers: int
    repeats: int
    rejected: int

    def _table(self) -> Table:
        parts = self.gradient, self.update
        found = (
            Column("norm", "norm", [part.norm for part in parts]),
            Column("deviation", "deviation", [part.deviation for part in parts], True),
        )
        note = (
            f"{self.repeats} batches of {self.walkers} walkers, {self.rejected} left "
            "out"
        )
        return Table(("gradient", "update"), found, (note,))

    def _summary(self) -> str:
        gradient, update = self.gradient._summary(), self.update._summary()
        return f"gradient: {gradient}; update: {update}; {self.repeats} batches"


@checked_but("vmc", "state")
def gradient_noise(
    vmc: VMC,
    state: VMCState,
    *,
    key: Key,
    repeats: Integer = 50,
    spacing: Integer = 5,
    burn_in: Integer = 20,
    progress: bool | None = None,
) -> GradientNoise:
    r"""Standard deviations of the gradient and of the optimizer's update over repeated
    draws of a batch, at fixed parameters.

    Every repeat is a training step as `vmc.step` takes it, with other walkers and other
    draws of the strategy, that leaves parameters and optimizer as they are. The
    gradient is the one that the optimizer is given: with energies clipped, and with the
    weights of the strategy. The update is from the optimizer's state at the checkpoint,
    momentum included. To compare strategies, give each as many walkers as cost the same
    ([`eqsym.AbstractStrategy.cost`][]): Huang et al. (2025), arXiv 2502.05318.

    Memory does not grow with the number of repeats: with the mean $\bar v_{r-1}$ of the
    vectors before, $(1 - 1/r) |v_r - \bar v_{r-1}|^2$ for r = 2, 3, .. are uncorrelated
    estimates of the summed variances, and their mean is the sample variance (Welford,
    Technometrics 4, 419, 1962). Their scatter gives the error bar.

    **Arguments:**

    - `vmc`: what a training step does.
    - `state`: the checkpoint: parameters, walkers, and the state of the optimizer.
    - `key`: seeds chains and draws, which are not those of the training.
    - `repeats`: number of batches, at least 3.
    - `spacing`: sampler steps between two batches, in addition to the one of each step.
        If chains are slower than this, batches are alike and the deviations too small.
    - `burn_in`: sampler steps before the first batch, in which the sampler adapts.
    - `progress`: whether to show a progress bar; by default in terminals and notebooks.

    **Returns:**

    Sizes and deviations of two vectors of all parameters. They print as a table;
    `to_frame()` makes a data frame of pandas, `to_dict()` numbers for JSON. The fields
    are

    - `gradient`: derivative of the energy of the supercell by the parameters, in
        Hartree over the units of the parameters.
    - `update`: the change of the parameters by the optimizer.
    - `walkers`: configurations that a step samples.
    - `repeats`: batches that were drawn.
    - `rejected`: batches left out because gradient or update was not finite.

    For each of the two vectors v, there are

    - `norm`: $|E[v]|$, without the part that comes from the scatter; known to within
        `deviation` over the square root of the number of draws.
    - `deviation`: $(\sum_i \mathrm{Var}[v_i])^{1/2}$, the standard deviation of v.

    **Raises:** `ValueError` for fewer than 3 repeats or negative numbers of steps, and
    as `vmc.init` does; `FloatingPointError` if fewer than 3 batches had a finite
    gradient.
    """
    check_kinds(vmc=vmc, state=state)
    key = random_key(key)
    repeats = whole_number("repeats", repeats)
    if repeats < 3:
        raise ValueError(
            f"`repeats` must be at least 3, for an error bar, got {repeats}."
        )
    spacing = whole_number("spacing", spacing, 0)
    burn_in = whole_number("burn_in", burn_in, 0)
    probe = eqx.tree_at(lambda v: v.optimizer, vmc, _Probe(vmc.optimizer, vmc.chunk))
    walkers = state.sampler.walkers
    parameters = partition(state.wavefunction)[0]
    current = eqx.tree_at(
        lambda s: s.optimizer,
        probe.init(state.wavefunction, walkers, key=key),
        _seen_nothing(state.optimizer, parameters),
    )
    squares: list[tuple[float, float]] = []
    with (
        on_mesh(mesh_of(walkers)),
        progress_bar(
            "Gradient noise", repeats, progress, compiled="the training step"
        ) as bar,
    ):
        for i in range(repeats):
            for _ in range(spacing if i else burn_in):
                current = _moved(probe, current)
            before, current = _seen(current), _stepped(probe, current)
            seen = _seen(current)
            # A step that is not finite leaves the probe's state, and so the count.
            if int(seen.count) > int(before.count):
                squares.append((float(seen.gradient.square), float(seen.update.square)))
            bar.say("")
            bar.update()
    if len(squares) < 3:
        raise FloatingPointError(
            f"Gradient and update were finite for {len(squares)} of {repeats} batches "
            "only, and a deviation needs 3."
        )
    # The first vector has no mean before it.
    gradient, update = np.array(squares[1:]).T
    return GradientNoise(
        _scatter(_seen(current).gradient, gradient, origin_of(key)),
        _scatter(_seen(current).update, update, origin_of(key)),
        walkers=len(walkers),
        repeats=repeats,
        rejected=repeats - len(squares),
    )


class _Running(eqx.Module):
    """The mean of vectors, and what the last one adds to the sum of their squared
    deviations from it."""

    mean: PyTree[Float[Array, "..."]]
    square: Float[Array, ""]

    def add(self, vector: PyTree, count: Int[Array, ""]) -> "_Running":
        """With the vector of this number, counted from 1."""
        gap = jax.tree.map(jnp.subtract, vector, self.mean)
        mean = jax.tree.map(lambda m, g: m + g / count.astype(g.dtype), self.mean, gap)
        share = 1 - 1 / count.astype(self.square.dtype)
        return _Running(mean, share * _square(gap))


class _Seen(AbstractOptimizerState):
    """State of the probe: the optimizer's, which stays, and what was seen."""

    optimizer: AbstractOptimizerState
    gradient: _Running
    update: _Running
    count: Int[Array, ""]
    solver_retries: Int[Array, ""]


class _Probe(AbstractOptimizer[_Seen]):
    """Takes note of gradients, and of the updates of an optimizer, and does none."""

    optimizer: AbstractOptimizer
    chunk: int | None = eqx.field(static=True)

    def init(self, parameters: PyTree[Float[Array, "..."]]) -> _Seen:
        return _seen_nothing(self.optimizer.init(parameters), parameters)

    def step(
        self, scores: Scores, residual: Inexact[Array, " walkers"], state: _Seen
    ) -> tuple[PyTree[Float[Array, "..."]], _Seen]:
        half = scores.transpose(residual, self.chunk)
        gradient = jax.tree.map(lambda x: 2 * x, half)
        update, after = self.optimizer.step(scores, residual, state.optimizer)
        count = state.count + 1
        seen = _Seen(
            optimizer=state.optimizer,
            gradient=state.gradient.add(gradient, count),
            update=state.update.add(update, count),
            count=count,
            solver_retries=after.solver_retries,
        )
        return jax.tree.map(jnp.zeros_like, update), seen


@eqx.filter_jit
def _moved(vmc: VMC, state: VMCState) -> VMCState:
    return vmc.equilibrate(state)


@eqx.filter_jit
def _stepped(vmc: VMC, state: VMCState) -> VMCState:
    return vmc.step(state)[0]


def _seen(state: VMCState) -> _Seen:
    assert isinstance(state.optimizer, _Seen)
    return state.optimizer


def _seen_nothing(optimizer: AbstractOptimizerState, parameters: PyTree) -> _Seen:
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    nothing = _Running(zeros, jnp.zeros_like(_square(zeros)))
    zero = jnp.zeros((), int)
    return _Seen(
        optimizer=optimizer,
        gradient=nothing,
        update=nothing,
        count=zero,
        solver_retries=zero,
    )


def _square(tree: PyTree) -> Float[Array, ""]:
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)]))


def _scatter(
    running: _Running,
    squares: Float[np.ndarray, " repeats"],
    origin: frozenset[str],
) -> Scatter:
    variance = float(np.mean(squares))
    error = float(np.std(squares, ddof=1) / np.sqrt(len(squares)))
    deviation = np.sqrt(variance)
    # |mean|^2 has the expectation |E[v]|^2 plus the variance of the mean.
    square = float(_square(running.mean)) - variance / (len(squares) + 1)
    relative = error / (2 * deviation) if deviation > 0 else 0.0
    return Scatter(
        norm=float(np.sqrt(max(square, 0.0))),
        deviation=estimate_from(origin, deviation, relative),
    )
