"""Series of energies and variances that are a divergence, and others that are not; and
runs that diverge."""

import json
import re
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import eqsym as eqs
from eqsym._run import phases as phases_module
from eqsym._run.divergence import risen, Watch
from eqsym._storage import history as history_module
from eqsym._storage.history import History, read_history
from toys import Counting, hydrogen, Lattice, waves


_NAMES = ("step", "energy", "variance", "rejected_update")


def _history(energy, variance, rejected=None):
    energy, variance = np.broadcast_arrays(energy, variance)
    rejected = np.zeros(energy.shape) if rejected is None else rejected
    steps = np.arange(1, len(energy) + 1)
    columns = (np.asarray(c, float) for c in (steps, energy, variance, rejected))
    return dict(zip(_NAMES, columns, strict=True))


def _lost(history, starts=(0,)):
    """The step at which a divergence is seen, and the step to go back to."""
    watch = Watch(starts, {name: column[:0] for name, column in history.items()})
    columns = (history[name].tolist() for name in _NAMES)
    for step, *values in zip(*columns, strict=True):
        watch.see(int(step), dict(zip(_NAMES[1:], values, strict=True)))
        if watch.lost:
            return int(step), watch.good
    return None


def _calm(steps, seed=0):
    """As late in a training: energies of 1024 walkers with a variance of 3 Ha^2."""
    rng = np.random.default_rng(seed)
    energy = -8 + np.sqrt(3 / 1024) * rng.normal(size=steps)
    return energy, 3 * np.exp(0.2 * rng.normal(size=steps))


@pytest.mark.parametrize("steps", [10, 30])
def test_variance_that_grows_from_3_to_3700(steps):
    """In ten steps or thirty, after which it stays there, with energies that scatter
    accordingly. Not at once, and the state to go back to is from well before."""
    energy, variance = _calm(350)
    growth = np.geomspace(3, 3700, steps)
    variance = np.concatenate([variance, growth, np.full(60, 3700.0)])
    noise = np.random.default_rng(1).normal(size=steps + 60)
    energy = np.append(energy, -8 + noise * np.sqrt(variance[350:] / 1024))
    step, good = _lost(_history(energy, variance))
    assert 350 + 20 < step < 350 + steps + 20 and good == 300
    # Just after one mark, to the one before.
    step, good = _lost(_history(energy[45:], variance[45:]))
    assert good == 250 < step


@pytest.mark.parametrize("rise", [3.0, 30.0])
def test_energy_that_rises_and_stays(rise):
    """By more than the standard deviation of the local energy, 1.7 Ha."""
    energy, variance = _calm(300)
    energy[200:] += rise
    assert _lost(_history(energy, variance)) == (220, 180)


def test_energy_far_below_with_a_variance_far_above():
    """As of walkers that lag behind a wave function that is being lost."""
    energy, variance = _calm(300)
    energy[200:] -= 50
    variance[200:] = 8 * np.max(variance[:200])
    assert _lost(_history(energy, variance)) == (220, 180)


def test_improvements_are_none():
    """Energies and variances that fall, slowly or at once, at the start or later."""
    energy, variance = _calm(400)
    time = np.arange(400)
    for rate in (0.005, 0.05, 0.5):
        fall = np.exp(-rate * time)
        assert _lost(_history(energy + 20 * fall, variance * (1 + 100 * fall))) is None
    energy[200:] -= 40
    assert _lost(_history(energy, variance)) is None


def test_short_excursions_are_none():
    """A walker near a node for 19 steps. Updates rejected after it count."""
    energy, variance = _calm(300)
    rejected = np.zeros(300)
    variance[200:219] = 1e6
    assert _lost(_history(energy, variance)) is None
    rejected[219] = 1
    assert _lost(_history(energy, variance, rejected)) == (220, 180)


@pytest.mark.parametrize("begin", [5, 200])
@pytest.mark.parametrize("name", ["energy", "variance", "rejected_update"])
def test_a_jump_to_what_is_no_number(name, begin):
    """No step is needed that is outside and finite, and no range either."""
    history = _history(*_calm(300))
    history[name][begin:] = 1 if name == "rejected_update" else np.inf
    assert _lost(history) == (begin + 20, 180 if begin > 100 else 0)
    # Not if one of twenty is inside.
    history[name][begin + 19] = _history(*_calm(300))[name][0]
    assert _lost(history)[0] == begin + 40


