"""Steps are started before the one before them has been looked at, and are the same."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eqsym as eqs
from eqsym._run.stepping import TrainingStep
from eqsym._storage.history import History
from toys import AbstractAround, Counting, hydrogen, Lattice, walkers, waves


_CRYSTAL = hydrogen()
_KEY = jax.random.key(5)


class Busy(eqs.AbstractOptimizer):
    """Descent, after so many rounds of work for nothing."""

    rounds: int = eqx.field(static=True)

    def init(self, parameters):
        return Counting()

    def step(self, scores, residual, state):
        work = lambda _, x: jnp.tanh(x + 1)
        zero = 0 * jax.lax.fori_loop(0, self.rounds, work, residual[0])
        gradient = scores.transpose(residual)
        return jax.tree.map(lambda x: zero - 0.01 * x, gradient), state


def _vmc(rounds=1):
    return eqs.VMC(Lattice(_CRYSTAL), eqs.Metropolis(2), Busy(rounds))


class Shaped(AbstractAround):
    """One that holds a function, and an array of numpy."""

    inside: eqs.AbstractWavefunction
    shape: Callable
    factor: np.ndarray

    def __call__(self, electrons):
        psi = self.inside(electrons)
        return eqs.LogPsi(psi.sign, self.factor * self.shape(psi.log))


def test_steps_are_those_of_vmc():
    """Bit for bit, and numbers are of their kinds."""
    vmc, wavefunction = _vmc(), Shaped(waves(), jnp.tanh, np.full((), 0.5))
    state = vmc.init(wavefunction, walkers(_CRYSTAL, 4), key=_KEY, check=False)
    expected, statistics = eqx.filter_jit(vmc.step)(state)
    started = TrainingStep(vmc)(state)
    assert eqx.tree_equal(started.state, expected)
    assert eqx.tree_equal(started.statistics, statistics)
    row = {name: value.item() for name, value in vars(statistics).items()}
    assert started.row() == row
    assert [type(x) for x in started.row().values()] == [type(x) for x in row.values()]
    # The next one finds the same program.
    step = TrainingStep(_vmc())
    assert step.lower(started.state).as_text() == step.lower(state).as_text()


def test_steps_are_not_waited_for():
    vmc = _vmc(10_000_000)
    state = vmc.init(waves(), walkers(_CRYSTAL, 4), key=_KEY, check=False)
    step = TrainingStep(vmc)
    first = step(state)
    first.row()
    second = step(first.state)
    assert not second.numbers.is_ready()
    second.row()


def _run(path, steps=5, **kwargs):
    return eqs.run(
        _vmc(),
        waves(c=(0.1, 0.2, 0.3)),
        steps=steps,
        walkers=4,
        key=_KEY,
        path=path,
        burn_in=0,
        progress=False,
        **kwargs,
    )


@pytest.fixture
def events(monkeypatch):
    """Steps that were started, by their numbers, and rows of the history."""
    seen = []
    start, append = TrainingStep.__call__, History.append

    def started(self, state):
        seen.append(f"start {int(state.step) + 1}")
        return start(self, state)

    def appended(self, row):
        seen.append(f"row {row['step']}")
        append(self, row)

    monkeypatch.setattr(TrainingStep, "__call__", started)
    monkeypatch.setattr(History, "append", appended)
    return seen


def test_the_next_step_is_started_first(events):
    _run(None, 4)
    assert events == [
        *("start 1", "start 2", "row 1", "start 3", "row 2", "start 4", "row 3"),
        "row 4",
    ]


def test_a_stage_begins_when_the_one_before_is_done(events, caplog):
    """Its step is compiled, for minutes, when all before it has been taken note of; and
    the log says so for every stage."""
    caplog.set_level("INFO", "eqsym")
    stages = [(2, eqs.AugmentedTraining(eqs.SpaceGroup.of(_CRYSTAL), 2))]
    _run(None, 4, stages=stages)
    assert events == [
        *("start 1", "start 2", "row 1", "row 2", "start 3", "start 4", "row 3"),
        "row 4",
    ]
    assert sum("Compiled the training step in" in m for m in caplog.messages) == 2


def test_nothing_is_kept_of_a_step_that_was_started_in_vain(tmp_path, events):
    """After an end that the step before it asked for."""

    def stop(step, statistics, state):
        assert int(state.step) == step
        if step == 3:
            raise StopIteration

    found = _run(tmp_path, callback=stop)
    assert events[-2:] == ["start 4", "row 3"]
    assert found.step == 3 == eqs.checkpoint.latest(tmp_path / "checkpoints")
    assert eqx.tree_equal(_run(tmp_path).state, _run(None).state)


def test_the_history_is_whole_if_the_loop_fails(tmp_path):
    """Whatever ends it: rows that waited are written."""
    with pytest.raises(RuntimeError, match="Enough"):
        _run(tmp_path, callback=_failing)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4"]
    np.testing.assert_array_equal(
        [float(line.split(",")[1]) for line in lines[1:]],
        _run(None).history["energy"][:4],
    )


def _failing(step, statistics, state):
    if step == 4:
        raise RuntimeError("Enough.")
