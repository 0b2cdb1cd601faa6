"""Training runs: resuming, interrupting, what is refused before any computation."""

import os
import shutil
import signal

import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import eqsym as eqs
from eqsym._run import loop as run_module, phases as phases_module
from eqsym._run.phases import Checkpoints
from eqsym._symmetrizer import SubsetAverage
from toys import Counting, hydrogen, Lattice, small_network, walkers, waves


_CRYSTAL = hydrogen()
_OTHER = hydrogen(supercell=(2, 1, 1))


def _run(path, steps, *, optimizer=None, wavefunction=None, **kwargs):
    vmc = eqs.VMC(
        Lattice(_CRYSTAL),
        eqs.Metropolis(2),
        eqs.Spring(0.1) if optimizer is None else optimizer,
    )
    defaults = dict(walkers=6, checkpoint_every=3, burn_in=1, progress=False)
    kwargs = defaults | kwargs
    return eqs.run(
        vmc,
        waves(c=(0.1, 0.2, 0.3)) if wavefunction is None else wavefunction,
        steps=steps,
        key=jax.random.key(5),
        path=path,
        **kwargs,
    )


def _numbers(tree):
    return [
        jax.random.key_data(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else x
        for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]


def _same(one, other):
    """Bit for bit: wave function, walkers, width, key, optimizer, history."""
    assert jax.tree.structure(one.state) == jax.tree.structure(other.state)
    for a, b in zip(_numbers(one.state), _numbers(other.state), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.history.keys() == other.history.keys()
    for name in one.history.keys() - {"seconds"}:
        np.testing.assert_array_equal(one.history[name], other.history[name])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight steps without interruption, and their folder."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return _run(path, 8), path


def test_history_and_state(whole):
    result, path = whole
    assert int(result.state.step) == 8
    np.testing.assert_array_equal(result.history["step"], np.arange(1, 9))
    assert np.all(np.diff(result.history["seconds"]) >= 0)
    assert result.walkers.shape == (6, 1, 3)
    assert result.wavefunction is result.state.wavefunction
    rows = np.genfromtxt(path / "history.csv", delimiter=",", names=True)
    for name, values in result.history.items():
        np.testing.assert_array_equal(rows[name], values)
    assert eqs.checkpoint.latest(path / "checkpoints") == 8


def test_without_a_folder(whole):
    _same(_run(None, 8), whole[0])


@pytest.mark.parametrize("optimizer", [None, eqs.Optax(optax.adam(1e-2))])
def test_prolonged_is_bit_for_bit_the_whole(tmp_path, whole, optimizer):
    # Between two checkpoints, so that the last state is saved out of turn.
    _run(tmp_path, 5, optimizer=optimizer)
    resumed = _run(tmp_path, 8, optimizer=optimizer)
    expected = whole[0] if optimizer is None else _run(None, 8, optimizer=optimizer)
    _same(resumed, expected)


def test_finished_run_does_nothing_more(tmp_path, whole):
    shutil.copytree(whole[1], tmp_path / "run")
    before = (tmp_path / "run" / "history.csv").read_text()
    _same(_run(tmp_path / "run", 8), whole[0])
    assert (tmp_path / "run" / "history.csv").read_text() == before


_GROUP = eqs.SpaceGroup.of(_CRYSTAL)
_STAGES = [
    (3, eqs.AugmentedTraining(_GROUP, 2)),
    (5, eqs.SymmetrizedTraining(eqs.RandomSubset(_GROUP, 2))),
]


def test_stages(tmp_path, whole):
    """Bit for bit, resumed just before, at and after a switch; and only there another
    run than without stages."""
    expected = _run(None, 8, stages=_STAGES)
    for steps in (2, 3, 4, 5, 6, 8):
        resumed = _run(tmp_path, steps, stages=_STAGES)
        assert eqs.checkpoint.latest(tmp_path / "checkpoints") == steps
    _same(resumed, expected)
    energies, plain = expected.history["energy"], whole[0].history["energy"]
    np.testing.assert_array_equal(energies[:3], plain[:3])
    assert not np.any(energies[3:] == plain[3:])
    assert int(expected.state.optimizer.count) == 8
    symmetrizer = expected.state.strategy.symmetrizer
    assert isinstance(symmetrizer, SubsetAverage)


def test_stages_draw_with_keys_of_their_own():
    """The same strategy twice: not the same draws."""
    twice = [(start, eqs.AugmentedTraining(_GROUP, 1)) for start in (1, 2)]
    first, second = (_run(None, n, stages=twice).state.strategy for n in (2, 3))
    seeds = [
        jax.random.key_data(key).tolist()
        for strategy in (first, second)
        for key in (strategy.draw, strategy.key)
    ]
    assert len({str(seed) for seed in seeds}) == 4


class _Interrupt:
    """Stands in for a function: Ctrl-C in its n-th call, before or after it did its
    work."""

    def __init__(self, function, call, after):
        self.function, self.left, self.after = function, call, after

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0 and not self.after:
            raise KeyboardInterrupt
        result = self.function(*args, **kwargs)
        if self.left == 0 and self.after:
            raise KeyboardInterrupt
        return result


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("where", "call"),
    # The fifth row of the history; the checkpoints after burn-in, at the start of
    # training and of step 3.
    [("append", 5), *(("save_checkpoint", call) for call in (1, 2, 3))],
)
def test_interrupted_run_goes_on(tmp_path, whole, monkeypatch, where, call, after):
    with monkeypatch.context() as patch:
        owner = run_module.History if where == "append" else phases_module
        interrupt = _Interrupt(getattr(owner, where), call, after)
        stand_in = interrupt if owner is phases_module else lambda *a: interrupt(*a)
        patch.setattr(owner, where, stand_in)
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, 8)
    if where == "append":
        # Saved on the way out, not only every third step.
        assert eqs.checkpoint.latest(tmp_path / "checkpoints") == 4
    _same(_run(tmp_path, 8), whole[0])