def test_a_state_is_sound_when_the_next_step_has_seen_it():
    energy, variance = _calm(200)
    rejected = np.zeros(200)
    variance[99] = energy[119] = np.nan
    variance[139], rejected[159] = 1e6, 1
    history = _history(energy, variance, rejected)
    watch = Watch((0,), {name: column[:0] for name, column in history.items()})
    found, marks = [], []
    for i in range(200):
        watch.see(i + 1, {name: history[name].item(i) for name in _NAMES})
        found.append(watch.sound)
        marks.append(watch.marks[-1])
    missing = sorted(set(range(200)) - set(found))
    # The state after a rejected update is not saved: the one before it is.
    assert missing == [99, 119, 139, 160]
    # In every twenty the first that can be, no two of them closer.
    assert sorted(set(marks)) == [0, 20, 40, 60, 80, 100, 120, 140, 161, 181]


def test_no_range_yet():
    """At the start, and from a step on which trains another function."""
    energy, variance = _calm(300)
    variance[19:] *= 1e3
    assert _lost(_history(energy, variance)) is None
    assert _lost(_history(energy[1:], variance[1:])) is None
    variance[250:] *= 1e3
    assert _lost(_history(energy, variance)) == (270, 202)
    assert _lost(_history(energy, variance), (0, 250)) is None


def test_converged_to_nothing():
    """Ratios of variances of an eigenstate mean nothing."""
    rng = np.random.default_rng(0)
    variance = np.append(np.full(200, 1e-20), 1e-6 * rng.uniform(size=200))
    assert _lost(_history(-0.5 + 1e-3 * np.sqrt(variance), variance)) is None


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    tail=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    width=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_heavy_tails_are_none(seed, tail, width):
    """2000 independent steps with variances whose tails are so heavy that they have no
    variance, or no mean, themselves, and energies that scatter with them. A false alarm
    has a probability below 2000 times 7e-12."""
    rng = np.random.default_rng(seed)
    variance = 1 + rng.pareto(tail, size=2000)
    variance *= np.exp(width * rng.normal(size=2000))
    energy = np.sqrt(variance / 256) * rng.standard_t(2, size=2000)
    assert _lost(_history(energy, variance)) is None


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    growth=st.sampled_from([1.08, 1.3, 2.0, 10.0]),
    start=st.integers(120, 400),
)
def test_sustained_growth_is_one(seed, growth, start):
    """By 8 percent per step and more."""
    energy, variance = _calm(start + 100, seed)
    variance[start:] *= growth ** np.arange(1, 101)
    step, good = _lost(_history(energy, variance))
    assert start + 20 <= step and good <= step - 39


@settings(max_examples=10)
@given(
    seed=st.integers(0, 2**32 - 1),
    growth=st.sampled_from([1.005, 1.01, 1.035, 1.06]),
    start=st.integers(100, 400),
)
def test_creeping_growth_is_one(seed, growth, start):
    """Whose range of the last hundred steps goes with it. The state to go back to is
    not lost itself."""
    energy, variance = _calm(start + 1200, seed)
    grown = growth ** np.maximum(np.arange(start + 1200) - start, 0)
    # As far as there are numbers.
    step, good = _lost(_history(energy, variance * np.minimum(grown, 1e9)))
    assert grown[step] < 1e4 and grown[good] < 20 and step - good > 39


def test_creeping_energy_is_one():
    """By 0.1 Ha per step, with a standard deviation of the local energy of 1.7 Ha."""
    energy, variance = _calm(600)
    energy += 0.1 * np.maximum(np.arange(600) - 200, 0)
    step, good = _lost(_history(energy, variance))
    assert energy[step] < energy[0] + 25 and energy[good] < energy[0] + 7


def test_growth_to_a_few_times_as_much_is_none():
    """Over hundreds of steps, as of other learning rates."""
    energy, variance = _calm(2000)
    variance *= np.clip(1.01 ** (np.arange(2000) - 500.0), 1, 30)
    energy += np.clip(0.01 * (np.arange(2000) - 500.0), 0, 8)
    assert _lost(_history(energy, variance)) is None


def _kicks(history):
    watch = Watch((0, 250), {name: column[:0] for name, column in history.items()})
    found = []
    for i in range(len(history["step"])):
        watch.see(i + 1, {name: history[name].item(i) for name in _NAMES})
        assert not watch.lost
        if watch.kick:
            found.append((i + 1, watch.kick))
    return found


