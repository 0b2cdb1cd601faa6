"""A function that is called after every step: what it sees, how it ends a run, and
what becomes of its exceptions."""

import jax
import numpy as np
import pytest

import eqsym as eqs
from toys import hydrogen, Lattice, waves


def _run(path, steps=6, **kwargs):
    vmc = eqs.VMC(Lattice(hydrogen()), eqs.Metropolis(2), eqs.Spring(0.1))
    return eqs.run(
        vmc,
        waves(c=(0.1, 0.2, 0.3)),
        steps=steps,
        walkers=4,
        key=jax.random.key(5),
        path=path,
        burn_in=1,
        progress=False,
        **kwargs,
    )


class Recorder:
    """Raises something at a step."""

    def __init__(self, at=None, error=None):
        self.at, self.error = at, error
        self.seen = []

    def __call__(self, step, statistics, state):
        self.seen.append((step, float(statistics.energy), int(state.step)))
        if step == self.at:
            raise self.error
        return True


@pytest.fixture(scope="module")
def whole():
    return _run(None)


def _same(found, whole):
    for name in ("energy", "variance", "acceptance"):
        np.testing.assert_array_equal(found.history[name], whole.history[name])
    np.testing.assert_array_equal(found.walkers, whole.walkers)


def test_sees_every_step_once(tmp_path, whole):
    """Also if the run is interrupted in between, and what it returns changes
    nothing."""
    energies = whole.history["energy"].tolist()
    expected = [(i, energy, i) for i, energy in enumerate(energies, 1)]
    first, second = Recorder(), Recorder()
    _run(tmp_path, 4, callback=first)
    _same(_run(tmp_path, callback=second), whole)
    assert first.seen == expected[:4] and second.seen == expected[4:]


def test_ends_the_run(tmp_path, whole, caplog):
    """As if there had been no more steps; the next call goes on."""
    early = Recorder(3, StopIteration())
    with caplog.at_level("INFO", "eqsym"):
        found = _run(tmp_path, callback=early)
    assert "The callback ended training after step 3." in caplog.messages
    assert found.step == len(found.history["step"]) == len(early.seen) == 3
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 3
    assert eqs.load_run(tmp_path, waves(c=(0.0, 0.0, 0.0))).step == 3
    _same(_run(tmp_path), whole)


@pytest.mark.parametrize("error", [RuntimeError("No."), SystemExit(3)])
def test_exceptions_save_first(tmp_path, whole, caplog, error):
    with pytest.raises(type(error)) as caught:
        _run(tmp_path, callback=Recorder(4, error))
    assert caught.value is error
    place = tmp_path / "checkpoints"
    assert eqs.checkpoint.latest(place) == 4
    assert caplog.messages[-1].startswith("The training was interrupted. Saved step 4")
    _same(_run(tmp_path), whole)


def test_is_a_function(unchecked):
    with pytest.raises(ValueError, match="`callback` must be a function, such as"):
        _run(None, callback=3)