def test_terminated_run_saves(tmp_path, whole, monkeypatch):
    """By SIGTERM, as clusters do; afterwards the signal means what it meant before."""
    append = run_module.History.append

    def terminated(self, row):
        append(self, row)
        if row["step"] == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(run_module.History, "append", terminated)
        with pytest.raises(SystemExit) as caught:
            _run(tmp_path, 8)
    assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert eqs.checkpoint.latest(tmp_path / "checkpoints") in (4, 5)
    _same(_run(tmp_path, 8), whole[0])


def _signal_at(patch, phase, step, number, *, killed=False):
    """A signal in a step of a phase, or an end after which nothing is saved."""
    keep = Checkpoints.keep

    def signaled(self, state, done, *others):
        if self._phase == phase and done == step:
            os.kill(os.getpid(), number)
        keep(self, state, done, *others)

    patch.setattr(Checkpoints, "keep", signaled)
    if killed:
        patch.setattr(Checkpoints, "_save_last", lambda self, state, ended: None)


def _interrupted(run, path, monkeypatch, caplog, *cases):
    """Runs that end in a phase, at a step, by a signal or by a kill, and leave a
    checkpoint of a step."""
    for phase, step, number, killed, left in cases:
        kind = KeyboardInterrupt if number == signal.SIGINT else SystemExit
        with monkeypatch.context() as patch, pytest.raises(kind):
            _signal_at(patch, phase, step, number, killed=killed)
            run(path)
        place = path / "checkpoints" / phase
        assert eqs.checkpoint.latest(place) == left
        if not killed:
            assert caplog.messages[-1] == (
                f"The {phase} was interrupted. Saved step {left} in {place}; run again "
                "to go on."
            )
        with pytest.raises(FileNotFoundError, match=f"at step {left} of its {phase}"):
            eqs.load_run(path)


def test_burn_in_saves_and_goes_on(tmp_path, monkeypatch, caplog):
    """Bit for bit: interrupted, and killed."""

    def run(path):
        return _run(path, 2, burn_in=6, checkpoint_every=2)

    _interrupted(
        run,
        tmp_path,
        monkeypatch,
        caplog,
        ("burn-in", 1, signal.SIGINT, False, 1),
        ("burn-in", 5, signal.SIGINT, True, 4),
        ("burn-in", 5, signal.SIGTERM, False, 5),
    )
    _same(run(tmp_path), run(None))
    # Of the phases that are over nothing is left.
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0", "2"]


@pytest.mark.slow
def test_pretraining_saves_and_goes_on(tmp_path, monkeypatch, caplog):
    """Bit for bit: interrupted, and killed, in pretraining and after it."""
    mean_field = eqs.MeanField.solve(_CRYSTAL, basis="sto-3g")
    network = small_network(_CRYSTAL, np.zeros((1, 3)), np.zeros((0, 3)))
    pretraining = eqs.Pretraining(mean_field, 4, sampler=eqs.Metropolis(1))
    settings = dict(wavefunction=network, pretraining=pretraining)

    def run(path):
        return _run(path, 2, checkpoint_every=2, **settings)

    _interrupted(
        run,
        tmp_path,
        monkeypatch,
        caplog,
        ("pretraining", 1, signal.SIGTERM, False, 1),
        ("pretraining", 3, signal.SIGINT, True, 2),
        ("pretraining", 3, signal.SIGINT, False, 3),
        ("burn-in", 1, signal.SIGINT, False, 1),
    )
    _same(run(tmp_path), run(None))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["0", "2"]