@pytest.mark.parametrize("begin", [1, 3, 19])
@pytest.mark.parametrize("name", ["energy", "variance"])
def test_kick_at_the_start(begin, name):
    """By the first update or a later one: told once, when it has lasted for 20 steps.
    None of these is a mark."""
    history = _history(*_calm(250))
    history[name][begin : begin + 19] += 3000
    assert not _kicks(history)
    history[name][begin : begin + 30] += 3000
    ((step, told),) = _kicks(history)
    assert step == begin + 20
    assert "for 20 steps, energy or variance have been far above what they were" in told
    watch = Watch((0,), {name: column[:60] for name, column in history.items()})
    # The first states after it, as far from each other as marks are.
    late = begin + 30
    assert watch.marks == ([late, late + 20] if late < 40 else [0, late])


def test_kick_of_a_later_strategy():
    """By comparison with its own first steps."""
    energy, variance = _calm(400)
    variance[:250], energy[:250] = 2000, -20
    variance[255:285] = 1000
    ((step, _),) = _kicks(_history(energy, variance))
    assert step == 275


def test_no_kick():
    """Falling from any height, or rising to a few times as much."""
    energy, variance = _calm(200)
    time = np.arange(200)
    for rate in (0.005, 0.05, 0.5):
        fall = np.exp(-rate * time)
        assert not _kicks(_history(energy + 50 * fall, variance * (1 + 1e4 * fall)))
    rise = np.minimum(time, 20)
    assert not _kicks(_history(energy + 0.2 * rise, variance * (1 + rise / 10)))


def test_resumed_at_any_step():
    """All of it follows from the history."""
    energy, variance = _calm(260)
    variance[230:] *= 100
    history = _history(energy, variance)
    whole = Watch((0,), history)
    for cut in (0, 99, 150, 231, 245, 260):
        watch = Watch((0,), {name: column[:cut] for name, column in history.items()})
        for i in range(cut, 260):
            watch.see(i + 1, {name: history[name].item(i) for name in _NAMES})
        assert vars(watch).keys() == vars(whole).keys()
        assert (watch.outside, watch.first) == (whole.outside, whole.first) == (30, 231)
        assert watch.marks == whole.marks == [180, 200]


class Overshooting(eqs.AbstractOptimizer):
    """Nothing for 130 steps, and then steps towards all parameters 0, which is the
    ground state, too long by some factor."""

    factor: float

    def init(self, parameters):
        return Counting()

    def step(self, scores, residual, state):
        factor = jnp.where(state.count < 130, 0.0, self.factor)
        update = jax.tree.map(lambda x: -factor * x, scores.parameters)
        return update, Counting(state.count + 1)


def _run(path, factor, **kwargs):
    vmc = eqs.VMC(
        Lattice(hydrogen(), 0.0), eqs.Metropolis(1), Overshooting(factor), chunk=None
    )
    return eqs.run(
        vmc,
        waves(a=(0.3, 0.2, 0.1)),
        key=jax.random.key(1),
        path=path,
        progress=False,
        **dict(steps=170, walkers=16, burn_in=1, checkpoint_every=30) | kwargs,
    )


@pytest.fixture(scope="module")
def back(tmp_path_factory):
    """A run whose error doubles in every step, and halves with half of each update;
    and its folder."""
    path = tmp_path_factory.mktemp("back") / "run"
    return _run(path, 3.0), path


def test_goes_back_once_with_half_the_step(back):
    found, path = back
    assert found.state.scale == 0.5
    # From step 130 on they are divided by -2.
    np.testing.assert_allclose(
        found.wavefunction.a, np.array([0.3, 0.2, 0.1]) / 2**40, rtol=1e-12
    )
    history = read_history(path / "history.csv")
    np.testing.assert_array_equal(history["step"], np.arange(1, 171))
    np.testing.assert_array_equal(history["energy"], found.history["energy"])
    assert np.max(history["variance"]) < 1
    assert eqs.checkpoint.latest(path / "checkpoints") == 170
    (session,) = json.loads((path / "run.json").read_text())["sessions"]
    (note,) = session["went_back"]
    assert note == {"at_step": 152, "to_step": 100, "scale": 0.5}


def test_rows_are_on_the_disk_before_their_checkpoint(tmp_path, monkeypatch):
    """Also of the state that it goes back to, which no checkpoint had been of: a run
    that is killed then decides as if it had not been."""
    save, found = phases_module.save_checkpoint, []

    def saving(folder, step, *others, **kwargs):
        if folder.name == "checkpoints":
            file = folder.parent / "history.csv"
            found.append((step, file.read_text().count("\n") - 1))
        save(folder, step, *others, **kwargs)

    monkeypatch.setattr(history_module, "_SECONDS", 1e9)
    monkeypatch.setattr(phases_module, "save_checkpoint", saving)
    _run(tmp_path, 3.0, checkpoint_every=1000)
    (_, started), *rest = found
    assert started == 0 and rest[0] == (100, 152) and rest[-1] == (170, 170)
    assert all(rows >= step for step, rows in rest)


