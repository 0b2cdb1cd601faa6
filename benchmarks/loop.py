"""What the loop of `eqsym.run` costs beside the steps that it takes.

    python benchmarks/loop.py
    python benchmarks/loop.py --step busy
    python benchmarks/loop.py --step real

The network of `examples/lih.py`, with a step that does nothing but sleep for 5 ms, as
the process sees it that has a GPU; with one that keeps a core busy for as long, which
unlike the first one goes on while Python does; or with the real one. Printed are
milliseconds per step: of the processor in the main thread, which other load on the
machine disturbs least, and by the clock. The first row is a loop of your own that
fetches the numbers of a step before it takes the next one. The column after the times
of the processor is without starting steps and fetching their numbers: all that `run`
does between them.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

import eqsym as eqs
from eqsym._run.stepping import Started, TrainingStep
from eqsym._storage import History


STEPS = ("sleeping", "busy", "real")


class Idle(eqs.AbstractSamplerState):
    """Walkers that do not move."""

    walkers: Float[Array, "walkers electrons 3"]
    acceptance: Float[Array, ""]
    exchange_acceptance: Float[Array, ""]
    hop_acceptance: Float[Array, ""]
    replaced_walkers: Int[Array, ""]


class Standing(eqs.AbstractSampler):
    """Moves nothing."""

    def init(self, wavefunction, walkers, *, key):
        half, none = jnp.full((), 0.5), jnp.zeros(())
        return Idle(walkers, half, none, none, jnp.zeros((), int))

    def step(self, wavefunction, state):
        return state


class Plane(eqs.AbstractHamiltonian):
    """Energies that cost nothing."""

    crystal: eqs.Crystal

    def local_energy(self, wavefunction, electrons, *, key=None):
        return eqs.LocalEnergy(electrons[0, 0], electrons[0, 1])


class Momentum(eqs.AbstractOptimizerState):
    """As large as that of an optimizer."""

    momentum: PyTree[Float[Array, "..."]]
    solver_retries: Int[Array, ""]


class Sleeping(eqs.AbstractOptimizer):
    """Sleeps, and changes nothing."""

    seconds: float = eqx.field(static=True)

    def init(self, parameters):
        zeros = jax.tree.map(jnp.zeros_like, parameters)
        return Momentum(zeros, jnp.zeros((), int))

    def step(self, scores, residual, state):
        def sleep(x):
            time.sleep(self.seconds)
            return np.zeros_like(x)

        like = jax.ShapeDtypeStruct((), residual.dtype)
        return _updated(scores, state, jax.pure_callback(sleep, like, residual[0]))


class Busy(eqs.AbstractOptimizer):
    """Keeps a core busy, and changes nothing."""

    rounds: int = eqx.field(static=True)

    def init(self, parameters):
        return Sleeping(0.0).init(parameters)

    def step(self, scores, residual, state):
        return _updated(scores, state, 0 * _busy(residual[0], self.rounds))


def _updated(scores, state, zero):
    update = jax.tree.map(lambda x: 0 * x + zero, scores.parameters)
    return update, Momentum(update, state.solver_retries)


@partial(jax.jit, static_argnums=1)
def _busy(x, rounds):
    return jax.lax.fori_loop(0, rounds, lambda _, y: jnp.tanh(y + 1), x)


def rounds_in(seconds: float) -> int:
    """How often to compute something, so that it takes some time."""
    start, rounds = jnp.zeros(()), 100_000
    _busy(start, rounds).block_until_ready()
    before = time.perf_counter()
    _busy(start, rounds).block_until_ready()
    return round(seconds * rounds / (time.perf_counter() - before))


def clocks() -> tuple[float, float]:
    return time.thread_time(), time.perf_counter()


def simple(vmc, state, steps):
    """Times of a loop that fetches every number before it takes the next step."""
    step = eqx.filter_jit(vmc.step)
    state, _ = jax.block_until_ready(step(state))
    before = clocks()
    for _ in range(steps):
        state, statistics = step(state)
        jax.device_get(statistics)
    processor, wall = np.subtract(clocks(), before)
    return processor, np.nan, wall


def looped(vmc, state, steps, **kwargs):
    """Times of the loop of `run`, from its first row to the last. What comes after
    that, such as the last checkpoint, does not count."""
    start, row, append = TrainingStep.__call__, Started.row, History.append
    inside, readings = 0.0, []
    # States are freed inside of steps, as every loop has to free them.
    kept = deque(maxlen=12)

    def timed(function):
        def call(self, *arguments):
            nonlocal inside
            before = time.thread_time()
            found = function(self, *arguments)
            kept.append(found)
            inside += time.thread_time() - before
            return found

        return call

    def appended(self, row):
        append(self, row)
        processor, wall = clocks()
        readings.append((processor, processor - inside, wall))

    functions = (TrainingStep, "__call__"), (Started, "row"), (History, "append")
    for (owner, name), other in zip(
        functions, (timed(start), timed(row), appended), strict=True
    ):
        setattr(owner, name, other)
    try:
        eqs.run(vmc, state=state, steps=steps + 1, key=jax.random.key(1), **kwargs)
    finally:
        for (owner, name), own in zip(functions, (start, row, append), strict=True):
            setattr(owner, name, own)
    return np.subtract(readings[-1], readings[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--walkers", type=int, default=256)
    parser.add_argument("--milliseconds", type=float, default=5.0, help="of a step")
    parser.add_argument("--repeats", type=int, default=3, help="the least is printed")
    parser.add_argument("--step", choices=STEPS, default="sleeping")
    options = parser.parse_args()

    crystal = eqs.Crystal.rock_salt("Li", "H", a=4.02, unit="angstrom")
    gamma = eqs.Occupation((np.zeros((2, 3)), np.zeros((2, 3))))
    key = jax.random.key(0)
    wavefunction = eqs.SolidNet(crystal, gamma, key=key)
    seconds = options.milliseconds / 1000
    if options.step == "real":
        sampler = eqs.Metropolis(moves=10)
        vmc = eqs.VMC(eqs.Hamiltonian(crystal), sampler, eqs.Spring(), chunk=64)
    elif options.step == "busy":
        vmc = eqs.VMC(Plane(crystal), Standing(), Busy(rounds_in(seconds)))
    else:
        vmc = eqs.VMC(Plane(crystal), Standing(), Sleeping(seconds))
    walkers = eqs.initial_walkers(crystal, options.walkers, key=key)
    state = vmc.init(wavefunction, walkers, key=key)
    steps = options.steps

    def in_folder(**kwargs):
        with tempfile.TemporaryDirectory() as path:
            return looped(vmc, state, steps, path=Path(path), **kwargs)

    cases = {
        "steps, one by one": lambda: simple(vmc, state, steps),
        "run": lambda: looped(vmc, state, steps, progress=False),
        "run, progress bar": lambda: looped(vmc, state, steps, progress=True),
        "run, history": lambda: in_folder(progress=False, checkpoint_every=steps + 1),
        "run, history, progress bar": lambda: in_folder(
            progress=True, checkpoint_every=steps + 1
        ),
        "the same with checkpoints": lambda: in_folder(progress=True),
    }
    found: dict[str, list] = {name: [] for name in cases}
    for _ in range(options.repeats):
        for name, case in cases.items():
            # The bar is drawn, and seen by nobody.
            with open(os.devnull, "w") as sys.stderr:
                found[name].append(1e3 / steps * np.array(case()))
            sys.stderr = sys.__stderr__
    of = f"of {options.milliseconds:g} ms"
    print(f"{'':>26}  processor [ms]  between steps  {of:>7}    wall")
    for name, taken in found.items():
        processor, between, wall = np.min(taken, axis=0)
        share = f"{between:13.3f}  {between / options.milliseconds:7.1%}"
        share = "".rjust(22) if np.isnan(between) else share
        print(f"{name:>26}  {processor:14.3f}  {share}  {wall:6.2f}")


if __name__ == "__main__":
    main()