def test_killed_run_goes_on(tmp_path, whole):
    """Killed after step 7, in the middle of a row: no checkpoint was saved on the way
    out."""
    shutil.copytree(whole[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    history = tmp_path / "run" / "history.csv"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join(lines[:8]) + lines[8][:11])
    assert eqs.checkpoint.latest(tmp_path / "run" / "checkpoints") == 6
    _same(_run(tmp_path / "run", 8), whole[0])


def test_walkers_and_key_decide(whole):
    given = walkers(_CRYSTAL, 6)
    first, again = (_run(None, 2, walkers=given) for _ in range(2))
    _same(first, again)
    assert not np.any(first.history["energy"] == whole[0].history["energy"][:2])


def test_first_configurations_of_any_kind():
    places = walkers(_CRYSTAL, 2)
    expected = _run(None, 1, walkers=places)
    for given in (np.asarray(places), places.tolist()):
        _same(_run(None, 1, walkers=given), expected)
    _run(None, 1, walkers=[[[0, 1, 2]], [[2, 1, 0]]])


def test_shows_progress(capsys):
    """Where asked to, and else on terminals only."""
    for progress in (False, None):
        _run(None, 1, progress=progress)
        assert capsys.readouterr() == ("", "")
    _run(None, 1, progress=True)
    shown = capsys.readouterr().err
    assert "Burn-in: 100%" in shown and "Training: 100%" in shown
    assert "compiling" in shown and "acceptance" in shown


def test_checkpoint_of_another_model(tmp_path, whole):
    shutil.copytree(whole[1], tmp_path / "run")
    other = waves(b=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError) as caught:
        _run(tmp_path / "run", 9, wavefunction=other)
    message = str(caught.value)
    assert str(tmp_path / "run" / "checkpoints" / "8") in message
    assert "state.wavefunction.b: saved None, here float64[3]" in message
    assert "state.wavefunction.c: saved float64[3], here None" in message
    with pytest.raises(ValueError, match="settings.walkers: saved 6, here 7"):
        _run(tmp_path / "run", 9, walkers=7)
    with pytest.raises(ValueError, match="state.optimizer"):
        _run(tmp_path / "run", 9, optimizer=eqs.Optax(optax.adam(1e-2)))
    # Nothing was changed.
    _same(_run(tmp_path / "run", 8), whole[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(steps=0), "`steps` must be at least 1, got 0"),
        (dict(walkers=0), "at least 1 walker, got 0"),
        (dict(checkpoint_every=0), "`checkpoint_every` must be at least 1, got 0"),
        (
            dict(walkers=walkers(_OTHER, 3)),
            "`walkers` must have",
        ),
        (dict(walkers=np.zeros((2, 3, 3))), r"`walkers` must have .*\(2, 3, 3\)"),
        (dict(walkers=[[[0.0, 0.0]], [[0.0]]]), "`walkers` must be a number of"),
        (dict(walkers=np.zeros((2, 1, 3), complex)), "`walkers` must be a number of"),
        (dict(wavefunction=waves(hydrogen(spin=-1))), "must have the same crystal"),
        (dict(stages=[(0, eqs.PlainTraining())]), "`stages` must start after step 0"),
        (dict(stages=[(5, eqs.PlainTraining())] * 2), r"got starts \[5, 5\]"),
        (dict(stages=[(True, eqs.PlainTraining())]), "`stages` must be an integer"),
        (
            # Of another crystal, also if the stage is never reached.
            dict(stages=[(9, eqs.AugmentedTraining(eqs.SpaceGroup.of(_OTHER)))]),
            "crystal",
        ),
    ],
)
def test_errors(tmp_path, change, message):
    steps = change.pop("steps", 2) if "steps" in change else 2
    with pytest.raises(ValueError, match=message):
        _run(tmp_path / "run", steps, **change)
    assert not (tmp_path / "run" / "history.csv").exists()


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            OSError, match="`path` must be a folder that can be written"
        ):
            _run(path, 2)
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OSError, match="`path` must be a folder"):
            _run(tmp_path / "locked", 2)


class _Diverging(eqs.AbstractOptimizer):
    """Finite updates for three steps, then none."""

    def init(self, parameters):
        return Counting()

    def step(self, scores, residual, state):
        size = jax.numpy.where(state.count < 3, 0.01, jax.numpy.nan)
        update = jax.tree.map(lambda x: 0 * x + size, scores.parameters)
        return update, Counting(state.count + 1)


def test_diverged_run_stops_and_keeps_what_was_finite(tmp_path):
    with pytest.raises(FloatingPointError, match="last 20 updates, up to step 23"):
        _run(tmp_path / "run", 40, optimizer=_Diverging())
    history = np.genfromtxt(tmp_path / "run/history.csv", delimiter=",", names=True)
    assert list(history["rejected_update"]) == [0] * 3 + [1] * 20
    assert np.all(np.isfinite(history["energy"]))
    # Gone back to, once: no other is as much older than the first rejected update.
    assert eqs.checkpoint.latest(tmp_path / "run/checkpoints") == 0


def test_pretraining_of_something_else(tmp_path, lih):
    with pytest.raises(
        ValueError,
        match="`pretraining` fits the orbitals of a net",
    ):
        _run(tmp_path / "run", 2, pretraining=eqs.Pretraining(lih, 1))