def test_without_a_folder_it_goes_back_too(back):
    """A callback sees the state that it goes back to, and steps that come again."""
    seen = []
    found = _run(None, 3.0, callback=lambda n, _, s: seen.append((n, int(s.step))))
    assert eqx.tree_equal(found.state, back[0].state)
    numbers = [*range(1, 153), *range(101, 171)]
    assert seen == [(n, n) for n in numbers[:151]] + [(152, 100)] + [
        (n, n) for n in numbers[152:]
    ]


def test_goes_back_to_another_number_of_walkers(tmp_path):
    """Bit for bit the same whether the run was resumed or not in between, which reads
    the state to go back to again; that state is then saved with the new number."""
    _run(tmp_path / "one", 3.0, steps=120)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    once = _run(tmp_path / "one", 3.0, walkers=6, changed_settings=True)
    _run(tmp_path / "two", 3.0, steps=140, walkers=6, changed_settings=True)

    def stop(step, statistics, state):
        if step > state.step:
            raise StopIteration

    assert _run(tmp_path / "two", 3.0, walkers=6, callback=stop).step == 100
    twice = _run(tmp_path / "two", 3.0, walkers=6)
    assert once.state.scale == 0.5 and once.walkers.shape == (6, 1, 3)
    assert eqx.tree_equal(once.state, twice.state)


def _interrupted(monkeypatch, path, rows, factor=3.0, **kwargs):
    """Ctrl-C after so many steps. Returns the step that is saved."""
    append, left = History.append, [rows]

    def appended(self, row):
        append(self, row)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(History, "append", appended)
        _run(path, factor, **kwargs)
    return eqs.checkpoint.latest(path / "checkpoints")


def test_interrupted_run_goes_back_too(tmp_path, back, monkeypatch, caplog):
    """To the same state, bit for bit: interrupted before, twice while energies are
    outside of their range, when no state is saved, and after."""
    for rows, saved in ((117, 116), (22, 131), (12, 131), (40, 118)):
        assert _interrupted(monkeypatch, tmp_path, rows) == saved
    found = _run(tmp_path, 3.0)
    assert eqx.tree_equal(found.state, back[0].state)
    for name in found.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(found.history[name], back[0].history[name])
    assert sum("It goes back to step 100" in m for m in caplog.messages) == 1


def test_goes_back_to_an_earlier_stage(tmp_path, back, monkeypatch):
    """And comes to the switch again, as if nothing had been; interrupted after both."""
    group = eqs.SpaceGroup.of(hydrogen())
    stages = [(110, eqs.AugmentedTraining(group, 1, weighted=False))]
    expected = _run(None, 3.0, stages=stages).state
    assert expected.scale == 0.5 and hasattr(expected.strategy, "draw")
    np.testing.assert_allclose(expected.wavefunction.a, back[0].wavefunction.a)
    # Once before, and twice after it has gone back: before the switch and after it.
    for rows, saved in ((116, 115), (45, 107), (5, 111)):
        found = _interrupted(monkeypatch, tmp_path, rows, stages=stages)
        assert found == saved
    assert eqx.tree_equal(_run(tmp_path, 3.0, stages=stages).state, expected)


def test_goes_back_before_settings_changed(tmp_path, back, monkeypatch):
    """They stay changed: the state from before is saved with those of now."""
    assert _interrupted(monkeypatch, tmp_path, 117) == 116
    changes = dict(burn_in=2, changed_settings=True)
    # One step after it has gone back from step 152.
    assert _interrupted(monkeypatch, tmp_path, 37, **changes) == 100
    assert eqx.tree_equal(_run(tmp_path, 3.0, burn_in=2).state, back[0].state)


def test_nothing_goes_back_to_states_of_other_stages(tmp_path, monkeypatch, caplog):
    """They have another structure, and the run goes on without them."""
    strategy = eqs.AugmentedTraining(eqs.SpaceGroup.of(hydrogen()), 1, weighted=False)
    _interrupted(monkeypatch, tmp_path, 117, stages=[(110, strategy)])
    changed = dict(stages=[(50, strategy)], changed_settings=True)
    assert _interrupted(monkeypatch, tmp_path, 3, **changed) == 118
    *_, message = (m for m in caplog.messages if "Nothing can go back" in m)
    assert message.startswith("Nothing can go back to step 100: The checkpoint")
    assert "state.strategy: saved eqsym.NoState, here eqsym.DrawnKey" in message


def test_stops_the_second_time(tmp_path, caplog):
    """With advice, a good state in the folder, and a history of all steps."""
    with pytest.raises(FloatingPointError) as caught:
        _run(tmp_path, 7.0)
    message = str(caught.value)
    # Rounding decides about a step more or less.
    again = "diverged again, with half of each update: since step 13.,"
    assert re.search(again, message)
    assert "Step 100, before that, is saved. Try a smaller learning rate" in message
    assert re.match(r"Step 15.: training diverges: since step 13.,", caplog.messages[0])
    assert "goes back to step 100 and on with half of each update" in caplog.text
    good = eqs.load_run(tmp_path, waves())
    assert good.step == 100
    np.testing.assert_array_equal(good.wavefunction.a, [0.3, 0.2, 0.1])
    assert 150 <= len(good.history["step"]) < 160
    assert good.history["variance"][-1] > 1e9


@pytest.mark.parametrize("rows", [0, 132])
def test_a_jump_in_one_update(tmp_path, monkeypatch, caplog, rows):
    """To parameters so large that no walker has a finite energy: the state that this
    update led to is not a good one, not even if the run was interrupted there."""
    if rows:
        assert _interrupted(monkeypatch, tmp_path, rows, 1e200) == 131
    with pytest.raises(FloatingPointError) as caught:
        _run(tmp_path, 1e200)
    assert "Step 151: training diverges: since step 132, energies are" in caplog.text
    message = str(caught.value)
    assert "diverged again, with half of each update: since step 132, ener" in message
    assert "The last 20 updates, up to step 151, were rejected. In 20 of th" in message
    assert "Step 100, before that, is saved." in message
    good = eqs.load_run(tmp_path, waves())
    assert good.step == 100
    np.testing.assert_array_equal(good.wavefunction.a, [0.3, 0.2, 0.1])


def _descent(rate, path=None, steps=30):
    vmc = eqs.VMC(Lattice(hydrogen()), eqs.Metropolis(5), eqs.Optax(rate))
    return eqs.run(
        vmc,
        waves(a=(0.1, 0.1, 0.1)),
        steps=steps,
        walkers=64,
        key=jax.random.key(0),
        path=path,
        progress=False,
    )


def test_lost_from_the_start(tmp_path):
    """Back to the start, which is not advised as the result of training."""
    with pytest.raises(FloatingPointError) as caught:
        _descent(optax.sgd(10.0), tmp_path, 60)
    message = str(caught.value)
    assert "Step 0, before that, is saved." in message
    assert "from the start." in message and "load_run" not in message
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 0


def test_run_that_is_kicked(caplog):
    """A run tells of it."""
    assert np.min(_descent(optax.adam(100.0)).history["variance"][1:20]) > 1e3
    (message,) = [m for m in caplog.messages if "Training recovers" in m]
    assert message.startswith("Step 21: for 20 steps, energy or variance have been")


def test_energies_that_have_risen():
    """Said of a rise larger than the scatter, anywhere in the run; not of a flat or a
    falling one, of few steps, or of more than 3 of 400 runs whose steps are correlated
    as 0.8^distance: with 1 in 300 of them, 4 are found in 5 % of all cases."""
    rng = np.random.default_rng(0)
    noise = 0.02 * rng.normal(size=450)
    assert risen(-8 + noise + np.linspace(0.3, 0, 450)) == ""
    assert "in steps 51 to 150" in risen(-8 + noise + np.linspace(0, 0.3, 450))
    back = np.r_[np.linspace(0.3, 0, 250), np.linspace(0, 0.3, 200)]
    assert "in steps 151 to 250" in risen(-8 + noise + back)
    assert risen(-8 + noise[:98] + np.linspace(0, 1, 98)) == ""
    shocks = rng.normal(size=(400, 100))
    for i in range(1, 100):
        shocks[:, i] = 0.8 * shocks[:, i - 1] + 0.6 * shocks[:, i]
    assert sum(bool(risen(-8 + 0.02 * run)) for run in shocks) <= 3


def test_a_run_that_ends_worse_says_so(caplog):
    """Its energy is maximized."""
    crystal = hydrogen()
    climbing = eqs.Optax(optax.sgd(-3e-3))
    eqs.run(
        eqs.VMC(Lattice(crystal), eqs.Metropolis(2), climbing),
        waves(crystal, b=(0.1, 0.2, 0.3)),
        steps=110,
        walkers=64,
        key=jax.random.key(0),
        progress=False,
    )
    assert "Training ends worse than it was: energies have risen" in caplog.text
